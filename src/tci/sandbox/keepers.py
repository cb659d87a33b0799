"""Which process answers for a sandbox: the one that holds its lock, which the system frees when that process dies.

A keeper launches the sandbox, has its gate to the network, and clears it away if nobody else does. What nobody keeps
was left by a crash, and is taken over by whoever finds it first.
"""

import os
from pathlib import Path

from tci.locks import try_lock
from tci.paths import make_private


class Keepers:
    """The locks of this process. They lie apart from what sandboxes see: whoever can open a file can lock it."""

    def __init__(self, directory: Path) -> None:
        make_private(directory)
        self._directory = directory
        self._locks: dict[str, int] = {}

    @property
    def kept(self) -> frozenset[str]:
        """The sandboxes that this process answers for."""
        return frozenset(self._locks)

    def keep(self, sandbox_id: str) -> bool:
        """Become a sandbox's keeper; return False if another process is."""
        if sandbox_id in self._locks:
            return True
        path = self._directory / sandbox_id
        while True:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if not try_lock(lock):
                os.close(lock)
                return False
            if _is_at(lock, path):
                self._locks[sandbox_id] = lock
                return True
            os.close(lock)  # its last keeper removed the file after we had opened it

    def let_go(self, sandbox_id: str) -> None:
        """Stop answering for a sandbox that may still be there: whoever finds its file takes over."""
        if (lock := self._locks.pop(sandbox_id, None)) is not None:
            os.close(lock)

    def forget(self, sandbox_id: str) -> None:
        """Remove all trace of a sandbox that is gone, whoever kept it."""
        (self._directory / sandbox_id).unlink(missing_ok=True)
        self.let_go(sandbox_id)

    def take_abandoned(self) -> list[str]:
        """Become the keeper of every sandbox that has lost its own, and return which these are."""
        others = [path.name for path in self._directory.iterdir() if path.name not in self._locks]
        return [sandbox_id for sandbox_id in others if self._take(sandbox_id)]

    def _take(self, sandbox_id: str) -> bool:
        path = self._directory / sandbox_id
        try:
            lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:  # it was cleared away in this moment
            return False
        if not (try_lock(lock) and _is_at(lock, path)):
            os.close(lock)
            return False
        self._locks[sandbox_id] = lock
        return True

    def close(self) -> None:
        """Let go of all; the sandboxes go on."""
        for sandbox_id in list(self._locks):
            self.let_go(sandbox_id)


def _is_at(lock: int, path: Path) -> bool:
    """Whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False
