"""What proc(5) tells of processes, and how they are ended: for the driver that has no engine to ask."""

import contextlib
import datetime as dt
import os
import re
import signal
from pathlib import Path

from tci.sandbox.driver import Usage


def start_time(pid: int) -> int | None:
    """Return field 22 of /proc/PID/stat (proc(5)), or None if the process is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def usage_of_tree(pid: int) -> Usage | None:
    """Add up what a process and those below it have used: proc(5), where no control group counts for us."""
    ticks, peak = 0, 0
    pending = [pid]
    try:
        while pending:
            current = pending.pop()
            fields = Path(f"/proc/{current}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += sum(int(field) for field in fields[11:15])  # its own and its ended children's time
            status = Path(f"/proc/{current}/status").read_text()
            peak += sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
            pending += children_of(current)
    except (FileNotFoundError, ProcessLookupError):
        if not ticks:
            return None
    return Usage(cpu=dt.timedelta(seconds=ticks / os.sysconf("SC_CLK_TCK")), peak_memory_bytes=peak)


def counts_processes_by_namespace() -> bool:
    """Whether Linux counts processes (RLIMIT_NPROC) for a user in one user namespace, not everywhere: since 5.14."""
    return tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2]) >= (5, 14)


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started and that still run."""
    files = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for file in files for child in file.read_text().split()]


def kill(pid: int) -> None:
    """End a process outright; does nothing if it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
