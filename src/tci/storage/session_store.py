"""Sessions and their ledger rows: the record of what was opened, used, ended and billed."""

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Integer,
    Row,
    Select,
    and_,
    bindparam,
    case,
    func,
    insert,
    literal,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from tci.settings import EgressPolicy
from tci.storage.database import committing, reading, writing, writing_once
from tci.storage.tables import UtcDateTime, accounts, deployment, ledger, sessions
from tci.storage.usage_store import Position


class EndReason(StrEnum):
    """Why a session ended; the value completes the sentence 'It ...' for its owner."""

    EXPIRED = "expired"
    ENDED = "was ended on request"
    SHUTDOWN = "ended with the service"
    TIMEOUT = "ended: time limit"
    CLIENT_LEFT = "ended: its caller left"
    OUTPUT_LIMIT = "ended: one output was far over the limit"
    OUT_OF_MEMORY = "ended: out of memory"
    KERNEL_DIED = "ended: its kernel died"
    LOST = "ended: its sandbox was lost"
    FAILED = "ended: the service failed it"


OUR_FAULT = frozenset({EndReason.SHUTDOWN, EndReason.LOST, EndReason.FAILED})
"""Ends that are not the caller's doing: a session that had given no answer by then costs nothing."""


@dataclass(frozen=True, slots=True)
class Session:
    """One session as recorded. Moments are aware UTC."""

    id: str
    account_id: int
    account: str
    sandbox_id: str
    kernel_key: str
    started_at: dt.datetime
    last_execute_at: dt.datetime
    expires_at: dt.datetime
    execute_count: int
    egress: EgressPolicy = EgressPolicy.NONE
    ended_at: dt.datetime | None = None
    end_reason: str | None = None
    key_id: int | None = None
    """The key that opened it."""
    answered_at: dt.datetime | None = None
    """When its caller first got an answer that names it."""
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)
    """What its caller wrote on it."""
    memory_bytes: int | None = None
    """Its own limit; None, as are the processors: opened before there were any, so it has the operator's."""
    cpus: float | None = None

    @property
    def position(self) -> Position:
        """Where it stands in the list."""
        return Position(self.started_at, self.id)

    @property
    def is_live(self) -> bool:
        """Whether the session may still execute."""
        return self.ended_at is None


COLUMNS = [column.name for column in fields(Session)]
"""What is read of a session: all that it holds, in this order."""

MOMENT = bindparam("moment", type_=UtcDateTime)
KNOWN = bindparam("known", type_=Integer)

COUNT = (
    update(sessions)
    .where(sessions.c.id == bindparam("session"))
    .values(
        execute_count=case((sessions.c.execute_count < KNOWN, KNOWN), else_=sessions.c.execute_count) + 1,
        last_execute_at=MOMENT,
        answered_at=func.coalesce(sessions.c.answered_at, MOMENT),
    )
    .returning(sessions.c.execute_count)
)
"""Counts one execution. Built once: to build it takes longer than to run it, and it is run with each execution."""


@dataclass(frozen=True, slots=True)
class Bill:
    """One row of the ledger."""

    session_id: str
    account_id: int
    key_id: int | None
    amount_usd: Decimal
    created_at: dt.datetime
    is_waived: bool


@dataclass(frozen=True, slots=True)
class LivePage:
    """Some live sessions, newest first, and where the next page goes on."""

    sessions: list[Session]
    next: Position | None


class SessionStore:
    """Each method is one short transaction; none is held while code runs."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._committing = committing(engine)

    async def deployment_id(self) -> str:
        """Return the name of this installation, which the first migration made."""
        async with reading(self._engine) as db:
            return str((await db.execute(select(deployment.c.id))).scalar_one())

    async def open(self, session: Session, *, price_usd: Decimal) -> None:
        """Record a new session and bill it, both or neither."""
        columns = {column.name: getattr(session, column.name) for column in sessions.columns}
        columns["metadata"] = dict(session.metadata) or None
        bill = {
            "session_id": session.id,
            "account_id": session.account_id,
            "key_id": session.key_id,
            "amount_usd": price_usd,
            "created_at": session.started_at,
            "day": session.started_at.astimezone(dt.UTC).date(),
        }
        async with writing(self._engine) as db:
            await db.execute(insert(sessions).values(columns))
            await db.execute(insert(ledger).values(bill))

    async def get(self, session_id: str) -> Session | None:
        """Return a session, live or ended, or None."""
        async with reading(self._engine) as db:
            row = (await db.execute(_query().where(sessions.c.id == session_id))).first()
        return None if row is None else _session(row)

    async def find(self, sandbox_id: str) -> Session | None:
        """Return the session of a sandbox, live or ended, or None."""
        async with reading(self._engine) as db:
            row = (await db.execute(_query().where(sessions.c.sandbox_id == sandbox_id))).first()
        return None if row is None else _session(row)

    async def live_sandboxes(self) -> set[str]:
        """Return the ids of all live sessions' sandboxes."""
        query = select(sessions.c.sandbox_id).where(sessions.c.ended_at.is_(None))
        async with reading(self._engine) as db:
            return set(await db.scalars(query))

    async def bills(self, *, since: dt.datetime) -> list[Bill]:
        """Return the ledger's rows from a moment on."""
        columns = (*(ledger.c[column.name] for column in fields(Bill)[:-1]), ledger.c.waived_at.is_not(None))
        async with reading(self._engine) as db:
            return [Bill(*row) for row in await db.execute(select(*columns).where(ledger.c.created_at >= since))]

    async def count_live(self) -> int:
        """Return how many sessions are live."""
        query = select(func.count()).where(sessions.c.ended_at.is_(None))
        async with reading(self._engine) as db:
            return int((await db.execute(query)).scalar_one())

    async def list_live(self, *, account_id: int | None = None) -> list[Session]:
        """Return live sessions, newest first, of one account or of all."""
        async with reading(self._engine) as db:
            return [_session(row) for row in await db.execute(_live(account_id))]

    async def page(
        self,
        now: dt.datetime,
        *,
        account_id: int | None = None,
        metadata: Iterable[tuple[str, str]] = (),
        after: Position | None = None,
        limit: int | None = None,
    ) -> LivePage:
        """Return so many live sessions from a place on, newest first, that have not expired and carry this metadata."""
        query = _live(account_id).where(sessions.c.expires_at > now, *_after(after))
        for name, value in metadata:
            query = query.where(sessions.c.metadata[name].as_string() == value)
        if limit is not None:
            query = query.limit(limit + 1)
        async with reading(self._engine) as db:
            found = [_session(row) for row in await db.execute(query)]
        page = found[:limit]
        return LivePage(sessions=page, next=page[-1].position if len(found) > len(page) else None)

    async def mark_answered(self, session_id: str, at: dt.datetime) -> None:
        """Note that its caller got an answer that names it; the first stands."""
        change = update(sessions).where(sessions.c.id == session_id, sessions.c.answered_at.is_(None))
        async with writing(self._engine) as db:
            await db.execute(change.values(answered_at=at))

    async def count_execution(self, session_id: str, at: dt.datetime, *, known: int = 0) -> int:
        """Count one execution and return the new count. Not to be repeated: see `count_unless_counted`.

        `known`: how many there were before, as far as the caller knows. The database may be behind, since it was away.
        """
        values = {"session": session_id, "moment": at, "known": known}
        async with writing_once(self._committing) as db:
            return int((await db.execute(COUNT, values)).scalar_one())

    async def count_unless_counted(self, session_id: str, at: dt.datetime, *, known: int) -> int:
        """Count an execution of which it is not known whether it was counted, unless it was; return the count.

        If it was, and no more than one other after it, then either the count shows it, or the moment of the last one.
        """
        session = sessions.c
        is_missing = or_(
            session.execute_count <= known, and_(session.execute_count == known + 1, session.last_execute_at != at)
        )
        change = (
            update(sessions)
            .where(session.id == session_id, is_missing)
            .values(
                execute_count=case((session.execute_count < known, known), else_=session.execute_count) + 1,
                last_execute_at=case(
                    (or_(session.execute_count <= known, session.last_execute_at < at), at),
                    else_=session.last_execute_at,
                ),
                answered_at=func.coalesce(session.answered_at, at),
            )
        )
        async with writing(self._engine) as db:
            await db.execute(change)
            return int((await db.execute(select(session.execute_count).where(session.id == session_id))).scalar_one())

    async def end(self, session_id: str, reason: EndReason) -> EndReason:
        """Mark a session ended and return why it was: if it had ended already, the first reason stands.

        In the same transaction its price is waived, if it ended by our fault before its first answer.
        """
        now = dt.datetime.now(dt.UTC)
        change = (
            update(sessions)
            .where(sessions.c.id == session_id, sessions.c.ended_at.is_(None))
            .values(ended_at=now, end_reason=reason.value)
            .returning(sessions.c.answered_at)
        )
        async with writing(self._engine) as db:
            row = (await db.execute(change)).first()
            if row is None:
                first = await db.scalar(select(sessions.c.end_reason).where(sessions.c.id == session_id))
                return reason if first is None else EndReason(first)
            if row.answered_at is None and reason in OUR_FAULT:
                await db.execute(update(ledger).where(ledger.c.session_id == session_id).values(waived_at=now))
        return reason

    async def bill(self, session_id: str) -> Bill | None:
        """Return what a session costs, or None if it was never recorded."""
        columns = (*(ledger.c[column.name] for column in fields(Bill)[:-1]), ledger.c.waived_at.is_not(None))
        async with reading(self._engine) as db:
            row = (await db.execute(select(*columns).where(ledger.c.session_id == session_id))).first()
        return None if row is None else Bill(*row)


def _query() -> Select[tuple[Any, ...]]:
    columns = [accounts.c.name if name == "account" else sessions.c[name] for name in COLUMNS]
    return select(*columns).join(accounts, accounts.c.id == sessions.c.account_id)


def _live(account_id: int | None) -> Select[tuple[Any, ...]]:
    """Ask for live sessions, newest first, of one account or of all."""
    query = _query().where(sessions.c.ended_at.is_(None))
    if account_id is not None:
        query = query.where(sessions.c.account_id == account_id)
    return query.order_by(sessions.c.started_at.desc(), sessions.c.id.desc())


def _after(place: Position | None) -> tuple[ColumnElement[bool], ...]:
    """Leave out what stands before a place; the first says no more than the second, but SQLite looks it up."""
    if place is None:
        return ()
    key = tuple_(literal(place.started_at, UtcDateTime), literal(place.session_id))
    return (sessions.c.started_at <= place.started_at, tuple_(sessions.c.started_at, sessions.c.id) < key)


def _session(row: Row[tuple[Any, ...]]) -> Session:
    # By place: a list may hold thousands, and by name takes longer.
    columns: dict[str, Any] = dict(zip(COLUMNS, row, strict=True))
    columns["egress"] = EgressPolicy(columns["egress"])
    columns["metadata"] = columns["metadata"] or {}
    return Session(**columns)
