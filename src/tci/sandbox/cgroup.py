"""Control groups: where Linux counts and limits what a sandbox uses. Both versions, see cgroups(7)."""

import contextlib
import datetime as dt
import os
import time
from dataclasses import dataclass
from pathlib import Path

from tci.sandbox.driver import Limits, Usage

ROOT = Path("/sys/fs/cgroup")

OWN = "tci"
"""The group above all groups that we make."""

CONTROLLERS = ("memory", "pids", "cpu", "cpuacct")
"""The controllers of version 1, each with a tree of its own; version 2 has one tree."""

CPU_PERIOD_MICROSECONDS = 100_000

REMOVE_SECONDS = 2.0
"""How long a group may stay busy after its last process was killed."""

ABANDONED_SECONDS = 60.0
"""Age from which an empty group is nobody's; a sandbox is in its group milliseconds after that was made."""


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One group: a directory for each controller in version 1, one directory for all in version 2."""

    directories: dict[str, Path]

    @property
    def is_v1(self) -> bool:
        """Whether it is a group of version 1."""
        return "memory" in self.directories

    def usage(self) -> Usage | None:
        """Return what its processes have used so far, or None if the group is gone."""
        try:
            if self.is_v1:
                nanoseconds = int(_read(f"{self.directories['cpuacct']}/cpuacct.usage"))
                peak = int(_read(f"{self.directories['memory']}/memory.max_usage_in_bytes"))
                return Usage(cpu=dt.timedelta(microseconds=nanoseconds / 1000), peak_memory_bytes=peak)
            directory = self.directories[""]
            counts = _counts(directory / "cpu.stat")
            peak_file = directory / "memory.peak"  # since Linux 5.19
            peak = int((peak_file if peak_file.exists() else directory / "memory.current").read_text())
            return Usage(cpu=dt.timedelta(microseconds=counts["usage_usec"]), peak_memory_bytes=peak)
        except OSError:
            return None

    def has_killed(self) -> bool:
        """Whether a process of the group was killed since its memory was used up."""
        try:
            if self.is_v1:
                return _counts(self.directories["memory"] / "memory.oom_control")["oom_kill"] > 0
            return _counts(self.directories[""] / "memory.events")["oom_kill"] > 0
        except (OSError, KeyError):
            return False

    def add(self, pid: int) -> None:
        """Put a process into the group; what it starts from then on is in it as well."""
        for directory in self.directories.values():
            (directory / "cgroup.procs").write_text(str(pid))

    def remove(self) -> None:
        """Remove the group once its processes are gone; does nothing if it is gone."""
        for directory in self.directories.values():
            give_up = time.monotonic() + REMOVE_SECONDS
            while directory.is_dir() and time.monotonic() < give_up:
                with contextlib.suppress(OSError):
                    directory.rmdir()
                    break
                time.sleep(0.005)

    def limit(self, limits: Limits) -> None:
        """Bound what the group's processes may use together."""
        quota = int(limits.cpus * CPU_PERIOD_MICROSECONDS)
        if self.is_v1:
            memory, cpu = self.directories["memory"], self.directories["cpu"]
            (memory / "memory.limit_in_bytes").write_text(str(limits.memory_bytes))
            swap = memory / "memory.memsw.limit_in_bytes"
            if swap.exists():  # only where the kernel counts swap
                swap.write_text(str(limits.memory_bytes))
            (self.directories["pids"] / "pids.max").write_text(str(limits.pids))
            (cpu / "cpu.cfs_period_us").write_text(str(CPU_PERIOD_MICROSECONDS))
            (cpu / "cpu.cfs_quota_us").write_text(str(quota))
            return
        directory = self.directories[""]
        (directory / "memory.max").write_text(str(limits.memory_bytes))
        if (directory / "memory.swap.max").exists():
            (directory / "memory.swap.max").write_text("0")
        (directory / "pids.max").write_text(str(limits.pids))
        (directory / "cpu.max").write_text(f"{quota} {CPU_PERIOD_MICROSECONDS}")


def _read(path: str) -> bytes:
    """Read a small file as cheaply as can be: this happens several times in each execution."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def can_make_cgroups() -> bool:
    """Whether this process may make groups that limit memory; prepares the group above them."""
    try:
        if _is_v1():
            for controller in CONTROLLERS:
                (ROOT / controller / OWN).mkdir(exist_ok=True)
            return os.access(ROOT / "memory" / OWN, os.W_OK)
        (ROOT / OWN).mkdir(exist_ok=True)
        for directory in (ROOT, ROOT / OWN):
            (directory / "cgroup.subtree_control").write_text("+memory +pids +cpu")
    except OSError:
        return False
    return True


def cgroup_named(name: str) -> Cgroup:
    """Return the group of this name among ours, which need not be there."""
    if _is_v1():
        return Cgroup({controller: ROOT / controller / OWN / name for controller in CONTROLLERS})
    return Cgroup({"": ROOT / OWN / name})


def make_cgroup(name: str, limits: Limits) -> Cgroup:
    """Make a group with limits; raises OSError where `can_make_cgroups` says no."""
    cgroup = cgroup_named(name)
    for directory in cgroup.directories.values():
        directory.mkdir(exist_ok=True)
    cgroup.limit(limits)
    return cgroup


def remove_abandoned_groups() -> None:
    """Remove the empty groups that killed services left behind. Of a young one its sandbox may not be in it yet."""
    youngest = time.time() - ABANDONED_SECONDS
    for parent in [ROOT / controller / OWN for controller in CONTROLLERS] if _is_v1() else [ROOT / OWN]:
        for group in parent.glob("sbx_*"):
            with contextlib.suppress(OSError):  # it is in use, or another service was faster
                if group.stat().st_mtime < youngest:
                    group.rmdir()


def cgroup_of(pid: int) -> Cgroup | None:
    """Return the group that a process is in, or None if that is not to be seen from here."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return None
    paths = {name: path for line in lines for _, names, path in [line.split(":", 2)] for name in names.split(",")}
    if _is_v1():
        directories = {name: ROOT / name / paths[name].lstrip("/") for name in CONTROLLERS if name in paths}
    else:
        directories = {"": ROOT / paths.get("", "/").lstrip("/")}
    cgroup = Cgroup(directories)
    return cgroup if cgroup.usage() is not None else None


def cgroup_of_container(container_id: str) -> Cgroup | None:
    """Return the group that an engine made for a container, or None if that is not to be seen from here.

    It is found by its name: seen from a container, a process of the host has no number.
    """
    top = ROOT / "memory" if _is_v1() else ROOT
    usual = (top / "docker" / container_id, top / "system.slice" / f"docker-{container_id}.scope")
    found = next((path for path in usual if path.is_dir()), None) or next(top.rglob(f"*{container_id}*"), None)
    if found is None:
        return None
    path = found.relative_to(top)
    cgroup = Cgroup({name: ROOT / name / path for name in CONTROLLERS} if _is_v1() else {"": found})
    return cgroup if cgroup.usage() is not None else None


def _is_v1() -> bool:
    return (ROOT / "memory").is_dir() and not (ROOT / "cgroup.controllers").exists()


def _counts(file: Path) -> dict[str, int]:
    return {name: int(number) for name, number in (line.split() for line in file.read_text().splitlines())}
