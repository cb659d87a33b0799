"""Bounds the files of a bubblewrap jail's file systems, from outside: `python remount.py PID INODES PLACE...`.

bwrap makes file systems with a size and no such bound. A program of its own, with the standard library alone: only a
process of one thread may enter another's user namespace (setns(2)).
"""

import ctypes
import fcntl
import os
import sys

MS_NOSUID, MS_NODEV, MS_REMOUNT = 2, 4, 32
"""Flags of mount(2). bwrap sets the first two, and a remount must name them again."""

NS_GET_USERNS = 0xB701
"""Request of ioctl_ns(2): the user namespace that owns another namespace."""


def main(pid: str, inodes: str, *places: str) -> None:
    """Enter the mount namespace of a process and mount each place anew; what is not named stays as it is."""
    libc = ctypes.CDLL(None, use_errno=True)
    mounts = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    # As a user, bwrap makes its mounts in one user namespace and lets the jail live in another, below it.
    owner = fcntl.ioctl(mounts, NS_GET_USERNS)
    if os.fstat(owner).st_ino != os.stat("/proc/self/ns/user").st_ino:  # noqa: PTH116 (pathlib takes long to import)
        _check(libc.setns(owner, 0), "its user namespace")
    _check(libc.setns(mounts, 0), "its mounts")
    for place in places:
        data = f"nr_inodes={inodes}".encode()
        _check(libc.mount(None, place.encode(), None, MS_REMOUNT | MS_NOSUID | MS_NODEV, data), place)


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        sys.exit(f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
