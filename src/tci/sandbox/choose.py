"""Opens the driver that the settings ask for. It never falls back to running code unconfined."""

import platform
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tci.errors import SetupError
from tci.resources import seccomp_filter
from tci.sandbox import bubblewrap_spec
from tci.sandbox.bubblewrap import BubblewrapDriver, find_bwrap
from tci.sandbox.docker import DockerDriver, open_docker
from tci.sandbox.docker_image import build_image
from tci.sandbox.driver import Progress, SandboxDriver
from tci.sandbox.environment import describe_host, prepare_environment
from tci.settings import SandboxChoice, Settings


@asynccontextmanager
async def open_driver(settings: Settings, *, deployment: str) -> AsyncIterator[SandboxDriver]:
    """Open the driver for as long as the block lasts; raises SetupError where its sandboxes are not prepared."""
    choice, _ = await choose(settings)
    if choice is SandboxChoice.BUBBLEWRAP:
        bubblewrap = BubblewrapDriver(settings=settings, bwrap=find_bwrap(), deployment=deployment)
        bubblewrap.require_environment()
        yield bubblewrap
        return
    async with open_docker(settings) as engine:
        docker = DockerDriver(engine, settings=settings, deployment=deployment)
        await docker.require_image()
        yield docker


async def prepare(settings: Settings, progress: Progress) -> None:
    """Make whatever the chosen driver's sandboxes are made of; raises SetupError where it can't be made."""
    choice, reason = await choose(settings)
    progress(f"Sandbox driver: {choice.value} ({reason}).")
    if choice is SandboxChoice.BUBBLEWRAP:
        await prepare_environment(settings, find_bwrap(), progress)
        return
    async with open_docker(settings) as engine:
        await build_image(engine, settings, progress)


def shown_paths(settings: Settings) -> list[Path]:
    """Return what sandboxes may see of this machine, with every driver that the settings allow."""
    shown = [settings.run_dir]  # of which each sandbox sees its own part
    if settings.sandbox is not SandboxChoice.DOCKER:
        shown += bubblewrap_spec.shown_paths(describe_host(settings, Path("bwrap")))
    return shown


async def choose(settings: Settings) -> tuple[SandboxChoice, str]:
    """Return the driver to use and why, for people to read; raises SetupError where no driver works here."""
    choice, reason = await _choose(settings)
    if choice is SandboxChoice.BUBBLEWRAP and seccomp_filter() is None:
        reason += f"; its system calls are not filtered, there is no filter for {platform.machine()}"
    return choice, reason


async def _choose(settings: Settings) -> tuple[SandboxChoice, str]:
    if settings.sandbox is not SandboxChoice.AUTO:
        return settings.sandbox, "set by TCI_SANDBOX"
    try:
        async with open_docker(settings):
            return SandboxChoice.DOCKER, "a Docker engine answers"
    except SetupError as no_docker:
        try:
            find_bwrap()
        except SetupError as no_bubblewrap:
            message = f"Nothing here can confine code.\n- {no_docker}\n- {no_bubblewrap}"
            raise SetupError(message) from None
        return SandboxChoice.BUBBLEWRAP, "no Docker engine answers"
