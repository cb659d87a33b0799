"""The tools that run code, and list and end sessions."""

from collections.abc import Iterator

from mcp.types import CallToolResult

from tci.mcp.arguments import EndSession, ListSessions, RunCode
from tci.mcp.offer import Offer
from tci.mcp.results import EndResult, ExecutionResult, SessionResult, SessionsResult, executed, told
from tci.mcp.room import MAX_BLOCKS
from tci.sessions.service import SessionService
from tci.storage.account_store import Caller
from tci.storage.session_store import EndReason


class SessionTools:
    """What an agent may do with its account's sessions."""

    def __init__(self, sessions: SessionService) -> None:
        self._sessions = sessions

    def offered(self) -> Iterator[tuple[str, Offer]]:
        """Give each tool with its name."""
        yield (
            "run_code",
            Offer(
                RunCode,
                ExecutionResult,
                self._run_code,
                "Run Python code in a Jupyter kernel inside a sandbox, in a new session or in the one that session_id "
                "names. Answers what was printed, the last expression's value, plots as images, or the traceback. "
                "The last line of the answer tells the session's id: pass it to go on with its variables and files.",
                destroys=True,
            ),
        )
        yield (
            "list_sessions",
            Offer(ListSessions, SessionsResult, self._list_sessions, "List your live sessions.", only_reads=True),
        )
        yield (
            "end_session",
            Offer(
                EndSession,
                EndResult,
                self._end_session,
                "End a session: its variables, files and processes are gone.",
                destroys=True,
            ),
        )

    async def _run_code(self, caller: Caller, run: RunCode) -> CallToolResult:
        execution = await self._sessions.execute(
            caller, run.code, session_id=run.session_id, files=run.decoded_files(), timeout=run.timeout
        )
        return executed(execution)

    async def _list_sessions(self, caller: Caller, _: ListSessions) -> CallToolResult:
        found = (await self._sessions.list_sessions(caller))[:MAX_BLOCKS]
        data = SessionsResult(sessions=[SessionResult.model_validate(session) for session in found])
        lines = [f"{each.id}  expires {each.expires_at:%H:%M} UTC, {each.execute_count} executions" for each in found]
        return told("\n".join(lines) or "There are no live sessions.", data)

    async def _end_session(self, caller: Caller, end: EndSession) -> CallToolResult:
        await self._sessions.end(await self._sessions.find(caller, end.session_id), EndReason.ENDED)
        return told(f"Session {end.session_id} has ended.", EndResult(session_id=end.session_id, ended=True))
