"""Usage as an account sees its own, as an admin key sees all, and on the command line."""

import base64
import csv
import datetime as dt
import io
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.api.failures import assert_failure
from tests.conftest import Service

YESTERDAY = (dt.datetime.now(dt.UTC) - dt.timedelta(days=1)).date()
SPAN = {"from": str(YESTERDAY), "to": str(YESTERDAY + dt.timedelta(days=7))}
"""Days that hold whatever the tests do, were it midnight at the end of a month."""


def usage_of(client: httpx.Client, **query: object) -> dict[str, Any]:
    """Return the `data` of an answer."""
    answer = client.get("/tci/usage", params={**SPAN, **query})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    data: dict[str, Any] = body["data"]
    assert body == {"data": data, "errors": None}
    return data


@contextmanager
def client_of(service: Service, key: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=120, headers={"Authorization": f"Bearer {key}"}) as client:
        yield client


@pytest.fixture(scope="module")
def account(service: Service) -> str:
    """An account of its own, with two sessions that are over and a live one; each has run as often as it is old."""
    name = f"account {uuid.uuid4()}"
    headers = {"Authorization": f"Bearer {service.new_key(name)}"}
    opened = []
    for count in (3, 2, 1):
        session_id = None
        for _ in range(count):
            answer = service.post({"code": "", "session_id": session_id}, headers=headers)
            session_id = answer.json()["data"]["session_id"]
        opened.append(session_id)
    for session_id in opened[:2]:
        service.tci("sessions", "end", session_id)
    return name


@pytest.fixture(scope="module")
def owner(service: Service, account: str) -> Iterator[httpx.Client]:
    """Its caller."""
    with client_of(service, service.new_key(account)) as client:
        yield client


@pytest.fixture(scope="module")
def admin(service: Service) -> Iterator[httpx.Client]:
    """A caller whose key sees every account."""
    key = service.tci("keys", "create", "--account", "operator", "--admin").stdout.strip()
    with client_of(service, key) as client:
        yield client


def test_own_sessions_are_billed_each_once(owner: httpx.Client, account: str) -> None:
    data = usage_of(owner)
    assert {name: data[name] for name in ("from", "to", "totals", "next_cursor")} == {
        **SPAN,
        "totals": {"sessions": 3, "amount_usd": "0.09"},
        "next_cursor": None,
    }
    assert {day["account"] for day in data["days"]} == {account}
    assert sum(day["sessions"] for day in data["days"]) == 3
    assert {day["date"] for day in data["days"]} == {session["started_at"][:10] for session in data["sessions"]}
    assert [session["execute_count"] for session in data["sessions"]] == [1, 2, 3], "newest first"
    live, *over = data["sessions"]
    assert (live["ended_at"], live["end_reason"]) == (None, None)
    for session in over:
        assert session["started_at"] < session["ended_at"]
        assert session["end_reason"] == "was ended on request"
    for session in data["sessions"]:
        assert session.keys() == {
            *("id", "account", "started_at", "ended_at", "end_reason", "execute_count", "amount_usd", "waived")
        }
        assert (session["account"], session["amount_usd"], session["waived"]) == (account, "0.03", False)


def test_usage_below_v1_is_the_same(owner: httpx.Client) -> None:
    assert owner.get("/v1/tci/usage", params=SPAN).json()["data"] == usage_of(owner)


def test_without_a_query_it_is_this_month(owner: httpx.Client) -> None:
    data = owner.get("/tci/usage").json()["data"]
    today = dt.date.fromisoformat(data["to"])
    assert today - YESTERDAY in (dt.timedelta(days=1), dt.timedelta(days=2)), "the second at midnight only"
    assert data["from"] == str(today.replace(day=1))


def test_only_an_end_begins_with_its_month(owner: httpx.Client) -> None:
    data = owner.get("/tci/usage", params={"to": "2024-02-29"}).json()["data"]
    nothing = {"totals": {"sessions": 0, "amount_usd": "0.00"}, "days": [], "sessions": [], "next_cursor": None}
    assert data == {"from": "2024-02-01", "to": "2024-02-29", **nothing}


def test_pages_hold_every_session_once_and_the_same_totals(owner: httpx.Client) -> None:
    whole = usage_of(owner)
    found, cursor = [], ""
    while cursor is not None:
        data = usage_of(owner, limit=2, **({"cursor": cursor} if cursor else {}))
        assert (data["totals"], data["days"]) == (whole["totals"], whole["days"])
        found += data["sessions"]
        cursor = data["next_cursor"]
    assert found == whole["sessions"]


def test_other_account_is_not_found_whether_it_is_there_or_not(owner: httpx.Client, account: str) -> None:
    assert usage_of(owner, account=account) == usage_of(owner)
    for name in ("default", "operator", "nobody at all", "", "a\0b", "'; DROP TABLE ledger; --", "x" * 10_000):
        answer = owner.get("/tci/usage", params={**SPAN, "account": name})
        assert_failure(answer, 404, "account_not_found", param="account")
    answers = [owner.get("/tci/usage", params={"account": name}) for name in ("default", "nobody at all")]
    texts = [answer.text.replace(name, "?") for answer, name in zip(answers, ("default", "nobody at all"), strict=True)]
    assert texts[0] == texts[1]


def test_admin_key_sees_one_account_or_all(admin: httpx.Client, owner: httpx.Client, account: str) -> None:
    one = usage_of(admin, account=account)
    assert one == usage_of(owner)
    every = usage_of(admin, limit=1000)
    assert {day["account"] for day in every["days"]} >= {account}
    assert [session for session in every["sessions"] if session["account"] == account] == one["sessions"]
    assert every["totals"]["sessions"] == sum(day["sessions"] for day in every["days"])
    assert every["totals"]["sessions"] >= 3
    for name in ("nobody at all", "", "a\0b"):
        answer = admin.get("/tci/usage", params={"account": name})
        assert_failure(answer, 404, "account_not_found", param="account")


def test_admin_key_opens_no_other_account(admin: httpx.Client, owner: httpx.Client) -> None:
    """It looks at bills; the sessions stay their owner's."""
    live = usage_of(owner)["sessions"][0]["id"]
    answer = admin.post("/tci/execute", json={"code": "", "session_id": live})
    assert_failure(answer, 404, "session_not_found", param="session_id")


def cursor_of(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


ID = "ses_" + "1" * 21

MALFORMED = [
    ("from", "2026-13-01"),
    ("from", "2026-02-30"),
    ("from", "yesterday"),
    ("from", "1790000000"),
    ("from", "2026-11-01T00:00:00Z"),
    ("from", ""),
    ("from", "\u0662026-11-01"),
    ("to", "1999-12-31"),
    ("to", "9999-12-31x"),
    ("to", "20261130"),
    ("to", "null"),
    ("limit", "0"),
    ("limit", "-1"),
    ("limit", "1001"),
    ("limit", "ten"),
    ("limit", "1e2"),
    ("limit", "9" * 400),
    ("cursor", ""),
    ("cursor", "x"),
    ("cursor", "\N{SNOWMAN}"),
    ("cursor", cursor_of("")),
    ("cursor", cursor_of("2026-11-01T00:00:00+00:00")),
    ("cursor", cursor_of(f"2026-11-01T00:00:00 {ID}")),
    ("cursor", cursor_of(f"0001-01-01T00:00:00+23:59 {ID}")),
    ("cursor", cursor_of("2026-11-01T00:00:00+00:00 ses_\0")),
    ("cursor", cursor_of(f"2026-11-01T00:00:00+00:00 {ID} {ID}")),
]


@pytest.mark.parametrize(("name", "value"), MALFORMED)
def test_malformed_query_is_refused_by_name(owner: httpx.Client, name: str, value: str) -> None:
    answer = owner.get("/tci/usage", params={name: value})
    assert assert_failure(answer, 400, "invalid_request", param=name).startswith(f"{name}: ")


@pytest.mark.parametrize(("first", "last"), [("2026-11-02", "2026-11-01"), ("2025-01-01", "2026-01-02")])
def test_days_out_of_order_or_too_many_are_refused(owner: httpx.Client, first: str, last: str) -> None:
    answer = owner.get("/tci/usage", params={"from": first, "to": last})
    assert_failure(answer, 400, "invalid_request", param="from")


@pytest.mark.parametrize("query", [{"from": "2025-01-01", "to": "2026-01-01"}, {"to": "2999-12-31"}, {"other": "x"}])
def test_query_at_its_bounds_is_answered(owner: httpx.Client, query: dict[str, str]) -> None:
    assert owner.get("/tci/usage", params=query).status_code == 200


@pytest.mark.parametrize("query", [{}, {"limit": "ten"}, {"account": "default"}, {"cursor": "x"}])
def test_usage_without_a_key_tells_nothing(anonymous: httpx.Client, query: dict[str, str]) -> None:
    assert_failure(anonymous.get("/tci/usage", params=query), 401, "invalid_api_key")


def lines_of(service: Service, *arguments: str) -> list[str]:
    return service.tci("usage", *arguments).stdout.splitlines()


@pytest.fixture
def in_month(owner: httpx.Client) -> Callable[[], tuple[str, list[dict[str, Any]]]]:
    """The month of the account's newest session, and its sessions in that month."""

    def find() -> tuple[str, list[dict[str, Any]]]:
        sessions = usage_of(owner)["sessions"]
        month: str = sessions[0]["started_at"][:7]
        return month, [session for session in sessions if session["started_at"].startswith(month)]

    return find


def test_command_prints_days_and_their_total(service: Service, account: str, in_month: Any) -> None:
    month, sessions = in_month()
    header, *days, in_all = lines_of(service, "--account", account, "--month", month)
    assert header.split() == ["date", "account", "sessions", "USD"]
    assert {day[:10] for day in days} == {session["started_at"][:10] for session in sessions}
    assert all(account in day for day in days)
    assert in_all.split() == ["total", str(len(sessions)), f"0.0{3 * len(sessions)}"]
    assert len({len(line) for line in (header, *days, in_all)}) == 1, "columns are aligned"


def test_command_prints_sessions_as_csv(service: Service, account: str, in_month: Any) -> None:
    month, sessions = in_month()
    text = "\n".join(lines_of(service, "--account", account, "--month", month, "--csv"))
    expected = [
        {
            "session_id": session["id"],
            **{name: str(session[name] or "") for name in ("account", "started_at", "ended_at", "end_reason")},
            "execute_count": str(session["execute_count"]),
            "amount_usd": "0.03",
            "waived": "no",
        }
        for session in sessions
    ]
    assert list(csv.DictReader(io.StringIO(text))) == expected
    assert len(lines_of(service, "--month", month, "--csv")) >= len(expected) + 1, "and every account without a name"
