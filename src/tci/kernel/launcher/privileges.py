"""Gives up every right, and bounds what one process may take."""

import ctypes
import os
import resource
import sys

PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 4, 24, 38
"""prctl(2) options, from linux/prctl.h."""

CAPABILITY_V3 = 0x20080522
"""Version of the header of capset(2), from linux/capability.h."""

LOCKED_BYTES = 64 * 1024
"""Memory that one process may lock: enough for what a library keeps a key in."""


def limit_process(*, open_files: int, file_bytes: int, data_bytes: int | None, processes: int | None) -> None:
    """Bound what one process may take, and leave no core dump; inherited by all that code starts.

    `processes` bounds what its user has in the whole jail, so it is for a jail with a user namespace of its own, where
    Linux counts that apart.
    """
    limits = {
        resource.RLIMIT_NOFILE: open_files,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: LOCKED_BYTES,
        # POSIX message queues are counted for each user of the host, and all jails may be one: what code took
        # in one would be missing in another. So nobody has any, and Python's own libraries use none.
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_DATA: data_bytes,
        resource.RLIMIT_NPROC: processes,
    }
    for limit, value in limits.items():
        if value is not None:
            resource.setrlimit(limit, (value, value))


def drop_privileges(uid: int, gid: int) -> None:
    """Become an ordinary user for good, or exit: no capability in any set, no way to gain one."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0:
        last_capability = int(_read("/proc/sys/kernel/cap_last_cap"))
        for capability in range(last_capability + 1):
            # EPERM where CAP_SETPCAP was not given; the check below decides.
            libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        header = (ctypes.c_uint32 * 2)(CAPABILITY_V3, 0)
        libc.capset(header, (ctypes.c_uint32 * 6)())
        # A process that changed its uid may not read its own /proc entries; code may.
        libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    status = dict(line.split(":\t", 1) for line in _read("/proc/self/status").splitlines() if ":\t" in line)
    held = {name: value for name, value in status.items() if name.startswith("Cap") and int(value, 16)}
    # Without root there may be a bounding set, which only limits what could be gained, and nothing can.
    if os.getuid() != uid or status["NoNewPrivs"].strip() != "1" or held.keys() - {"CapBnd"}:
        sys.exit(f"launcher: privileges were not dropped: uid {os.getuid()}, {held}")


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()
