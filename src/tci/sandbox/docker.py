"""The Docker driver: one container for each sandbox, on any engine that answers on its socket."""

import asyncio
import datetime as dt
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from typing import Any

import aiohttp
from aiodocker import Docker, DockerError
from typing_extensions import override

from tci import resources
from tci.errors import EngineAway, SandboxFailed, SetupError
from tci.sandbox.cgroup import Cgroup, cgroup_of, cgroup_of_container
from tci.sandbox.docker_image import image_tag
from tci.sandbox.docker_spec import (
    DEPLOYMENT_LABEL,
    SANDBOX_LABEL,
    Confinement,
    container_config,
    container_name,
)
from tci.sandbox.driver import SandboxDriver, SandboxSpec, SandboxStatus, Usage, finish
from tci.sandbox.socket_directory import (
    make_socket_directory,
    remove_socket_directory,
    seal_socket_directory,
)
from tci.settings import Settings

KILLED = 128 + signal.SIGKILL
"""Exit status of a process that was killed outright, as by the kernel when memory is used up."""

NO_CONNECTION = 900
"""What aiodocker has for a status where it could not connect."""

ANSWER_SECONDS = 5.0
"""How long the engine may take to say that it is there."""

LOOK_SECONDS = 2.0
"""How long it may take when whoever asks has to answer soon himself."""


@asynccontextmanager
async def open_docker(settings: Settings) -> AsyncIterator[Docker]:
    """Connect to the engine for as long as the block lasts; raises SetupError where none answers."""
    try:
        engine = Docker(url=settings.docker_host, timeout=aiohttp.ClientTimeout(sock_connect=ANSWER_SECONDS))
    except (ValueError, OSError, AssertionError) as error:  # aiodocker asserts that some socket was found
        message = (
            f"No Docker engine was found ({error}). Install one, or set TCI_DOCKER_HOST or TCI_SANDBOX=bubblewrap."
        )
        raise SetupError(message) from error
    async with engine:
        try:
            await engine.version()
        except (DockerError, aiohttp.ClientError, TimeoutError, OSError) as error:
            message = (
                f"The Docker engine does not answer ({error}). Start it, allow this user to reach its socket"
                " (the group 'docker'), or set TCI_SANDBOX=bubblewrap."
            )
            raise SetupError(message) from error
        yield engine


async def engine_url(settings: Settings) -> str | None:
    """Return where the engine would be asked, without asking it; None where nothing names one.

    TLS is told by the scheme `https`, whatever way it was set.
    """
    try:
        engine = Docker(url=settings.docker_host)
    except (ValueError, OSError, AssertionError):
        return None
    async with engine:
        if isinstance(engine.connector, aiohttp.UnixConnector):
            return f"unix://{engine.connector.path}"  # of which aiodocker itself keeps only a name that stands for it
        return engine.docker_host


class DockerDriver(SandboxDriver):
    """Sandboxes as containers."""

    name = "docker"

    def __init__(self, engine: Docker, *, settings: Settings, deployment: str) -> None:
        self._engine = engine
        self._run_dir = settings.run_dir
        self._deployment = deployment
        self._image = image_tag()
        self._confinement = Confinement(
            seccomp=resources.seccomp_profile(),
            apparmor=settings.docker_apparmor,
            runtime=settings.docker_runtime,
        )
        self._cgroups: dict[str, Cgroup | None] = {}
        self._peaks: dict[str, int] = {}
        """Most memory seen of sandboxes of which the engine tells only what they use now (control groups 2)."""
        self._destroying: dict[str, asyncio.Task[None]] = {}

    @override
    async def answers(self) -> bool:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await self._engine.version()
        except (DockerError, aiohttp.ClientError, TimeoutError, OSError):
            return False
        return True

    async def require_image(self) -> None:
        """Raise SetupError unless the image of this version is there."""
        try:
            await self._engine.images.inspect(self._image)
        except DockerError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            message = f"The sandbox image {self._image} is not built. Run 'tci sandbox prepare'."
            raise SetupError(message) from error

    @override
    async def launch(self, spec: SandboxSpec) -> None:
        make_socket_directory(spec.socket_directory)
        config = container_config(spec, image=self._image, confinement=self._confinement)
        try:
            await finish(self._start(spec.sandbox_id, config))
        except BaseException:
            await self.destroy(spec.sandbox_id)
            raise

    async def _start(self, sandbox_id: str, config: dict[str, Any]) -> None:
        with _translated(f"start sandbox {sandbox_id}"):
            name = container_name(sandbox_id)
            await self._engine.containers.create(config, name=name)
            await self._engine.containers.container(name).start()  # the door knows sandboxes by name alone

    @override
    async def seal(self, spec: SandboxSpec) -> None:
        seal_socket_directory(spec.socket_directory)

    @override
    async def inspect(self, sandbox_id: str) -> SandboxStatus | None:
        with _translated(f"inspect sandbox {sandbox_id}"):
            try:
                found = await self._engine.containers.container(container_name(sandbox_id)).show()
            except DockerError as error:
                if error.status == HTTPStatus.NOT_FOUND:
                    return None
                raise
        state: dict[str, Any] = found["State"]
        if state["Running"]:
            self._cgroups.setdefault(sandbox_id, _cgroup(found))
            return SandboxStatus(is_running=True)
        # The flag is set when any process of the container was killed for memory, also long before its end.
        is_out_of_memory = state["OOMKilled"] and state["ExitCode"] == KILLED
        return SandboxStatus(is_running=False, exit_code=state["ExitCode"], is_out_of_memory=is_out_of_memory)

    @override
    async def usage(self, sandbox_id: str) -> Usage | None:
        if sandbox_id not in self._cgroups:
            await self.inspect(sandbox_id)
        if sandbox_id not in self._cgroups:
            return None
        cgroup = self._cgroups[sandbox_id]
        return cgroup.usage() if cgroup else await self._told_usage(sandbox_id)

    async def _told_usage(self, sandbox_id: str) -> Usage | None:
        """Ask the engine: where control groups are not to be seen from here. One of 2021 takes up to a second."""
        path = f"containers/{container_name(sandbox_id)}/stats"
        with _translated(f"measure sandbox {sandbox_id}"):
            try:
                told = await self._engine._query_json(path, params={"stream": False, "one-shot": True})  # noqa: SLF001 (aiodocker's own `stats` waits a second for a second sample)
            except DockerError as error:
                if error.status in {HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT}:
                    return None
                raise
        usage = usage_of_stats(told, peak=self._peaks.get(sandbox_id, 0))
        if usage is not None:
            self._peaks[sandbox_id] = usage.peak_memory_bytes
        return usage

    @override
    async def destroy(self, sandbox_id: str) -> None:
        # One removal for all who ask at once: to the others the engine says "not found" before everything is gone.
        task = self._destroying.get(sandbox_id)
        if task is None:
            task = self._destroying[sandbox_id] = asyncio.create_task(self._destroy(sandbox_id))
            task.add_done_callback(lambda _: self._destroying.pop(sandbox_id, None))
        await asyncio.shield(task)

    async def _destroy(self, sandbox_id: str) -> None:
        self._cgroups.pop(sandbox_id, None)
        self._peaks.pop(sandbox_id, None)
        container = self._engine.containers.container(container_name(sandbox_id))
        with _translated(f"remove sandbox {sandbox_id}"):
            try:
                await container.delete(force=True, v=True)
            except DockerError as error:
                if error.status == HTTPStatus.CONFLICT:  # another call is removing it: done when that is done
                    await self._wait_until_removed(sandbox_id)
                elif error.status != HTTPStatus.NOT_FOUND:
                    raise
        remove_socket_directory(self._run_dir / sandbox_id)

    @override
    async def list_sandboxes(self) -> set[str]:
        filters = {"label": [f"{DEPLOYMENT_LABEL}={self._deployment}"]}
        with _translated("list the sandboxes"):
            found = await self._engine.containers.list(all=True, filters=filters)
        return {container["Labels"][SANDBOX_LABEL] for container in found}

    async def _wait_until_removed(self, sandbox_id: str) -> None:
        while await self.inspect(sandbox_id) is not None:  # noqa: ASYNC110 (the engine is polled, it sets no event)
            await asyncio.sleep(0.05)


def _cgroup(container: Mapping[str, Any]) -> Cgroup | None:
    """Return a container's control group, or None where it is not to be seen from here.

    In a container the number of the engine's process is another's, and that one's group is none of a sandbox.
    """
    cgroup = cgroup_of(container["State"]["Pid"])
    if cgroup is not None and all(container["Id"] in str(path) for path in cgroup.directories.values()):
        return cgroup
    return cgroup_of_container(container["Id"])


def usage_of_stats(told: Mapping[str, Any], *, peak: int) -> Usage | None:
    """Read the engine's `GET /containers/ID/stats`; None of a container that does not run.

    `peak` is the most memory that was seen before: of groups of version 2 the engine tells none.
    """
    cpu, memory = told.get("cpu_stats") or {}, told.get("memory_stats") or {}
    if "usage" not in memory:
        return None
    nanoseconds = int(cpu["cpu_usage"]["total_usage"])
    most = int(memory.get("max_usage") or memory["usage"])
    return Usage(cpu=dt.timedelta(microseconds=nanoseconds / 1000), peak_memory_bytes=max(peak, most))


@contextmanager
def _translated(attempt: str) -> Iterator[None]:
    """Turn the engine's errors into ours, with what was attempted."""
    try:
        yield
    except (DockerError, aiohttp.ClientError, TimeoutError, OSError) as error:
        if isinstance(error, aiohttp.ClientConnectionError) or getattr(error, "status", None) == NO_CONNECTION:
            message = f"The Docker engine does not answer, so it could not {attempt}. Try again soon."
            raise EngineAway(message) from error
        message = f"The Docker engine could not {attempt}: {error}"
        raise SandboxFailed(message) from error
