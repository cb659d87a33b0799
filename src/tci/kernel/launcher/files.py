"""The session's working directory."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from typing import Any


class Files:
    """The session's working directory, written through descriptors so that no planted link is followed.

    The functions are bound here, once: code may replace `os.open`, and uploads must still work.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._os = (os.open, os.close, os.mkdir, os.write, os.rename, os.unlink)

    def put(self, name: str, data: Any) -> None:
        """Write a file, whole or not at all; directories of its name are made, a file of its name replaced."""
        _open, _close, _mkdir, _write, rename, unlink = self._os
        *directories, base = name.split("/")
        with self._directory(directories) as directory:
            # Not to be guessed, and new: code could have put a pipe or a hard link there.
            temporary = f".{secrets.token_hex(16)}.part"
            descriptor = _open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644, dir_fd=directory)
            try:
                try:
                    rest = memoryview(data).cast("B")
                    while rest:
                        rest = rest[_write(descriptor, rest) :]
                finally:
                    _close(descriptor)
                rename(temporary, base, src_dir_fd=directory, dst_dir_fd=directory)
            except OSError:
                unlink(temporary, dir_fd=directory)
                raise

    @contextlib.contextmanager
    def _directory(self, names: list[str]) -> Iterator[int]:
        _open, _close, _mkdir, *_ = self._os
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        current = _open(self._root, flags)
        try:
            for name in names:
                with contextlib.suppress(FileExistsError):
                    _mkdir(name, 0o755, dir_fd=current)
                try:
                    below = _open(name, flags | os.O_NOFOLLOW, dir_fd=current)
                except OSError as error:
                    if error.errno in (errno.ELOOP, errno.ENOTDIR):
                        raise NotADirectoryError(errno.ENOTDIR, f"{name!r} is not a directory") from None
                    raise
                _close(current)
                current = below
            yield current
        finally:
            _close(current)
