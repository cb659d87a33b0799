"""Builds the sandbox image, named by a hash of all that goes into it: a changed jail is a new image."""

import hashlib
import io
import json
import os
import ssl
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
from aiodocker import Docker, DockerError

from tci import resources
from tci.errors import SetupError
from tci.sandbox.driver import Progress
from tci.sandbox.process import run
from tci.settings import Settings

IMAGE_FILES = ("Dockerfile", "requirements.txt", "warm.py")
"""What the image is made of, besides the launcher. The seccomp files next to them are no part of it: containers are
started with them, and a change of theirs must build nothing anew."""


def image_tag() -> str:
    """Return the image's name: the same files, the same name."""
    digest = hashlib.sha256()
    for name, data in _sources().items():
        digest.update(f"{name} {len(data)}\n".encode())
        digest.update(data)
    return f"tci-sandbox:{digest.hexdigest()[:12]}"


async def is_built(engine: Docker) -> bool:
    """Whether the image of this version is there."""
    return await _has_image(engine, image_tag())


async def build_image(engine: Docker, settings: Settings, progress: Progress) -> None:
    """Build the image unless it is there; raises SetupError with the end of the build's own words."""
    tag = image_tag()
    if await is_built(engine):
        progress(f"Sandbox image {tag} is there.")
        return
    base = base_image()
    if not await _has_image(engine, base):
        await _pull(engine, base, progress)
    progress(f"Building sandbox image {tag}; the first time takes a few minutes.")
    build_arguments = {"PIP_INDEX_URL": settings.pip_index_url} if settings.pip_index_url else {}
    lines: list[str] = []
    async for line in _build(engine, tag, ca_bundle(settings), build_arguments):
        lines.append(line)
        progress(line)
    if not await is_built(engine):
        message = "The sandbox image could not be built:\n" + "\n".join(lines[-20:])
        raise SetupError(message)


def base_image() -> str:
    """Return the image that the Dockerfile starts from."""
    for line in (resources.sandbox_definition() / "Dockerfile").read_text().splitlines():
        if line.startswith("FROM "):
            return line.split()[1]
    message = "The sandbox's Dockerfile has no FROM line."
    raise SetupError(message)


def ca_bundle(settings: Settings) -> bytes:
    """Return the CA certificates that reach the package index from here: the operator's, else the host's own."""
    candidates = (settings.ca_bundle, os.environ.get("SSL_CERT_FILE"), ssl.get_default_verify_paths().cafile)
    for candidate in candidates:
        if candidate and Path(candidate).is_file():
            return Path(candidate).read_bytes()
    return b""


def _sources() -> dict[str, bytes]:
    definition = resources.sandbox_definition()
    files = {name: (definition / name).read_bytes() for name in IMAGE_FILES}
    launcher = resources.launcher()
    return files | {f"launcher/{path.name}": path.read_bytes() for path in sorted(launcher.glob("*.py"))}


def _context(bundle: bytes) -> io.BytesIO:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, data in (_sources() | {"ca-bundle.pem": bundle}).items():
            # No time, owner or mode of this machine: the engine's cache must see the same files as the same.
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o644
            tar.addfile(entry, io.BytesIO(data))
    archive.seek(0)
    return archive


async def _build(engine: Docker, tag: str, bundle: bytes, arguments: dict[str, str]) -> AsyncIterator[str]:
    # aiodocker's own `build` has no network mode. With the host's, the build reaches the index as this machine does.
    options = {"t": tag, "networkmode": "host", "rm": "1", "forcerm": "1", "buildargs": json.dumps(arguments)}
    url = f"{engine.docker_host}/{engine.api_version}/build"
    headers = {"Content-Type": "application/x-tar"}
    timeout = aiohttp.ClientTimeout(total=None)
    async with engine.session.post(
        url, params=options, data=_context(bundle), headers=headers, timeout=timeout
    ) as answer:
        async for event in answer.content:
            told = json.loads(event)
            for line in str(told.get("stream") or told.get("error") or told.get("message") or "").splitlines():
                if line.strip():
                    yield line.rstrip()


async def _has_image(engine: Docker, name: str) -> bool:
    try:
        await engine.images.inspect(name)
    except DockerError:
        return False
    return True


async def _pull(engine: Docker, name: str, progress: Progress) -> None:
    """Get the base image from a registry, or make it where none is reached."""
    progress(f"Pulling {name}.")
    try:
        await engine.images.pull(name)
    except DockerError as error:
        progress(f"It can't be pulled ({error.message}); making it from Debian's packages.")
        script = resources.CHECKOUT / "docker" / "base-image"
        if not script.exists() or await run(["bash", str(script)], progress):
            message = (
                f"The base image {name} can neither be pulled nor made here. Let the engine reach an image registry,"
                " or run 'docker/base-image' of the source tree where Debian's packages are reached."
            )
            raise SetupError(message) from error
