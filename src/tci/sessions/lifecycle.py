"""Sessions as their callers handle them beside executions: opened ahead, shown, listed, interrupted, ended."""

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager

from tci.sessions.service import SessionService
from tci.sessions.session import Terms
from tci.storage.account_store import Caller
from tci.storage.interrupt_store import InterruptStore
from tci.storage.lease_store import LeaseStore
from tci.storage.session_store import EndReason, LivePage, Session, SessionStore
from tci.storage.usage_store import Position


class SessionLifecycle:
    """What a caller may do with a session as a whole.

    A session of another account is found only with a key that sees every account; each method that takes an id raises
    SessionNotFound for all others alike.
    """

    def __init__(
        self, *, service: SessionService, sessions: SessionStore, leases: LeaseStore, interrupts: InterruptStore
    ) -> None:
        self._service = service
        self._sessions = sessions
        self._leases = leases
        self._interrupts = interrupts

    def opened(self, caller: Caller, terms: Terms) -> AbstractAsyncContextManager[Session]:
        """Open a session ahead; see SessionService."""
        return self._service.opened(caller, terms)

    async def get(self, caller: Caller, session_id: str) -> Session:
        """Return a live session."""
        return await self._service.find(caller, session_id, as_admin=True)

    async def page(
        self, *, account_id: int | None, metadata: Iterable[tuple[str, str]], after: Position | None, limit: int | None
    ) -> LivePage:
        """Return live sessions, newest first, of one account or of all."""
        now = await self._leases.now_or_ours()
        return await self._sessions.page(now, account_id=account_id, metadata=metadata, after=after, limit=limit)

    async def end(self, caller: Caller, session_id: str) -> None:
        """End a session; on return its sandbox is gone."""
        await self._service.end(await self.get(caller, session_id), EndReason.ENDED)

    async def interrupt(self, caller: Caller, session_id: str) -> bool:
        """Interrupt what runs in a session, whichever process runs it; return whether anything does."""
        session = await self.get(caller, session_id)
        return self._service.interrupt(session.id) or await self._interrupts.ask(session.id)

    async def run(self) -> None:
        """Interrupt what other processes are asked to have interrupted, for ever."""
        await self._interrupts.listen(self._service.interrupt)
