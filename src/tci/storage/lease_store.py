"""The places of live sessions and what accounts and keys have used, in Redis. Everything here is rebuilt from SQL."""

import datetime as dt
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from redis.asyncio import Redis

from tci import metrics
from tci.errors import NoCapacity, QuotaReached, ServiceError, SessionLimitReached, Unavailable
from tci.storage.account_store import Caller, Quota
from tci.storage.redis_client import translated
from tci.storage.session_store import Bill, Session

RESERVE = """
local live, opening, of_account, of_key, counted, account_day, account_month, key_day, key_month = unpack(KEYS)
local id, owner, window, day_start, day_end, price = unpack(ARGV, 1, 6)
local on_machine, per_account, per_key, per_day, per_month = unpack(ARGV, 7, 11)
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
if ms < tonumber(day_start) or ms >= tonumber(day_end) then return {'other day', ms} end
local function is_full(count, limit) return limit ~= '' and tonumber(count or 0) >= tonumber(limit) end
if is_full(redis.call('ZCARD', of_account), per_account) then return {'account', ms} end
if is_full(redis.call('ZCARD', of_key), per_key) then return {'key', ms} end
if is_full(redis.call('HGET', key_day, 'sessions'), per_day) then return {'day', ms} end
local spent = tonumber(redis.call('HGET', key_month, 'spend_micro_usd') or 0)
if per_month ~= '' and spent + tonumber(price) > tonumber(per_month) then return {'month', ms} end
if is_full(redis.call('ZCARD', live), on_machine) then return {'machine', ms} end
for _, places in ipairs({live, of_account, of_key}) do redis.call('ZADD', places, ms + tonumber(window), id) end
redis.call('HSET', opening, id, owner .. ' ' .. ms)
redis.call('SADD', counted, id)
for _, counters in ipairs({account_day, account_month, key_day, key_month}) do
  redis.call('HINCRBY', counters, 'sessions', 1)
  redis.call('HINCRBY', counters, 'spend_micro_usd', price)
  redis.call('EXPIRE', counters, 6000000)
end
redis.call('EXPIRE', counted, 6000000)
return {'ok', ms}
"""
"""Checks every limit, takes the place and counts in one step, so that no two replicas can take the last one.

Counters are kept for 70 days. The clock is Redis's, the name of its day the caller's guess: a wrong one is told.
"""

COUNT = """
local sign, id, amount = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
if redis.call(sign > 0 and 'SADD' or 'SREM', KEYS[1], id) == 0 then return 0 end
for index = 2, #KEYS do
  redis.call('HINCRBY', KEYS[index], 'sessions', sign)
  redis.call('HINCRBY', KEYS[index], 'spend_micro_usd', sign * amount)
  redis.call('EXPIRE', KEYS[index], 6000000)
end
redis.call('EXPIRE', KEYS[1], 6000000)
return 1
"""
"""Counts a bill, or takes it back: once, however often it is asked for and by whomever."""

HOLD = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

MICRO = 1_000_000

QUOTAS = {
    "account": "account_sessions",
    "key": "key_sessions",
    "day": "sessions_per_day",
    "month": "spend_per_month",
}
"""What a refusal of the script is called in the metrics; that of the machine is no quota."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What an account or a key uses and has used, by UTC."""

    live: int
    sessions_of_day: int
    sessions_of_month: int
    spend_of_day_usd: Decimal
    spend_of_month_usd: Decimal


class LeaseStore:
    """Sorted sets of session ids by expiry: of all live sessions, of each account's, of each key's; and counters."""

    def __init__(self, redis: Redis, *, deployment: str) -> None:
        self._redis = redis
        self._prefix = f"tci:{deployment}"
        self._reserve = redis.register_script(RESERVE)
        self._count = redis.register_script(COUNT)
        self._hold = redis.register_script(HOLD)

    def _key(self, *parts: object) -> str:
        return ":".join((self._prefix, *map(str, parts)))

    def _places(self, account_id: int, key_id: int | None) -> list[str]:
        of_account, of_key = self._key("account", account_id, "sessions"), self._key("key", key_id or 0, "sessions")
        return [self._key("sessions"), of_account, of_key]

    def _counters(self, account_id: int, key_id: int | None, at: dt.datetime) -> list[str]:
        """Return the set of what is counted in that month, and the counters of account and key, of day and month."""
        scopes = ("account", account_id), ("key", key_id or 0)
        times = at.strftime("%Y-%m-%d"), at.strftime("%Y-%m")
        return [self._key("counted", times[1]), *(self._key(*scope, time) for scope in scopes for time in times)]

    def _pipeline(self) -> Any:
        # Its methods are typed as if each had to be awaited; here they only queue.
        return self._redis.pipeline()

    async def reserve(
        self,
        session_id: str,
        *,
        caller: Caller,
        window: dt.timedelta,
        price_usd: Decimal,
        account_limit: int,
        machine_limit: int,
    ) -> dt.datetime:
        """Take a place for a session that has that long to open, count it, and return its start by Redis's clock.

        Raises SessionLimitReached, QuotaReached, NoCapacity or Unavailable; then no place is taken. Whoever reserved
        confirms, or abandons if the session does not open; what a crash leaves is due when the window is over.
        """
        quota, price = caller.quota, _micro(price_usd)
        guess = dt.datetime.now(dt.UTC)
        while True:
            day = guess.replace(hour=0, minute=0, second=0, microsecond=0)
            owner = f"{caller.account_id} {caller.key_id or 0} {price}"
            window_ms = int(window.total_seconds() * 1000)
            spend = None if quota.max_spend_per_month_usd is None else _micro(quota.max_spend_per_month_usd)
            bounds = (machine_limit, account_limit, quota.max_sessions, quota.max_sessions_per_day, spend)
            limits = ("" if bound is None else bound for bound in bounds)
            places = self._places(caller.account_id, caller.key_id)
            keys = [places[0], self._key("opening"), *places[1:]]
            with translated():
                answer, moment = await self._reserve(
                    keys=[*keys, *self._counters(caller.account_id, caller.key_id, day)],
                    args=[session_id, owner, window_ms, _ms(day), _ms(day + dt.timedelta(days=1)), price, *limits],
                )
            now = _moment(moment)
            if answer == b"ok":
                return now
            if answer != b"other day":
                raise _refusal(answer.decode(), quota, account_limit=account_limit, machine_limit=machine_limit)
            guess = now

    async def extend(self, session_id: str, window: dt.timedelta) -> None:
        """Keep the place of a session that is not open yet for so long from now; does nothing if it was given back."""
        until = _ms(await self.now() + window)
        with translated():
            await self._redis.zadd(self._key("sessions"), {session_id: until}, xx=True)

    async def confirm(self, session: Session, *, price_usd: Decimal) -> None:
        """Keep the place of a session that is recorded, until it expires, and count its bill. May be repeated."""
        bill = Bill(session.id, session.account_id, session.key_id, price_usd, session.started_at, is_waived=False)
        with translated():
            async with self._pipeline() as pipe:
                self._add(pipe, session)
                pipe.hdel(self._key("opening"), session.id)
                await pipe.execute()
        await self.count(bill)

    async def abandon(self, session_id: str) -> None:
        """Give back the place of a session that did not open, and take its bill back; does nothing if that is done."""
        with translated():
            owner = await self._redis.hget(self._key("opening"), session_id)
        if owner is None:
            with translated():
                await self._redis.zrem(self._key("sessions"), session_id)
            return
        account_id, key_id, price, moment = map(int, owner.split())
        amount = Decimal(price) / MICRO
        await self.count(Bill(session_id, account_id, key_id, amount, _moment(moment), is_waived=True))
        await self._release(session_id, account_id, key_id)

    async def release(self, session: Session) -> None:
        """Give the place of a session that has ended back; does nothing if it is free."""
        await self._release(session.id, session.account_id, session.key_id)

    async def _release(self, session_id: str, account_id: int, key_id: int | None) -> None:
        with translated():
            async with self._pipeline() as pipe:
                for places in self._places(account_id, key_id):
                    pipe.zrem(places, session_id)
                pipe.hdel(self._key("opening"), session_id)
                await pipe.execute()

    async def count(self, bill: Bill) -> None:
        """Count a bill, or take it back if it is waived; does nothing where that has been done."""
        with translated():
            await self._count(**self._counting(bill))

    def _counting(self, bill: Bill) -> dict[str, Any]:
        keys = self._counters(bill.account_id, bill.key_id, bill.created_at)
        return {"keys": keys, "args": [-1 if bill.is_waived else 1, bill.session_id, _micro(bill.amount_usd)]}

    async def counts(self, *, account_id: int | None = None, key_id: int | None = None) -> Counts:
        """Return what an account, or else a key, uses now and has used this day and month."""
        scope = ("key", key_id) if account_id is None else ("account", account_id)
        now = await self.now()
        fields = ["sessions", "spend_micro_usd"]
        with translated():
            async with self._pipeline() as pipe:
                pipe.zcard(self._key(*scope, "sessions"))
                pipe.hmget(self._key(*scope, now.strftime("%Y-%m-%d")), fields)
                pipe.hmget(self._key(*scope, now.strftime("%Y-%m")), fields)
                live, day, month = await pipe.execute()
        return Counts(
            live=live,
            sessions_of_day=int(day[0] or 0),
            sessions_of_month=int(month[0] or 0),
            spend_of_day_usd=Decimal(int(day[1] or 0)) / MICRO,
            spend_of_month_usd=Decimal(int(month[1] or 0)) / MICRO,
        )

    async def require_rate(self, caller: Caller) -> None:
        """Count an execution of a key that may do so many a minute; raises QuotaReached.

        While Redis is away nothing is counted: executions go on.
        """
        limit = caller.quota.max_executions_per_minute
        if limit is None:
            return
        now = dt.datetime.now(dt.UTC)
        counter = self._key("key", caller.key_id or 0, "executions", now.strftime("%H:%M"))
        try:
            with translated():
                async with self._pipeline() as pipe:
                    pipe.incr(counter)
                    pipe.expire(counter, 120)
                    count, _ = await pipe.execute()
        except Unavailable:
            return
        if count > limit:
            metrics.QUOTAS_REFUSED.labels("executions_per_minute").inc()
            raise QuotaReached("executions a minute", limit, code="rate_limited", retry_after=60 - now.second)

    async def now(self) -> dt.datetime:
        """Return the moment by Redis's clock, the one that decides what has expired."""
        with translated():
            seconds, microseconds = await self._redis.time()
        return dt.datetime.fromtimestamp(seconds, dt.UTC) + dt.timedelta(microseconds=microseconds)

    async def now_or_ours(self) -> dt.datetime:
        """Return the moment by Redis's clock; while Redis is away, by this machine's."""
        try:
            return await self.now()
        except Unavailable:
            return dt.datetime.now(dt.UTC)

    async def due(self) -> list[str]:
        """Return the ids of sessions whose time is over, and of those that were never opened."""
        now = await self.now()
        with translated():
            due = await self._redis.zrange(self._key("sessions"), "-inf", now.timestamp() * 1000, byscore=True)
        return _texts(due)

    async def places(self) -> set[str]:
        """Return the ids of all sessions that have a place and are not just being opened."""
        with translated():
            async with self._pipeline() as pipe:
                pipe.hkeys(self._key("opening"))
                pipe.zrange(self._key("sessions"), 0, -1)
                opening, places = await pipe.execute()
        return set(_texts(places)) - set(_texts(opening))

    async def restore(self, live: Iterable[Session]) -> None:
        """Make the sets hold at least every live session: what FLUSHALL or a new Redis took is put back."""
        with translated():
            async with self._pipeline() as pipe:
                for session in live:
                    self._add(pipe, session)
                await pipe.execute()

    def _add(self, pipe: Any, session: Session) -> None:
        for places in self._places(session.account_id, session.key_id):
            pipe.zadd(places, {session.id: _ms(session.expires_at)})

    async def is_current(self) -> bool:
        """Whether the counters are those of this server's run: it has not been emptied or restarted since."""
        with translated():
            async with self._pipeline() as pipe:
                pipe.get(self._key("rebuilt"))
                pipe.info("server")
                marker, info = await pipe.execute()
        return marker is not None and marker.decode() == info["run_id"]

    async def recount(self, bills: Iterable[Bill], *, month: dt.datetime) -> None:
        """Make the counters of a month anew from its bills; what is counted meanwhile is counted once all the same."""
        with translated():
            run_id = (await self._redis.info("server"))["run_id"]
            stale = [key async for key in self._redis.scan_iter(match=self._key("*", f"{month:%Y-%m}*"), count=1000)]
            if stale:
                await self._redis.delete(*stale)
        with translated():
            for some in _batches(bill for bill in bills if not bill.is_waived):
                async with self._pipeline() as pipe:
                    for bill in some:
                        await self._count(client=pipe, **self._counting(bill))
                    await pipe.execute()
            await self._redis.set(self._key("rebuilt"), run_id)

    async def hold(self, name: str, holder: str, *, ttl: dt.timedelta) -> bool:
        """Take a lease, or extend one's own; return whether this holder has it."""
        with translated():
            milliseconds = int(ttl.total_seconds() * 1000)
            return bool(await self._hold(keys=[self._key("lease", name)], args=[holder, milliseconds]))

    async def let_go(self, name: str, holder: str) -> None:
        """Give a lease back, if it is this holder's."""
        if await self.hold(name, holder, ttl=dt.timedelta(seconds=1)):
            with translated():
                await self._redis.delete(self._key("lease", name))


def _batches(bills: Iterable[Bill]) -> Iterator[list[Bill]]:
    rest = iter(bills)
    while some := list(itertools.islice(rest, 1000)):
        yield some


def _refusal(answer: str, quota: Quota, *, account_limit: int, machine_limit: int) -> ServiceError:
    if answer in QUOTAS:
        metrics.QUOTAS_REFUSED.labels(QUOTAS[answer]).inc()
    match answer:
        case "account":
            return SessionLimitReached(account_limit)
        case "key":
            return QuotaReached("sessions at once", quota.max_sessions, retry_after=30)
        case "day":
            return QuotaReached("sessions a day (UTC)", quota.max_sessions_per_day, retry_after=60)
        case "month":
            return QuotaReached("US dollars a month (UTC)", quota.max_spend_per_month_usd, retry_after=60)
        case _:
            return NoCapacity(machine_limit)


def _micro(amount: Decimal) -> int:
    return int(amount * MICRO)


def _ms(moment: dt.datetime) -> int:
    return round(moment.timestamp() * 1000)


def _moment(ms: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(ms / 1000, dt.UTC)


def _texts(values: Iterable[Any]) -> list[str]:
    return [value.decode() for value in values]
