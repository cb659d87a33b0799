"""Runs a command and ends what it leaves behind, however it ended: processes, containers, files."""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.sandbox import processes

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36

STOP_SECONDS = 30.0
"""How long the command may take to close what it has open."""

RUN_LABEL = "tci.benchmark"
"""What containers carry that are not the service's own: the run's directory."""


def guarded(command: Sequence[str], *, seconds: float) -> int:
    """Run a command for so long at most, and return its exit status."""
    # Whoever loses the process that started it becomes a child of this one.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="tci-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o711)  # PostgreSQL runs as a user of its own
        process = subprocess.Popen(command, env=os.environ | {"TMPDIR": directory})
        try:
            return process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            print(f"The run was ended after {seconds:g} seconds.", file=sys.stderr)
            return 1
        finally:
            _stop(process)
            _end_processes()
            _remove_containers(directory)


def end_with_guard() -> None:
    """In the command: unwind, and so close everything, when the guard says so or dies."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=STOP_SECONDS)


def _end_processes() -> None:
    """Kill all that are below this one, those included that come to be so meanwhile."""
    give_up = time.monotonic() + STOP_SECONDS
    while (left := processes.children(os.getpid())) and time.monotonic() < give_up:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.05)


def _remove_containers(directory: str) -> None:
    """Remove the containers with a mount from the run's directory, or its label."""
    ids = _docker("ps", "--all", "--quiet").split()
    # One that has just gone makes the command fail, and the others are told all the same.
    told = json.loads(_docker("inspect", *ids) or "[]") if ids else []
    ours = [one["Id"] for one in told if _is_of(one, directory)]
    if ours:
        _docker("rm", "--force", *ours)


def _is_of(container: dict[str, object], directory: str) -> bool:
    mounts, config = container.get("Mounts") or [], container.get("Config") or {}
    sources = [str(mount.get("Source")) for mount in mounts]  # type: ignore[attr-defined]
    labels = config.get("Labels") or {}  # type: ignore[attr-defined]
    return labels.get(RUN_LABEL) == directory or any(source.startswith(f"{directory}/") for source in sources)


def _docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=60).stdout
