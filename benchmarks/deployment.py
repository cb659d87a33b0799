"""The service as it is served, and what its processes use."""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select

from benchmarks.caller import Caller
from benchmarks.loop import closed_loop
from benchmarks.raw_kernel import RawKernel
from tci.sandbox.cgroup import Cgroup, cgroup_of
from tci.settings import MIB, Settings
from tci.storage.tables import sessions as sessions_table
from tests.sandbox import processes
from tests.stack import Instance, Kind, Stack, stack

HAS_POOL = "pool_size" in Settings.model_fields

OPENERS = 4
"""How many callers open sessions at once where many are needed."""

SMALL = {"preload": "json", "sandbox_memory_bytes": 256 * MIB}
"""What a sandbox is given where many of them have to fit."""

QUIET_SECONDS, QUIET_SHARE = 0.4, 0.05
"""Sandboxes are quiet when all of them together use less than this share of a processor for so long."""

FILL_SECONDS = 60.0


@dataclass
class Deployment:
    """One service with its servers."""

    stack: Stack
    pool_size: int = 0
    opened: list[str] = field(default_factory=list)

    @property
    def instance(self) -> Instance:
        """The one service."""
        return self.stack.instances[0]

    def caller(self, session_id: str | None = None) -> Caller:
        """Return one who calls: a session, or a new one with each call."""
        return Caller(self.instance.url, self.instance.key, session_id)

    def open(self, count: int = 1) -> list[str]:
        """Open sessions and return their ids."""
        callers = [_Opener(self) for _ in range(min(count, OPENERS))]
        before = len(self.opened)
        closed_loop(callers, count=count)
        return self.opened[before:]

    def raw(self, session_id: str) -> RawKernel:
        """Return a raw client of a session's kernel."""
        query = select(sessions_table.c.sandbox_id, sessions_table.c.kernel_key)
        [row] = self.stack.rows(query.where(sessions_table.c.id == session_id))
        return RawKernel(self.stack.data_dir / "run" / row["sandbox_id"], row["kernel_key"])

    def restart(self, *, workers: int) -> None:
        """Start the stopped service again, with so many workers; its sessions went on."""
        self.instance.arguments = () if workers == 1 else ("--workers", str(workers))
        self.instance.start()

    def processes(self) -> set[int]:
        """Return the service's own processes: neither the servers nor the egress proxy."""
        return {self.instance.process.pid, *self.instance.workers()}

    def server_processes(self) -> set[int]:
        """Return the processes of PostgreSQL and Redis."""
        assert self.stack.postgresql
        assert self.stack.redis
        directories = (self.stack.postgresql.directory, self.stack.redis.directory)
        return set().union(*map(processes.in_directory, directories))

    def wait_until_quiet(self) -> None:
        """Return once the pool is full and nothing starts any more."""
        give_up = time.monotonic() + FILL_SECONDS
        while time.monotonic() < give_up:
            groups = self.cgroups()
            before = _cpu_seconds(groups)
            time.sleep(QUIET_SECONDS)
            is_full = len(groups) >= self.pool_size + len(self.opened)
            if is_full and _cpu_seconds(groups) - before < QUIET_SECONDS * QUIET_SHARE:
                return
        message = f"{len(self.cgroups())} sandboxes for {len(self.opened)} sessions, and no quiet"
        raise TimeoutError(message)

    def cgroups(self) -> list[Cgroup]:
        """Return the control groups of all its sandboxes."""
        found = [cgroup_of(pid) for pid in self.stack.sandboxes().values() if pid]
        return [group for group in found if group]

    def end(self) -> None:
        """Kill the service and remove all its sandboxes at once."""
        if self.instance.process.poll() is None:
            self.instance.kill()
        names = [f"tci-{sandbox}" for sandbox in self.stack.sandboxes()]
        if names:
            subprocess.run(["docker", "rm", "--force", *names], capture_output=True, check=False)


class _Opener(Caller):
    """A caller that tells which sessions it opened."""

    def __init__(self, deployment: Deployment) -> None:
        super().__init__(deployment.instance.url, deployment.instance.key)
        self._opened = deployment.opened

    def advance(self) -> bool:
        if super().advance():
            self._opened.append(self.answer["session_id"])
            return True
        return False


def opener(deployment: Deployment) -> Caller:
    """Return a caller of which each call opens a session that the deployment knows of."""
    return _Opener(deployment)


@contextmanager
def deployed(kind: Kind = Kind.SERVERS, *, pool_size: int = 0, **settings: Any) -> Iterator[Deployment]:
    """Serve with the Docker driver; `pool_size` is left out where the service has no pool."""
    if HAS_POOL:
        settings |= {"pool_size": pool_size, "pool_max_size": pool_size}
    options = {"max_sessions_per_account": 1000, "max_sandboxes": 1000, **settings}
    with stack("docker", kind, workers=(1,), **options) as built:
        deployment = Deployment(built, pool_size if HAS_POOL else 0)
        try:
            yield deployment
        finally:
            deployment.end()


def cpu_milliseconds(pids: set[int]) -> float:
    """Return the processor time that all threads of processes have used: utime and stime, to the nanosecond."""
    nanoseconds = 0
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").glob("*"):
            with contextlib.suppress(OSError):
                nanoseconds += int((thread / "schedstat").read_text().split()[0])
    return nanoseconds / 1e6


def resident_kilobytes(pids: set[int]) -> float:
    """Return the memory that processes have to themselves."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Private_Clean:", "Private_Dirty:")):
                total += int(line.split()[1])
    return float(total)


def memory_mebibytes(group: Cgroup) -> float:
    """Return what a sandbox uses now."""
    if group.is_v1:
        return int((group.directories["memory"] / "memory.usage_in_bytes").read_text()) / MIB
    return int((group.directories[""] / "memory.current").read_text()) / MIB


def _cpu_seconds(groups: list[Cgroup]) -> float:
    return sum(usage.cpu.total_seconds() for usage in (group.usage() for group in groups) if usage)
