"""Switches single controls of the jail off, inside a test, by changing what the drivers are about to use."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tci import resources
from tci.sandbox import bubblewrap, docker
from tci.sandbox.bubblewrap import BubblewrapDriver
from tci.sandbox.driver import Limits, SandboxSpec
from tests.hostile.removals import LauncherEdit, Off, Site
from tests.sandbox.conftest import Bench

LAUNCHER = "/opt/tci/launcher"


@contextmanager
def switched_off(off: Off, *, bench: Bench, decoy: Path, directory: Path) -> Iterator[None]:
    """Leave a control out of every sandbox that is launched while the block lasts."""
    launcher = changed_launcher(off.launcher, directory / "launcher") if off.launcher else None
    with pytest.MonkeyPatch.context() as patch:
        if bench.driver.name == "docker":
            change_docker(patch, off, launcher, decoy=decoy, directory=directory)
        else:
            assert isinstance(bench.driver, BubblewrapDriver)
            if launcher is not None:
                patch.setattr(bench.driver, "_host", replace(bench.driver._host, launcher=launcher))
            change_bubblewrap(patch, off, decoy=decoy, directory=directory)
        yield


def change_docker(patch: pytest.MonkeyPatch, off: Off, launcher: Path | None, *, decoy: Path, directory: Path) -> None:
    """Change what the Docker driver asks the engine for."""
    make = docker.container_config

    def changed(spec: SandboxSpec, **options: Any) -> dict[str, Any]:
        config = make(spec, **options)
        if launcher is not None:
            config["HostConfig"]["Binds"] += [f"{launcher}:{LAUNCHER}:ro"]
        if off.config is not None:
            off.config(config, Site(spec, decoy, setuid_directory(directory)))
        return config

    patch.setattr(docker, "container_config", changed)
    if not off.is_sealed:
        patch.setattr(docker, "seal_socket_directory", lambda _directory: None)


def change_bubblewrap(patch: pytest.MonkeyPatch, off: Off, *, decoy: Path, directory: Path) -> None:
    """Change what the bubblewrap driver starts."""
    make, make_cgroup, environment = bubblewrap.bwrap_arguments, bubblewrap.make_cgroup, bubblewrap.environment

    def changed(spec: SandboxSpec, **options: Any) -> list[str]:
        arguments = make(spec, **options)
        return off.arguments(arguments, Site(spec, decoy, directory)) if off.arguments else arguments

    def with_limits(name: str, limits: Limits) -> Any:
        return make_cgroup(name, off.limits(limits) if off.limits else limits)

    patch.setattr(bubblewrap, "bwrap_arguments", changed)
    if not off.is_sealed:
        patch.setattr(bubblewrap, "_run", lambda _command: None)
    patch.setattr(bubblewrap, "make_cgroup", with_limits)
    if off.leaks_environment:
        own = {name: value for name, value in os.environ.items() if name.startswith("TCI_")}
        patch.setattr(bubblewrap, "environment", lambda *words, **options: own | environment(*words, **options))
    if off.leaks_descriptor or off.leaks_group:
        start_carelessly(patch, decoy if off.leaks_descriptor else None)


def start_carelessly(patch: pytest.MonkeyPatch, leaked: Path | None) -> None:
    """Start bwrap as root's login would, with root's group, and with a descriptor that was not closed."""
    start = subprocess.Popen

    def careless(*words: Any, **options: Any) -> Any:
        if leaked is None:
            return start(*words, **options, extra_groups=[0])
        descriptor = os.open(leaked, os.O_RDONLY)
        try:
            return start(*words, **options | {"pass_fds": (*options.get("pass_fds", ()), descriptor)})
        finally:
            os.close(descriptor)

    patch.setattr(bubblewrap.subprocess, "Popen", careless)


def changed_launcher(edits: tuple[LauncherEdit, ...], directory: Path) -> Path:
    """Return a copy of the launcher in which a step is left out."""
    shutil.copytree(resources.launcher(), directory)
    directory.chmod(0o755)
    for name, pattern, text in edits:
        file = directory / name
        changed, count = re.subn(pattern, text, file.read_text(), count=1, flags=re.DOTALL)
        assert count == 1, f"{name} has nothing like {pattern}"
        file.write_text(changed)
    return directory


def setuid_directory(directory: Path) -> Path:
    """Return a directory with a program that runs as root and does no harm."""
    made = directory / "setuid"
    made.mkdir(exist_ok=True)
    program = Path(shutil.copy("/usr/bin/true", made / "true"))
    program.chmod(0o4755)
    return made
