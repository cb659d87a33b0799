"""The books: what clients saw, what was killed, and what is left; and what does not balance between them.

Each check is a pure function of the books, so that a falsified book shows that it can fail: see test_books.py.
"""

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import pairwise
from typing import Any

from tci.storage.session_store import OUR_FAULT, EndReason
from tests.chaos.call import Call, Outcome
from tests.chaos.faults import Fault

PRICE = Decimal("0.03")

OUR_CODES = frozenset({"unavailable", "no_capacity", "sandbox_failed", "sandbox_timeout", "kernel_failed"})
"""Failures that a call may meet while parts die. Never `internal_error`: that is a bug."""

NOTICE_SECONDS = 5.0
"""How long after a fault something may still be its effect: deaths are noticed within two on an idle machine."""

CLOCK_SECONDS = 1.0
"""How far two clocks of this machine's programs may be apart: Redis's, that of the books, and its milliseconds."""

STOPS = frozenset({"service restarted", "service killed"})
"""Faults at which an execution may be interrupted: workers whose supervisor was killed stop as if they were told to."""

DEATHS = frozenset({EndReason.LOST, EndReason.KERNEL_DIED})

CRASHES = frozenset({"service killed", "worker killed"})
"""Faults that leave a reservation, until its window is over."""

WINDOW_SECONDS = 20.0 + 30.0
"""How long a reservation stands: the time limit of a launch (see SETTINGS), and that of its clearing away."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Books:
    """Everything that has to agree."""

    calls: list[Call]
    faults: list[Fault]
    sessions: list[Row]
    ledger: list[Row]
    live: dict[str, dict[str, float]] = field(default_factory=dict)
    """Redis's sets of live sessions with their expiry in milliseconds, by key without the deployment's prefix."""
    counters: dict[str, dict[str, str]] = field(default_factory=dict)
    """Redis's counters, by key without the deployment's prefix."""
    opening: dict[str, str] = field(default_factory=dict)
    """Redis's reservations: account, key, price in millionths and moment in milliseconds."""
    taken: float = 0
    """When the books were taken, by the wall clock."""
    traces: dict[str, set[str]] = field(default_factory=dict)
    """Sandboxes that left something, by the place where it was found."""
    pooled: set[str] = field(default_factory=set)
    """Sandboxes that wait for a session. Nobody is their keeper."""

    def of_session(self) -> dict[str, list[Call]]:
        """Return the calls of each session whose id is known, as they were sent."""
        found = defaultdict(list)
        for call in sorted(self.calls, key=lambda call: call.sent):
            if known := call.asked or call.session_id:
                found[known].append(call)
        return found

    def faults_at(self, began: float, ended: float) -> list[Fault]:
        """Return the faults that something between two moments may be an effect of."""
        return [fault for fault in self.faults if fault.began <= ended and began <= fault.ended + NOTICE_SECONDS]


def complaints(books: Books) -> list[str]:
    """Return what does not balance."""
    checks = (
        failures_are_ours,
        answers_are_right,
        verdicts_have_causes,
        sessions_not_found_have_ended,
        histories_are_one,
        answers_are_recorded,
        sessions_are_billed_once,
        ended_sessions_have_reasons,
        no_session_is_unknown_to_its_caller,
        redis_equals_sql,
        only_live_sessions_have_sandboxes,
    )
    return [f"{check.__name__}: {complaint}" for check in checks for complaint in check(books)]


def failures_are_ours(books: Books) -> Iterator[str]:
    """A failure has our body, a code that says which part is away, and says when to come back."""
    for call in books.calls:
        if call.outcome is Outcome.HUNG:
            yield f"no answer to {call}"
        if call.outcome is not Outcome.FAILED:
            continue
        if call.malformed:
            yield f"{call.malformed}: {call}"
        elif call.code not in OUR_CODES | {"session_not_found"}:
            yield f"failure of an unexpected kind: {call}"
        elif call.code in OUR_CODES - {"no_capacity"} and not books.faults_at(call.sent, call.ended):
            yield f"failure while nothing was broken: {call}"


def answers_are_right(books: Books) -> Iterator[str]:
    """An answer is that of the session that was asked, and shows the history up to its own code."""
    for call in books.calls:
        if call.outcome is not Outcome.ANSWERED:
            continue
        if call.asked is not None and call.session_id != call.asked:
            yield f"answer of another session: {call}"
        if call.verdict in {"ok", "error"} and call.history[-1:] != (call.token,):
            yield f"answer without its own output: {call}"


def verdicts_have_causes(books: Books) -> Iterator[str]:
    """Code that is right is ok, unless what ran it was broken in that moment."""
    ends = {row["id"]: row for row in books.sessions}
    for call in books.calls:
        if call.outcome is not Outcome.ANSWERED or call.verdict == call.wants:
            continue
        row = ends.get(call.session_id or "", {})
        faults = books.faults_at(call.sent, call.ended)
        is_killed = any(fault.sandbox_id and fault.sandbox_id == row.get("sandbox_id") for fault in faults)
        is_stopped = any(fault.name in STOPS for fault in faults)
        is_expired = row and row["expires_at"].timestamp() <= call.ended + CLOCK_SECONDS
        if call.verdict == "kernel_died" and is_killed:
            continue
        if call.verdict == "interrupted" and (is_stopped or is_expired or is_killed):
            continue
        yield f"verdict without a cause: {call}"


def sessions_not_found_have_ended(books: Books) -> Iterator[str]:
    """Only a session that has ended by then is not found."""
    rows = {row["id"]: row for row in books.sessions}
    for call in books.calls:
        if call.code != "session_not_found":
            continue
        row = rows.get(call.asked or "")
        if row is None:
            yield f"a session that answered has no row: {call}"
        elif min(_moment(row["ended_at"]), _moment(row["expires_at"])) > call.ended + CLOCK_SECONDS:
            yield f"a live session was not found: {call}"


def histories_are_one(books: Books) -> Iterator[str]:
    """No code of a session was lost, run twice, or run although a failure said that it was not; all in order."""
    for session_id, calls in books.of_session().items():
        shown = sorted((call for call in calls if call.history), key=lambda call: len(call.history))
        if not shown:
            continue
        longest = shown[-1].history
        for call in shown:
            if longest[: len(call.history)] != call.history:
                yield f"two histories of {session_id}: {call.history} and {longest}"
        for before, after in pairwise(shown):
            if len(before.history) == len(after.history) or after.ended < before.sent:
                yield f"{session_id} forgot something: {before} and {after}"
        yield from _once_each(session_id, calls, longest)


def _once_each(session_id: str, calls: list[Call], history: tuple[str, ...]) -> Iterator[str]:
    sent = {call.token: call for call in calls}
    for token, count in Counter(history).items():
        if count > 1:
            yield f"{token} ran {count} times in {session_id}"
        if token not in sent:
            yield f"{token} ran in {session_id} and was not sent there"
        elif not sent[token].may_have_run:
            yield f"code ran although it was refused: {sent[token]}"


def answers_are_recorded(books: Books) -> Iterator[str]:
    """Each answer is counted in the database, and nothing is that was not sent."""
    rows = {row["id"]: row for row in books.sessions}
    for session_id, calls in books.of_session().items():
        answered = [call for call in calls if call.outcome is Outcome.ANSWERED]
        if not answered:
            continue
        row = rows.get(session_id)
        if row is None:
            yield f"{session_id} answered and is not recorded"
        elif not len(answered) <= row["execute_count"] <= len(calls):
            told = [f"{call.execute_count} told to {call}" for call in calls]
            recorded = row["execute_count"]
            yield f"{session_id}: {len(answered)} answers to {len(calls)} calls, {recorded} recorded: {told}"
        elif row["answered_at"] is None:
            yield f"{session_id} answered, and by its row it did not"
        elif max(call.execute_count for call in answered) > row["execute_count"]:
            yield f"{session_id} told a count of executions that is not recorded"


def sessions_are_billed_once(books: Books) -> Iterator[str]:
    """Each session stands in the ledger once, at its price; waived ones, which we failed, never answered."""
    bills = Counter(bill["session_id"] for bill in books.ledger)
    rows = {row["id"]: row for row in books.sessions}
    yield from (f"{row} stands {bills[row]} times in the ledger" for row in rows if bills[row] != 1)
    yield from (f"a bill without a session: {bill}" for bill in bills if bill not in rows)
    answered = {call.session_id for call in books.calls if call.outcome is Outcome.ANSWERED}
    for bill in books.ledger:
        row = rows.get(bill["session_id"])
        if row is None:
            continue
        if bill["amount_usd"] != PRICE or bill["account_id"] != row["account_id"] or bill["key_id"] != row["key_id"]:
            yield f"a bill is wrong: {bill} for {row}"
        is_our_fault = row["end_reason"] in OUR_FAULT and row["answered_at"] is None
        if is_our_fault != (bill["waived_at"] is not None):
            yield f"waived, or not, against its end: {bill} for {row}"
        if bill["waived_at"] is not None and row["id"] in answered:
            yield f"a waived session had answered: {row}"


def ended_sessions_have_reasons(books: Books) -> Iterator[str]:
    """A session that ended did so for something that was done to it, or since its time was over."""
    for row in books.sessions:
        if row["ended_at"] is None:
            if row["end_reason"] is not None:
                yield f"a live session has a reason to have ended: {row}"
        elif row["end_reason"] not in set(EndReason):
            yield f"a session ended without a reason: {row}"
        elif not _is_caused(books, row):
            yield f"a session ended without a cause: {row}"


def _is_caused(books: Books, row: Row) -> bool:
    reason, ended = EndReason(row["end_reason"]), _moment(row["ended_at"])
    match reason:
        case EndReason.EXPIRED:
            return ended >= _moment(row["expires_at"]) - CLOCK_SECONDS and row["answered_at"] is not None
        case EndReason.CLIENT_LEFT | EndReason.FAILED:
            return row["answered_at"] is None
        case EndReason.LOST | EndReason.KERNEL_DIED:
            is_killed = any(fault.sandbox_id == row["sandbox_id"] for fault in books.faults)
            return is_killed or (reason is EndReason.LOST and row["answered_at"] is None)
        case EndReason.SHUTDOWN:
            stops = {fault.name for fault in books.faults if fault.name in STOPS and fault.began <= ended}
            return "service restarted" in stops or (bool(stops) and row["answered_at"] is None)
        case _:
            return False


def no_session_is_unknown_to_its_caller(books: Books) -> Iterator[str]:
    """No session goes on, or went on to its expiry, whose first answer was never given: nobody could use it."""
    for row in books.sessions:
        if row["ended_at"] is None and row["answered_at"] is None:
            yield f"a session lives that never answered: {row}"


def redis_equals_sql(books: Books) -> Iterator[str]:
    """Redis holds the live sessions and the sums of the ledger, and no reservation is left over."""
    expected_live: dict[str, dict[str, float]] = defaultdict(dict)
    for row in books.sessions:
        if row["ended_at"] is None:
            for key in ("sessions", f"account:{row['account_id']}:sessions", f"key:{row['key_id']}:sessions"):
                expected_live[key][row["id"]] = _moment(row["expires_at"]) * 1000
    for session_id, (account_id, key_id, _price, began) in _reservations(books).items():
        for key in ("sessions", f"account:{account_id}:sessions", f"key:{key_id}:sessions"):
            expected_live[key][session_id] = began + WINDOW_SECONDS * 1000
    for key in sorted(expected_live.keys() | books.live.keys()):
        yield from _compare_sets(key, expected_live.get(key, {}), books.live.get(key, {}))
    expected = _sums(books)
    for key in sorted(expected.keys() | books.counters.keys()):
        found = {name: int(value) for name, value in books.counters.get(key, {}).items() if int(value)}
        if found != (wanted := {name: value for name, value in expected.get(key, {}).items() if value}):
            yield f"Redis counts {found} in {key}, the ledger {wanted}"
    yield from _left_over(books)


def _reservations(books: Books) -> dict[str, list[int]]:
    return {session_id: [int(part) for part in text.split()] for session_id, text in books.opening.items()}


def _left_over(books: Books) -> Iterator[str]:
    """Only a crash leaves a reservation, and for no longer than a launch may take."""
    for session_id, (*_owner, milliseconds) in _reservations(books).items():
        began = milliseconds / 1000
        is_crash = any(fault.name in CRASHES for fault in books.faults_at(began, began + WINDOW_SECONDS))
        if not is_crash or books.taken > began + WINDOW_SECONDS + NOTICE_SECONDS:
            yield f"a reservation is left over: {session_id} of {books.taken - began:.0f} s ago"


def _compare_sets(key: str, expected: dict[str, float], found: dict[str, float]) -> Iterator[str]:
    if missing := expected.keys() - found.keys():
        yield f"live, and not in Redis's {key}: {sorted(missing)}"
    if extra := found.keys() - expected.keys():
        yield f"in Redis's {key}, and not live: {sorted(extra)}"
    for session_id in expected.keys() & found.keys():
        if abs(expected[session_id] - found[session_id]) > 1:
            yield f"Redis's {key} ends {session_id} at {found[session_id]}, the row at {expected[session_id]}"


def _sums(books: Books) -> dict[str, dict[str, int]]:
    """Return what the counters are to hold: what is paid, and what is about to be."""
    paid = [bill for bill in books.ledger if bill["waived_at"] is None]
    entries = [
        (bill["account_id"], bill["key_id"], int(bill["amount_usd"] * 10**6), bill["created_at"]) for bill in paid
    ]
    for account_id, key_id, price, milliseconds in _reservations(books).values():
        entries.append((account_id, key_id, price, dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC)))
    sums: dict[str, dict[str, int]] = defaultdict(lambda: {"sessions": 0, "spend_micro_usd": 0})
    for account_id, key_id, price, moment in entries:
        day = moment.astimezone(dt.UTC).date().isoformat()
        for key in (
            f"{owner}:{time}" for owner in (f"account:{account_id}", f"key:{key_id}") for time in (day, day[:7])
        ):
            sums[key]["sessions"] += 1
            sums[key]["spend_micro_usd"] += price
    return sums


def only_live_sessions_have_sandboxes(books: Books) -> Iterator[str]:
    """Of an ended session nothing is left anywhere, and of a live one, and of the pool, everything is there."""
    live = {row["sandbox_id"] for row in books.sessions if row["ended_at"] is None}
    for place, found in books.traces.items():
        known = live if place == "keepers" else live | books.pooled
        if extra := found - known:
            yield f"{place} without a live session: {sorted(extra)}"
        if missing := (known if place in {"sandboxes", "run"} else live) - found:
            yield f"live sessions without {place}: {sorted(missing)}"


def _moment(moment: dt.datetime | None) -> float:
    return float("inf") if moment is None else moment.timestamp()
