"""Books that balance raise no complaint, and each check of the chaos suite complains of books that were falsified."""

import datetime as dt
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from tests.chaos.books import Books, complaints
from tests.chaos.call import Call, Outcome
from tests.chaos.faults import Fault

STARTED = dt.datetime(2026, 3, 14, 23, 59, 45, tzinfo=dt.UTC)
START = STARTED.timestamp()
LIVE, ENDED, WAIVED = "ses_live", "ses_ended", "ses_waived"
NOT_RUN = "Redis does not answer. Nothing was run; try again soon."


def call(token: str, second: float, *, history: str = "", asked: str | None = LIVE, **fields: Any) -> Call:
    """Return a call of one second's length; it is answered if it shows a history."""
    times = {"sent": START + second, "ended": START + second + 1}
    if not history:
        return Call(token, asked, "ok", **times, **{"outcome": Outcome.FAILED, **fields})
    count = len(history.split())
    answer = {"status": 200, "session_id": asked or LIVE, "verdict": "ok", "execute_count": count}
    return Call(
        token, asked, "ok", **times, outcome=Outcome.ANSWERED, history=tuple(history.split()), **answer | fields
    )


def row(session_id: str, *, count: int, **fields: Any) -> dict[str, Any]:
    """Return a session as it is recorded."""
    usual = {
        "id": session_id,
        "account_id": 1,
        "key_id": 2,
        "sandbox_id": f"sbx_{session_id}",
        "started_at": STARTED,
        "expires_at": STARTED + dt.timedelta(minutes=1),
        "answered_at": STARTED + dt.timedelta(seconds=1) if count else None,
        "execute_count": count,
        "ended_at": None,
        "end_reason": None,
    }
    return usual | fields


def bill(session_id: str, **fields: Any) -> dict[str, Any]:
    """Return a row of the ledger."""
    usual = {"session_id": session_id, "account_id": 1, "key_id": 2, "amount_usd": Decimal("0.030000")}
    return {**usual, "created_at": STARTED, "waived_at": None, **fields}


def balanced() -> Books:
    """Return books of one session that lives, one whose kernel was killed, and one that never opened."""
    at = {second: STARTED + dt.timedelta(seconds=second) for second in (21, 31)}
    place = {LIVE: (START + 60) * 1000}
    sums = {"sessions": "2", "spend_micro_usd": "60000"}
    return Books(
        calls=[
            call("a", 0, history="a", asked=None),
            call("b", 2, history="a b"),
            call("lost", 3, outcome=Outcome.BROKEN),
            call("refused", 4, status=503, code="unavailable", message=NOT_RUN),
            call("c", 6, history="a b lost c"),
            call("d", 7, history="d", asked=None, session_id=ENDED),
            call(
                "e", 20, asked=ENDED, outcome=Outcome.ANSWERED, session_id=ENDED, verdict="kernel_died", execute_count=2
            ),
            call("f", 30, asked=ENDED, status=404, code="session_not_found", message="It ended."),
        ],
        faults=[
            Fault("redis killed", START + 3, START + 4),
            Fault("kernel killed", START + 20, START + 20, f"sbx_{ENDED}"),
            Fault("service killed", START + 30, START + 31),
        ],
        sessions=[
            row(LIVE, count=4),
            row(ENDED, count=2, ended_at=at[21], end_reason="ended: its kernel died"),
            row(WAIVED, count=0, ended_at=at[31], end_reason="ended: its sandbox was lost"),
        ],
        ledger=[bill(LIVE), bill(ENDED), bill(WAIVED, waived_at=at[31])],
        live={key: dict(place) for key in ("sessions", "account:1:sessions", "key:2:sessions")},
        counters={
            f"{owner}:{day}": dict(sums) for owner in ("account:1", "key:2") for day in ("2026-03-14", "2026-03")
        },
        traces={place: {f"sbx_{LIVE}"} for place in ("sandboxes", "run directories")},
    )


def reserved(books: Books) -> Books:
    """Add what a crash leaves: a reservation with its place and its price."""
    place = {"ses_x": (START + 30 + 50) * 1000}
    return replace(
        books,
        opening={"ses_x": f"1 2 30000 {int(START + 30) * 1000}"},
        live={key: {**found, **place} for key, found in books.live.items()},
        counters={key: {"sessions": "3", "spend_micro_usd": "90000"} for key in books.counters if key.endswith("-03")}
        | {f"{owner}:2026-03-15": {"sessions": "1", "spend_micro_usd": "30000"} for owner in ("account:1", "key:2")}
        | {f"{owner}:2026-03-14": books.counters[f"{owner}:2026-03-14"] for owner in ("account:1", "key:2")},
        taken=START + 60,
    )


def with_call(number: int, **fields: Any) -> Callable[[Books], Books]:
    """Falsify one call."""

    def falsify(books: Books) -> Books:
        calls = list(books.calls)
        calls[number] = replace(calls[number], **fields)
        return replace(books, calls=calls)

    return falsify


def with_row(session_id: str, **fields: Any) -> Callable[[Books], Books]:
    """Falsify one session's row."""
    return lambda books: replace(
        books, sessions=[row | (fields if row["id"] == session_id else {}) for row in books.sessions]
    )


def with_bill(session_id: str, **fields: Any) -> Callable[[Books], Books]:
    """Falsify one row of the ledger."""
    return lambda books: replace(
        books, ledger=[bill | (fields if bill["session_id"] == session_id else {}) for bill in books.ledger]
    )


def without_fault(name: str) -> Callable[[Books], Books]:
    """Let something not have been broken."""
    return lambda books: replace(books, faults=[fault for fault in books.faults if fault.name != name])


def with_books(**fields: Any) -> Callable[[Books], Books]:
    """Falsify a whole part."""
    return lambda books: replace(books, **fields)


def without_row(session_id: str) -> Callable[[Books], Books]:
    """Lose one session's row."""
    return lambda books: replace(books, sessions=[row for row in books.sessions if row["id"] != session_id])


FALSIFIED = {
    "a call hangs": (with_call(2, outcome=Outcome.HUNG), "no answer"),
    "a bug is answered": (with_call(3, code="internal_error", status=500), "unexpected kind"),
    "a quota is answered": (with_call(3, code="quota_exceeded", status=429), "unexpected kind"),
    "a failure lacks retry-after": (with_call(3, malformed="no retry-after"), "no retry-after"),
    "a failure in peace": (without_fault("redis killed"), "nothing was broken"),
    "another session answers": (with_call(1, session_id=ENDED), "another session"),
    "an answer is another call's": (with_call(1, history=("a",)), "without its own output"),
    "an answer has no output": (with_call(1, history=()), "without its own output"),
    "right code is an error": (with_call(1, verdict="error"), "verdict without a cause"),
    "right code ran out of memory": (with_call(6, verdict="oom"), "verdict without a cause"),
    "wrong code is right": (with_call(1, wants="error"), "verdict without a cause"),
    "a kernel dies by itself": (without_fault("kernel killed"), "verdict without a cause"),
    "an interrupt by nobody": (with_call(1, verdict="interrupted"), "verdict without a cause"),
    "a live session is not found": (with_call(3, code="session_not_found", status=404), "a live session was not"),
    "an unknown session is not found": (with_call(7, asked="ses_none"), "has no row"),
    "a variable is forgotten": (with_call(4, history=("c",)), "two histories"),
    "a call's effect is undone": (with_call(4, history=("a", "c")), "two histories"),
    "code runs twice": (with_call(4, history=("a", "b", "lost", "lost", "c")), "ran 2 times"),
    "another session's code runs": (with_call(4, history=("a", "b", "d", "c")), "was not sent there"),
    "refused code runs": (with_call(4, history=("a", "b", "refused", "c")), "although it was refused"),
    "out of order": (with_call(4, sent=START - 9, ended=START - 8), "forgot something"),
    "an answer is not counted": (with_row(LIVE, execute_count=2), "3 answers to 5 calls, 2 recorded"),
    "an answer is counted twice": (with_row(LIVE, execute_count=6), "6 recorded"),
    "a count goes back": (with_row(LIVE, execute_count=3), "not recorded"),
    "an answer is not noted": (with_row(LIVE, answered_at=None), "by its row it did not"),
    "a session is not recorded": (without_row(LIVE), "is not recorded"),
    "a bill without a session": (without_row(WAIVED), "a bill without a session"),
    "a session is not billed": (lambda books: replace(books, ledger=books.ledger[1:]), "stands 0 times"),
    "a session is billed twice": (lambda books: replace(books, ledger=[*books.ledger, bill(LIVE)]), "stands 2 times"),
    "a wrong price": (with_bill(LIVE, amount_usd=Decimal("0.06")), "a bill is wrong"),
    "another account pays": (with_bill(LIVE, account_id=7), "a bill is wrong"),
    "our failure is billed": (with_bill(WAIVED, waived_at=None), "against its end"),
    "a good session is waived": (with_bill(LIVE, waived_at=STARTED), "against its end"),
    "a waived session answered": (with_call(0, session_id=WAIVED), "a waived session had answered"),
    "no reason": (with_row(ENDED, end_reason=None), "without a reason"),
    "a live session has a reason": (with_row(LIVE, end_reason="expired"), "a live session has a reason"),
    "a session is lost by nobody": (without_fault("kernel killed"), "ended without a cause"),
    "expired too early": (with_row(ENDED, end_reason="expired"), "ended without a cause"),
    "ended since a client left a later call": (with_row(ENDED, end_reason="ended: its caller left"), "without a cause"),
    "ended with a service that did not": (with_row(ENDED, end_reason="ended with the service"), "without a cause"),
    "out of memory": (with_row(ENDED, end_reason="ended: out of memory"), "ended without a cause"),
    "a session that nobody knows": (with_row(WAIVED, ended_at=None, end_reason=None), "never answered"),
    "Redis forgot a session": (with_books(live={}), "live, and not in Redis's sessions"),
    "Redis keeps an ended session": (with_row(LIVE, ended_at=STARTED, end_reason="expired"), "and not live"),
    "Redis ends a session early": (with_row(LIVE, expires_at=STARTED), "ends ses_live at"),
    "Redis forgot the money": (with_books(counters={}), "Redis counts {} in account:1:2026-03"),
    "Redis counts a waived session": (with_bill(WAIVED, waived_at=None), "Redis counts"),
    "a reservation without a crash": (
        lambda books: without_fault("service killed")(reserved(books)),
        "a reservation is left over: ses_x",
    ),
    "a reservation for ever": (
        lambda books: replace(reserved(books), taken=START + 120),
        "a reservation is left over: ses_x",
    ),
    "a reservation without a place": (
        lambda books: replace(reserved(books), live=books.live),
        "live, and not in Redis's account:1:sessions",
    ),
    "a sandbox is left": (
        with_books(traces={"sandboxes": {"sbx_x", f"sbx_{LIVE}"}}),
        "sandboxes without a live session",
    ),
    "a sandbox is gone": (with_books(traces={"sandboxes": set()}), "live sessions without sandboxes"),
}


def test_books_that_agree_raise_no_complaint() -> None:
    assert complaints(balanced()) == []
    assert complaints(reserved(balanced())) == []


@pytest.mark.parametrize("name", FALSIFIED)
def test_falsified_books_raise_a_complaint(name: str) -> None:
    falsify, says = FALSIFIED[name]
    found = complaints(falsify(balanced()))
    assert any(says in complaint for complaint in found), found
