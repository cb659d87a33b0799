"""The door itself: an HTTP server on a UNIX socket that asks the engine what its callers may ask."""

import asyncio
import json
import os
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import structlog
from aiodocker import Docker
from aiohttp import hdrs, web

from tci.door.directory import KEEPERS_MODE, open_directory, open_run_directory, remove, take_over
from tci.door.order import ordered_config
from tci.door.request import (
    ON_CONTAINERS,
    AskEngine,
    AskImage,
    Create,
    ListContainers,
    Meaning,
    OnContainer,
    Refused,
    read_request,
)
from tci.kernel.launcher import SOCKET_DIRECTORY
from tci.paths import make_private
from tci.sandbox.docker import open_docker
from tci.sandbox.docker_image import image_tag
from tci.sandbox.docker_spec import DEPLOYMENT_LABEL, SANDBOX_LABEL, container_name
from tci.settings import Settings

log = structlog.get_logger()

MAX_BODY_BYTES = 256 * 1024
"""A container's description is some 20 KiB, most of it the filter of system calls."""

SHOWN_INFO = frozenset(
    {"CgroupVersion", "CpuCfsPeriod", "CpuCfsQuota", "DefaultRuntime", "DockerRootDir", "Driver", "LiveRestoreEnabled"}
    | {"MemoryLimit", "PidsLimit", "Runtimes", "SecurityOptions", "SwapLimit"}
)
"""What `tci doctor` judges an engine by; the rest may hold a proxy's password."""

SHOWN_CONTAINER = frozenset({"Id", "Labels", "Names", "State"})

Answer = tuple[int, bytes]
"""The engine's status and body."""


async def serve_door(settings: Settings, *, socket: Path) -> None:
    """Keep the door open until cancelled."""
    make_private(settings.data_dir)
    make_private(socket.parent)
    socket.unlink(missing_ok=True)  # noqa: ASYNC240 (nothing else runs yet)
    open_run_directory(settings.run_dir)
    open_directory(settings.keepers_dir, KEEPERS_MODE)
    async with open_docker(settings) as engine:
        runner = web.ServerRunner(web.Server(Door(engine, settings=settings).answer))
        await runner.setup()
        try:
            await web.UnixSite(runner, str(socket)).start()
            os.chmod(socket, 0o660)  # noqa: PTH101 (for the door's group, which the service has)
            log.info("The door is open", socket=str(socket), engine=engine.api_version)
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()


class Door:
    """Decides each request, and asks the engine in its own words."""

    def __init__(self, engine: Docker, *, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request: with the engine's answer, or with 403 and a sentence."""
        try:
            meaning = read_request(request.method, request.raw_path)
            body = await self._body(request, meaning)
            status, told = await self._ask(meaning, body)
        except Refused as refusal:
            log.warning("Refused", method=request.method[:10], target=request.raw_path[:200], reason=str(refusal))
            return _message(HTTPStatus.FORBIDDEN, str(refusal))
        except (aiohttp.ClientError, OSError) as error:
            log.warning("The engine does not answer", error=str(error))
            return _message(HTTPStatus.BAD_GATEWAY, f"The engine does not answer the door: {error}")
        empty = status in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}
        return web.Response(status=status, body=None if empty else told, content_type="application/json")

    async def _body(self, request: web.BaseRequest, meaning: Meaning) -> bytes:
        if hdrs.UPGRADE in request.headers:
            raise Refused("The door does not change protocols.")
        if not request.body_exists:
            return b""
        if not isinstance(meaning, Create):
            raise Refused("This request has no body.")
        if (request.content_length or 0) > MAX_BODY_BYTES or hdrs.TRANSFER_ENCODING in request.headers:
            raise Refused("The body is too long, or its length is not told.")
        return await request.read()

    async def _ask(self, meaning: Meaning, body: bytes) -> Answer:
        match meaning:
            case AskEngine("_ping"):
                return await self._send("GET", "_ping")
            case AskEngine("info"):
                return _shown(await self._send("GET", "info"), SHOWN_INFO)
            case AskEngine(what):
                return await self._send("GET", what)
            case AskImage():
                return await self._send("GET", f"images/{image_tag()}/json")
            case ListContainers(deployment):
                return await self._list(deployment)
            case Create(sandbox_id):
                return await self._create(sandbox_id, body)
            case OnContainer("delete", sandbox_id):
                return await self._delete(sandbox_id)
            case OnContainer(verb, sandbox_id):
                found, told = await self._find(sandbox_id)
                return await self._do(verb, found) if found else told

    async def _create(self, sandbox_id: str, body: bytes) -> Answer:
        config = ordered_config(body, sandbox_id=sandbox_id, settings=self._settings)
        take_over(self._settings.run_dir / sandbox_id)
        return await self._send("POST", "containers/create", {"name": container_name(sandbox_id)}, json.dumps(config))

    async def _delete(self, sandbox_id: str) -> Answer:
        found, told = await self._find(sandbox_id)
        if found:
            told = await self._do("delete", found)
        if told[0] in {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_FOUND}:
            await asyncio.to_thread(remove, self._settings.run_dir / sandbox_id)
        return told

    async def _do(self, verb: str, container_id: str) -> Answer:
        method, end, query = ON_CONTAINERS[verb]  # type: ignore[index]
        return await self._send(method, f"containers/{container_id}{end}", query)

    async def _find(self, sandbox_id: str) -> tuple[str | None, Answer]:
        """Return the id of a sandbox's container and what the engine says of it; raises Refused if it is not ours."""
        status, told = await self._send("GET", f"containers/{container_name(sandbox_id)}/json")
        if status != HTTPStatus.OK:
            return None, (status, told)
        container = json.loads(told)
        if not self._is_ours(sandbox_id, container["Config"]["Labels"], container["Mounts"]):
            raise Refused("The container of this name is not this installation's.")
        return str(container["Id"]), (status, told)

    async def _list(self, deployment: str) -> Answer:
        filters = {"label": [f"{DEPLOYMENT_LABEL}={deployment}"]}
        status, told = await self._send("GET", "containers/json", {"all": "1", "filters": json.dumps(filters)})
        if status != HTTPStatus.OK:
            return status, told
        found = [
            {name: value for name, value in container.items() if name in SHOWN_CONTAINER}
            for container in json.loads(told)
            if self._is_ours(container["Labels"].get(SANDBOX_LABEL, ""), container["Labels"], container["Mounts"])
        ]
        return status, json.dumps(found).encode()

    def _is_ours(self, sandbox_id: str, labels: Mapping[str, str] | None, mounts: list[dict[str, Any]]) -> bool:
        """Whether a container is a sandbox whose sockets are in our run directory: labels can be anybody's."""
        named = labels is not None and DEPLOYMENT_LABEL in labels and labels.get(SANDBOX_LABEL) == sandbox_id
        source = str(self._settings.run_dir / sandbox_id)
        return named and any(
            mount.get("Source") == source and mount.get("Destination") == SOCKET_DIRECTORY for mount in mounts
        )

    async def _send(self, method: str, path: str, query: Mapping[str, str] | None = None, body: str = "") -> Answer:
        url = f"{self._engine.docker_host}/{self._engine.api_version}/{quote(path, safe='/:')}"
        headers = {"Content-Type": "application/json"}
        timeout = aiohttp.ClientTimeout(total=None)
        async with self._engine.session.request(
            method, url, params=query, data=body or None, headers=headers, timeout=timeout
        ) as answer:
            return answer.status, await answer.read()


def _shown(answer: Answer, names: frozenset[str]) -> Answer:
    status, told = answer
    if status != HTTPStatus.OK:
        return answer
    return status, json.dumps({name: value for name, value in json.loads(told).items() if name in names}).encode()


def _message(status: HTTPStatus, text: str) -> web.Response:
    """Return a failure in the engine's own form."""
    return web.Response(status=status, body=json.dumps({"message": text}).encode(), content_type="application/json")
