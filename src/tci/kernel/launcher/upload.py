"""A file that is being written, under a name that nobody can guess until it is whole."""

import errno
import os
from collections.abc import Callable
from os import close, dup, fstat, mkdir, rename, rmdir, scandir, stat, unlink, write
from secrets import token_hex
from typing import Any

# Bound here, once, as all that files are reached with: code may replace `os.open`, and transfers must still work.
open_descriptor: Callable[..., int] = os.open
pread: Callable[..., bytes] = os.pread

__all__ = ["Upload", "close", "dup", "fstat", "mkdir", "open_descriptor", "pread", "rmdir", "scandir", "stat", "unlink"]


class Upload:
    """One file to be; the directory's descriptor is its own from here on."""

    def __init__(self, directory: int, base: str) -> None:
        self.size = 0
        self._directory, self._base = directory, base
        # Not to be guessed, and new: code could have put a pipe or a hard link there.
        self._temporary = f".{token_hex(16)}.part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = open_descriptor(self._temporary, flags, 0o644, dir_fd=directory)

    def write(self, data: Any, *, start: int) -> None:
        if start != self.size:
            raise OSError(errno.EILSEQ, "a part of the upload is missing")
        rest = memoryview(data).cast("B")
        while rest:
            written = write(self._descriptor, rest)
            self.size += written
            rest = rest[written:]

    def finish(self) -> Any:
        """Give the file its name, in place of any that has it; return what `fstat` says of it."""
        rename(self._temporary, self._base, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        found = fstat(self._descriptor)
        self._close()
        return found

    def drop(self) -> None:
        """Leave nothing."""
        try:
            unlink(self._temporary, dir_fd=self._directory)
        except OSError:  # code was there first
            pass
        finally:
            self._close()

    def _close(self) -> None:
        close(self._descriptor)
        close(self._directory)
