"""The directory of a sandbox's sockets, the only place that the host and a container share."""

import shutil
import stat
from pathlib import Path

from tci.paths import make_private

HOSTS = "hosts"
"""The sandbox's /etc/hosts: without a network the engine makes an empty one, and nobody would know `localhost`."""

HOSTS_TEXT = "127.0.0.1 localhost\n::1 localhost\n"


def make_socket_directory(directory: Path) -> None:
    """Make the directory, writable by anyone who can reach it: the jail's root, and nobody else.

    The service need not be root, and the container's root has no capability to overlook permissions, so the
    launcher could not bind its sockets in a directory that is only the service's. The parent is closed to
    other users of the host.
    """
    make_private(directory.parent)
    directory.mkdir(exist_ok=True)  # with the gate in it, the service has made it already
    directory.chmod(0o777)
    (directory / HOSTS).write_text(HOSTS_TEXT)
    (directory / HOSTS).chmod(0o644)


def seal_socket_directory(directory: Path) -> None:
    """Make the directory unwritable for the session's user, before any code of a caller's is sent.

    Behind the door to the engine it is so already, and not the service's any more.
    """
    if directory.stat().st_mode & stat.S_IWOTH:
        directory.chmod(0o755)


def remove_socket_directory(directory: Path) -> None:
    """Remove the directory and the sockets in it; does nothing if it is gone."""
    shutil.rmtree(directory, ignore_errors=True)
