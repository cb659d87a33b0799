"""Short names for UNIX sockets, whose paths may not be longer than 107 bytes (`sun_path` of unix(7))."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def short_path(directory: Path) -> Iterator[str]:
    """Give a name of at most 30 characters for the directory, valid in this process while the block lasts."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
