"""File locks, which the system frees when the process that holds one dies."""

import fcntl
from typing import IO


def try_lock(file: int | IO[str]) -> bool:
    """Lock an open file for this process alone; return False if another holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
