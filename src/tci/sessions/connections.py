"""This process's connections to kernels: made when they are needed, dropped when they are not, or are behind."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from tci.kernel.client import KernelClient
from tci.storage.session_store import Session

IDLE_SECONDS = 60.0
"""After so long without a call a connection is dropped; a new one takes a few milliseconds."""


@dataclass(slots=True)
class Connected:
    """A kernel's client, and its session as this process last saw it."""

    kernel: KernelClient
    session: Session
    used_at: float


class Connections:
    """One client for each session that this process has lately served."""

    def __init__(self, connect: Callable[[Session], KernelClient]) -> None:
        self._connect = connect
        self._connected: dict[str, Connected] = {}

    def put(self, session: Session, kernel: KernelClient) -> None:
        """Keep the client of a session that has just been opened."""
        self._connected[session.id] = Connected(kernel, session, _now())

    def known(self, session_id: str) -> Session | None:
        """Return a session as this process last saw it: others may have served or ended it since."""
        found = self._connected.get(session_id)
        return found.session if found else None

    def get(self, session: Session) -> KernelClient:
        """Return a client that has seen all that the kernel published, or a new one.

        A kernel publishes to every subscriber, and drops what one does not read: a client that was idle while another
        process served the session would have all of that before the next answer, or would miss some of the answer.
        """
        found = self._connected.get(session.id)
        if found is not None and found.session.execute_count == session.execute_count:
            found.used_at = _now()
            return found.kernel
        self.drop(session.id)
        kernel = self._connect(session)
        self.put(session, kernel)
        return kernel

    def has_followed(self, session: Session, execute_count: int) -> None:
        """Note that a client has seen its session up to this execution, which was answered."""
        if found := self._connected.get(session.id):
            answered_at = session.answered_at or session.started_at
            found.session = replace(session, execute_count=execute_count, answered_at=answered_at)
            found.used_at = _now()

    def drop(self, session_id: str) -> None:
        """Close a client, if there is one; the session goes on."""
        if found := self._connected.pop(session_id, None):
            found.kernel.close()

    def drop_idle(self, is_busy: Callable[[str], bool]) -> None:
        """Close the clients of sessions that were not called for a while."""
        latest = _now() - IDLE_SECONDS
        idle = [name for name, found in self._connected.items() if found.used_at < latest and not is_busy(name)]
        for session_id in idle:
            self.drop(session_id)

    def close(self) -> None:
        """Close every client; the sessions go on."""
        for session_id in list(self._connected):
            self.drop(session_id)


def _now() -> float:
    return asyncio.get_running_loop().time()
