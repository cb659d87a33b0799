"""Directories for this user alone, and short names for the UNIX sockets in them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def make_private(directory: Path) -> None:
    """Make a directory that only its owner may enter, and those above it that are missing alike.

    `Path.mkdir` gives the ones above to everybody, whatever mode it is told.
    """
    for missing in reversed([path for path in (directory, *directory.parents) if not path.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def short_path(directory: Path) -> Iterator[str]:
    """Give a name of at most 30 characters for the directory, valid in this process while the block lasts.

    Paths of UNIX sockets may not be longer than 107 bytes (`sun_path` of unix(7)).
    """
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
