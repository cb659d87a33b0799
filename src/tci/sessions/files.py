"""The files of a session: listed, read, written and removed beside the code that runs, never after waiting for it."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from tci.errors import InvalidRequest, KernelFailed, SandboxFailed, SessionNotFound, TooManyTransfers
from tci.kernel.client import Ask, KernelClient, Reply
from tci.kernel.files import CHUNK_BYTES, FileInfo, FoundFile, KernelFiles, Listing
from tci.kernel.names import fault_of, fault_of_existing
from tci.kernel.zmtp import ConnectionLost
from tci.sandbox.driver import SandboxDriver
from tci.sessions.runner import DEATH_LOOK_SECONDS, DEATH_LOOKS, WATCH_SECONDS, reason_of_death
from tci.sessions.service import SessionService
from tci.storage.account_store import Caller
from tci.storage.session_store import Session

MAX_AT_ONCE = 16
"""Calls of this process that reach the files of one session at once: each may hold a connection and a piece."""


class SessionFiles:
    """The one way to files of sessions.

    Every method raises SessionNotFound, TooManyTransfers, and KernelFailed where the kernel does not answer or answers
    nonsense; those that name a file raise InvalidRequest for a name that leaves the working directory, a link, a
    directory or anything else that is no file, and FileNotFound. Nothing of a file is held but the piece that is on
    its way.
    """

    def __init__(
        self,
        *,
        service: SessionService,
        driver: SandboxDriver,
        connect: Callable[[Session], KernelClient],
        disk_bytes: int,
    ) -> None:
        self._service = service
        self._driver = driver
        self._connect = connect
        self._disk_bytes = disk_bytes
        self._at_once: Counter[str] = Counter()

    async def list(self, caller: Caller, session_id: str) -> Listing:
        """Return what is in the working directory and below it, as far as a list is allowed to be long."""
        session = await self._service.find(caller, session_id)
        async with self._reach(session) as files:
            return await files.list()

    async def info(self, caller: Caller, session_id: str, path: str) -> FileInfo:
        """Return what is known of a file that can be read."""
        _session, found = await self._find(caller, session_id, path)
        return found.info

    async def read(
        self, caller: Caller, session_id: str, path: str, *, start: int = 0, length: int | None = None
    ) -> tuple[FileInfo, AsyncGenerator[bytes | bytearray, None]]:
        """Return a file, and its bytes from `start` on: as many as it has now, or `length`.

        What is appended meanwhile is not read. The iterator raises InvalidRequest where the file is replaced or cut
        meanwhile. Until it is begun nothing is open; once begun, close it.
        """
        session, found = await self._find(caller, session_id, path)
        end = found.info.size if length is None else min(start + length, found.info.size)
        return found.info, self._pieces(session, found, start, end)

    async def write(self, caller: Caller, session_id: str, path: str, chunks: AsyncIterator[bytes]) -> FileInfo:
        """Write a file, whole or not at all, in place of one of its name; raises DiskFull as well."""
        session = await self._service.find(caller, session_id)
        if fault := fault_of(path):
            raise InvalidRequest(f"path: {fault}", param="path")
        async with self._reach(session) as files:
            return await files.write(path, chunks)

    async def delete(self, caller: Caller, session_id: str, path: str) -> None:
        """Remove a file, a link (not what it leads to) or an empty directory."""
        session = await self._service.find(caller, session_id)
        _require_inside(path)
        async with self._reach(session) as files:
            await files.delete(path)

    async def _find(self, caller: Caller, session_id: str, path: str) -> tuple[Session, FoundFile]:
        session = await self._service.find(caller, session_id)
        _require_inside(path)
        async with self._reach(session) as files:
            return session, await files.find(path)

    async def _pieces(
        self, session: Session, found: FoundFile, start: int, end: int
    ) -> AsyncGenerator[bytes | bytearray, None]:
        async with self._reach(session) as files:
            while start < end:
                piece = await files.read(found, start=start, length=min(CHUNK_BYTES, end - start))
                start += len(piece)
                yield piece
                del piece  # not to be held beside the next

    @asynccontextmanager
    async def _reach(self, session: Session) -> AsyncIterator[KernelFiles]:
        """Reach the session's kernel; where that fails since its sandbox died, the session is ended, and says so."""
        kernel = self._connect(session)
        try:
            with self._place(session.id):
                async with kernel.control() as ask:
                    yield KernelFiles(self._while_alive(session, ask), disk_bytes=self._disk_bytes)
        except KernelFailed as error:
            await self._require_life(session, looks=DEATH_LOOKS if isinstance(error.__cause__, ConnectionLost) else 1)
            raise

    @contextmanager
    def _place(self, session_id: str) -> Iterator[None]:
        if self._at_once[session_id] >= MAX_AT_ONCE:
            raise TooManyTransfers
        self._at_once[session_id] += 1
        try:
            yield
        finally:
            self._at_once[session_id] -= 1
            if not self._at_once[session_id]:
                del self._at_once[session_id]

    def _while_alive(self, session: Session, ask: Ask) -> Ask:
        """Return a way to ask that looks now and then whether anybody is left to answer.

        A dead kernel's socket may take connections still, since another process of its sandbox holds it.
        """

        async def ask_the_living(message_type: str, content: dict[str, Any], buffers: Sequence[bytes] = ()) -> Reply:
            task = asyncio.ensure_future(ask(message_type, content, buffers))
            try:
                while not (await asyncio.wait({task}, timeout=WATCH_SECONDS))[0]:
                    await self._require_life(session, looks=1)
                return task.result()
            finally:
                task.cancel()
                await asyncio.wait({task})  # its connection is as it leaves it only then

        return ask_the_living

    async def _require_life(self, session: Session, *, looks: int) -> None:
        """Raise SessionNotFound if the sandbox is dead; an engine that does not answer tells of no death."""
        for _ in range(looks):
            try:
                status = await self._driver.inspect(session.sandbox_id)
            except SandboxFailed:
                return
            if status is None or not status.is_running:
                reason = await self._service.end(session, reason_of_death(status))
                raise SessionNotFound(session.id, reason=reason)
            if looks > 1:
                await asyncio.sleep(DEATH_LOOK_SECONDS)


def _require_inside(path: str) -> None:
    if fault := fault_of_existing(path):
        raise InvalidRequest(f"path: {fault}", param="path")
