"""Put the vendor's SDKs, at the versions that this suite pins, into a cache directory.

`python tests/sdk/install.py DIRECTORY` fills it ahead of test runs that name the same one in TCI_TEST_CACHE.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
import venv
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).resolve().parent
MARKER = ".complete"
OLDEST_NODE = 18
INSTALL_SECONDS = 600


class MissingToolError(Exception):
    """A program that one of the SDKs needs is not on this machine."""


class InstallError(Exception):
    """The package manager did not install an SDK."""


def cache_under(directory: str) -> Path:
    """Give the part of a test cache that holds the SDKs."""
    return Path(directory).resolve() / "sdk"


def find_tool(name: str) -> str:
    """Find a program on the path."""
    found = shutil.which(name)
    if found is None:
        message = f"{name} is not installed"
        raise MissingToolError(message)
    return found


def find_node() -> str:
    """Find a Node that has `fetch`, which the TypeScript SDK needs."""
    node = find_tool("node")
    asked = subprocess.run([node, "--version"], capture_output=True, text=True, check=True, timeout=60)
    version = asked.stdout.strip()
    if int(version.removeprefix("v").split(".")[0]) < OLDEST_NODE:
        message = f"node {version} is older than {OLDEST_NODE}"
        raise MissingToolError(message)
    return node


@contextmanager
def _only_one(cache: Path, name: str) -> Iterator[None]:
    """Keep other processes of a parallel run from installing the same thing."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command: list[str], cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS)
    if done.returncode != 0:
        message = f"{' '.join(command[:4])} ... failed: {done.stderr.strip()[-1500:]}"
        raise InstallError(message)


def _install(cache: Path, name: str, pins: Path, build: Callable[[Path], None], say: Callable[[str], None]) -> Path:
    """Fill `cache/name` unless it was filled from the same pins by the same Python."""
    target = cache / name
    wanted = hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()
    with _only_one(cache, name):
        marker = target / MARKER
        if marker.is_file() and marker.read_text() == wanted:
            return target
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        say(f"installing {name} from {pins.name} ...")
        started = time.monotonic()
        build(target)
        marker.write_text(wanted)
        say(f"installed {name} in {time.monotonic() - started:.0f} s")
    return target


def install_python(cache: Path, line: str, say: Callable[[str], None]) -> Path:
    """Install the Python SDK of one line ("1x", "2x") into a virtual environment and give its interpreter."""
    pins = HERE / f"requirements-{line}.txt"

    def build(target: Path) -> None:
        venv.EnvBuilder(with_pip=True, symlinks=True, clear=True).create(target)
        pip = [str(target / "bin" / "python"), "-m", "pip"]
        # The file is the whole closure, so there is nothing to resolve, and a bound that an index cannot meet
        # (1.6.0's on certifi) does not stand in the way.
        flags = ["--quiet", "--disable-pip-version-check", "--no-deps"]
        _run([*pip, "install", *flags, "-r", str(pins)], target)

    return _install(cache, f"python-{line}", pins, build, say) / "bin" / "python"


def install_typescript(cache: Path, say: Callable[[str], None]) -> Path:
    """Install the TypeScript SDK into a node_modules folder and give the script that lies beside it."""
    npm = find_tool("npm")

    def build(target: Path) -> None:
        shutil.copy(HERE / "package.json", target)
        flags = ["--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--loglevel=error"]
        _run([npm, "install", *flags], target)

    target = _install(cache, "typescript", HERE / "package.json", build, say)
    beside = target / "client_ts.mjs"
    fresh = target / f"client_ts.mjs.{os.getpid()}"
    shutil.copy(HERE / "client_ts.mjs", fresh)
    fresh.replace(beside)
    return beside


def main() -> None:
    """Entry point."""

    def say(line: str) -> None:
        sys.stderr.write(line + "\n")

    cache = cache_under(sys.argv[1])
    for line in ("1x", "2x"):
        install_python(cache, line, say)
    install_typescript(cache, say)


if __name__ == "__main__":
    main()
