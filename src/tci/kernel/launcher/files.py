"""The session's working directory."""

import contextlib
import errno
import os
import stat as modes
from collections.abc import Iterator
from json import dumps
from time import monotonic
from typing import Any

from .upload import Upload, close, dup, fstat, mkdir, open_descriptor, pread, rmdir, scandir, stat, unlink

MAX_LISTED, MAX_LISTED_BYTES, MAX_LOOKED_AT, MAX_DEPTH = 5000, 640 * 1024, 20_000, 32
"""Bounds of a list: entries, their JSON, directory entries that are looked at for it, directories above one another.
The service takes no longer answer, and while this thread lists, no interrupt comes through."""

MAX_UPLOADS, IDLE_SECONDS = 8, 60.0
"""Uploads at once, and after how long one that does not go on makes room: its service may have died."""

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""Not blocking: a pipe that code has put there would hold the control channel for ever."""


class Files:
    """The session's working directory, reached through descriptors so that no planted link is followed."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._uploads: dict[str, tuple[float, Upload]] = {}

    def put(self, name: str, data: Any) -> None:
        """Write a file, whole or not at all; directories of its name are made, a file of its name replaced."""
        upload = self._begin(name)
        try:
            upload.write(data, start=0)
            upload.finish()
        except BaseException:
            upload.drop()
            raise

    def put_part(self, name: str, token: str, data: Any, *, start: int, is_last: bool) -> dict[str, Any] | None:
        """Write the next part of a file that the service calls by a token; after the last it is there, as by `put`."""
        if start == 0:
            self._make_room()
            self._uploads[token] = monotonic(), self._begin(name)
        elif token not in self._uploads:
            raise TimeoutError(errno.ETIMEDOUT, "the upload was given up, since it did not go on")
        upload = self._uploads[token][1]
        try:
            upload.write(data, start=start)
            self._uploads[token] = monotonic(), upload
            if not is_last:
                return None
            found = upload.finish()
        except BaseException:
            self.drop(token)
            raise
        del self._uploads[token]
        return entry(name, found)

    def drop(self, token: str) -> None:
        """Leave nothing of an upload, if there is one."""
        _at, upload = self._uploads.pop(token, (0.0, None))
        if upload is not None:
            upload.drop()

    def get(self, name: str, *, start: int, length: int, version: str | None) -> tuple[dict[str, Any], str, bytes]:
        """Return a file's entry, its version, and a piece of it.

        With a version, which an earlier call returned, a file that has taken its name since is not read.
        """
        with self._parent(name) as (directory, base):
            descriptor = _open_file(base, directory)
        try:
            found = fstat(descriptor)
            _require_regular(found)
            found_version = f"{found.st_dev}:{found.st_ino}"
            if version not in {None, found_version}:
                raise OSError(errno.ESTALE, "was replaced while it was read")
            return entry(name, found), found_version, pread(descriptor, length, start) if length else b""
        finally:
            close(descriptor)

    def delete(self, name: str) -> None:
        """Remove a file, a link itself, or an empty directory."""
        with self._parent(name) as (directory, base):
            try:
                unlink(base, dir_fd=directory)
            except IsADirectoryError:
                rmdir(base, dir_fd=directory)

    def listing(self) -> tuple[bytes, bool]:
        """Return JSON of what is there, hidden names left out, and whether that is all."""
        lines: list[str] = []
        is_complete, looked_at, size = True, 0, 0
        waiting: list[tuple[str, ...]] = [()]
        for above in waiting:  # which grows while it is gone through: a directory's own entries come first
            try:
                with self._directory(above) as directory, scandir(directory) as entries:
                    for found in entries:
                        looked_at += 1
                        if len(lines) == MAX_LISTED or size > MAX_LISTED_BYTES or looked_at > MAX_LOOKED_AT:
                            return _as_list(lines), False
                        if found.name.startswith("."):
                            continue
                        names = (*above, found.name)
                        with contextlib.suppress(FileNotFoundError):
                            line = entry("/".join(names), stat(found.name, dir_fd=directory, follow_symlinks=False))
                            lines.append(dumps(line, ensure_ascii=False))
                            size += len(lines[-1].encode())
                            if line["type"] == "directory" and len(names) <= MAX_DEPTH:
                                waiting.append(names)
                            elif line["type"] == "directory":
                                is_complete = False
            except FileNotFoundError:  # removed meanwhile
                continue
            except OSError:  # not to be read; of the working directory itself, the service must hear
                if not above:
                    raise
                is_complete = False
        return _as_list(lines), is_complete

    def _begin(self, name: str) -> Upload:
        with self._parent(name, make=True) as (directory, base):
            own = dup(directory)
        try:
            return Upload(own, base)
        except BaseException:
            close(own)
            raise

    def _make_room(self) -> None:
        if len(self._uploads) < MAX_UPLOADS:
            return
        token = min(self._uploads, key=lambda key: self._uploads[key][0])
        if monotonic() - self._uploads[token][0] < IDLE_SECONDS:
            raise BlockingIOError(errno.EAGAIN, f"{MAX_UPLOADS} uploads to this session are going on already")
        self.drop(token)

    @contextlib.contextmanager
    def _parent(self, name: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """Open the directory that a name is in."""
        *directories, base = parts = name.split("/")
        if any(part in {"", ".", ".."} for part in parts):  # the service refuses it too
            raise PermissionError(errno.EPERM, "leaves the working directory")
        with self._directory(directories, make=make) as directory:
            yield directory, base

    @contextlib.contextmanager
    def _directory(self, names: Any, *, make: bool = False) -> Iterator[int]:
        current = open_descriptor(self._root, DIRECTORY)
        try:
            for name in names:
                if make:
                    with contextlib.suppress(FileExistsError):
                        mkdir(name, 0o755, dir_fd=current)
                try:
                    below = open_descriptor(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=current)
                except OSError as error:
                    if error.errno in {errno.ELOOP, errno.ENOTDIR}:
                        raise NotADirectoryError(errno.ENOTDIR, f"{name!r} is not a directory") from None
                    raise
                close(current)
                current = below
            yield current
        finally:
            close(current)


def entry(name: str, found: Any) -> dict[str, Any]:
    """Return what the service is told of a file. A name that is not UTF-8 can't be asked for, so it names no file."""
    shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    kind = _type_of(found.st_mode) if shown == name else "other"
    size = found.st_size if kind == "file" else 0
    return {"name": shown, "size": size, "modified": found.st_mtime_ns // 1000, "type": kind}


def _type_of(mode: int) -> str:
    for is_kind, kind in ((modes.S_ISREG, "file"), (modes.S_ISDIR, "directory"), (modes.S_ISLNK, "link")):
        if is_kind(mode):
            return kind
    return "other"


def _open_file(base: str, directory: int) -> int:
    try:
        return open_descriptor(base, FILE, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "is a link") from None
        if error.errno == errno.ENXIO:  # a socket
            raise PermissionError(errno.EPERM, "is not a regular file") from None
        raise


def _require_regular(found: Any) -> None:
    if modes.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "is a directory")
    if not modes.S_ISREG(found.st_mode):
        raise PermissionError(errno.EPERM, "is not a regular file")


def _as_list(lines: list[str]) -> bytes:
    return f"[{','.join(lines)}]".encode()
