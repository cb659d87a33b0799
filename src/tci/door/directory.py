"""The directory that a sandbox's container mounts, taken out of the service's hands before the engine looks at it.

The engine follows links. A service that was broken into could put a link to `/` in the place of the directory, or of
the `hosts` file in it, at any moment up to the mount. So both become the door's own, in a sticky directory, where
only their owner can remove or rename them.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from tci.door.request import Refused
from tci.sandbox.socket_directory import HOSTS, HOSTS_TEXT

RUN_MODE = 0o1770
"""The run directory: the service, which has the door's group, makes entries, and removes and renames its own alone."""

TAKEN_MODE = 0o1775
"""A sandbox's directory: written by the door's user, who is the jail's root as well, and by the service."""


KEEPERS_MODE = 0o770
"""The directory of keepers, which sandboxes never see: the service's own, in all but its making."""


def open_run_directory(run_dir: Path) -> None:
    """Make the run directory, or take it over."""
    open_directory(run_dir, RUN_MODE)


def open_directory(directory: Path, mode: int) -> None:
    """Make a directory that the service shares, or take it over."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chown(directory, os.geteuid(), os.getegid())
    directory.chmod(mode)


def take_over(directory: Path) -> None:
    """Make a sandbox's directory and its `hosts` file the door's own; raises Refused if they are not what they seem."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchown(descriptor, os.geteuid(), -1)
            os.fchmod(descriptor, TAKEN_MODE)
            _write_hosts(descriptor)
            # Whoever renamed it before it was ours has put something else in its place.
            found, taken = os.lstat(directory), os.fstat(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise Refused(f"The sandbox's directory is not what it must be: {error.strerror}.") from None
    if (found.st_dev, found.st_ino) != (taken.st_dev, taken.st_ino):
        raise Refused("The sandbox's directory was exchanged.")


def _write_hosts(directory: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(HOSTS, dir_fd=directory)
    hosts = os.open(HOSTS, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, dir_fd=directory)
    with open(hosts, "w") as file:  # noqa: PTH123 (a descriptor)
        os.fchmod(hosts, 0o644)
        file.write(HOSTS_TEXT)


def remove(directory: Path) -> None:
    """Remove a sandbox's directory, which the service can't any more; follows no link. Does nothing if it is gone."""
    shutil.rmtree(directory, ignore_errors=True)
