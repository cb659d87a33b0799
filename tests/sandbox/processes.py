"""What runs on this machine, as the host's /proc shows it."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path


def with_environment(text: str) -> set[int]:
    """Return the processes that were started with a text somewhere in their environment."""
    return _holding("environ", text)


def with_command(text: str) -> set[int]:
    """Return the processes with a text somewhere in their command line."""
    return _holding("cmdline", text)


def jailed(data_dir: Path) -> set[int]:
    """Return the processes of a service's sandboxes: each has a mount from the service's run directory."""
    return _holding("mountinfo", f"{data_dir}/run/")


def in_directory(directory: Path) -> set[int]:
    """Return the processes that work in a directory or below it."""
    found = set()
    for process in _all():
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink().is_relative_to(directory):
                found.add(int(process.name))
    return found


def children(pid: int) -> set[int]:
    """Return the processes that a process has started, theirs included."""
    parents = {}
    for process in _all():
        with contextlib.suppress(OSError):
            # The name, in brackets, may hold spaces and brackets; the parent is the second field after it.
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
    found: set[int] = set()
    newest = {pid}
    while newest:
        newest = {child for child, parent in parents.items() if parent in newest}
        found |= newest
    return found


def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Return whether a condition comes true in time."""
    give_up = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.02)
    return True


def _holding(file: str, text: str) -> set[int]:
    wanted = text.encode()
    found = set()
    for process in _all():
        with contextlib.suppress(OSError):
            if wanted in (process / file).read_bytes():
                found.add(int(process.name))
    return found


def _all() -> list[Path]:
    return [path for path in Path("/proc").iterdir() if path.name.isdecimal()]
