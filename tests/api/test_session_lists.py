"""Lists of live sessions: as the vendor documents them, in pages, by what is written on them, and of every account."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.api.failures import assert_failure
from tests.api.sessions import FIVE, client_of, data_of, ended, new_account, opened, run
from tests.conftest import Service

LITTLE = {"egress": "packages"}


def listed(client: httpx.Client, **query: Any) -> list[dict[str, Any]]:
    sessions: list[dict[str, Any]] = data_of(client.get("/tci/sessions", params=query))["sessions"]
    return sessions


def ids(sessions: list[dict[str, Any]]) -> list[str]:
    return [session["id"] for session in sessions]


@pytest.fixture(scope="module")
def owner(service: Service) -> Iterator[httpx.Client]:
    """A caller whose account is this module's."""
    with new_account(service) as client:
        yield client


@pytest.fixture(scope="module")
def admin(service: Service) -> Iterator[httpx.Client]:
    key = service.tci("keys", "create", "--account", "operator", "--admin").stdout.strip()
    with client_of(service, key) as client:
        yield client


@pytest.fixture(scope="module")
def three(owner: httpx.Client) -> list[dict[str, Any]]:
    """The owner's sessions, newest first, each with metadata of its own."""
    made = [opened(owner, metadata=metadata) for metadata in ({"job": "a"}, {"job": "a", "step": "x:1"}, {})]
    return made[::-1]


def test_list_without_a_query_is_the_documented_one(owner: httpx.Client, three: list[dict[str, Any]]) -> None:
    """To the byte, but for what follows the five documented fields of each session."""
    run(owner, "1", three[0]["id"])
    answer = owner.get("/tci/sessions")
    sessions = answer.json()["data"]["sessions"]
    assert ids(sessions) == ids(three)
    documented = [{name: session[name] for name in FIVE} for session in sessions]
    content = answer.text
    for session in sessions:
        extras = {name: value for name, value in session.items() if name not in FIVE}
        content = content.replace("," + compact(extras)[1:-1] + "}", "}", 1)
    assert content == compact({"data": {"sessions": documented}, "errors": None})
    assert sessions[1:] == three[1:]
    assert owner.get("/v1/tci/sessions").text == answer.text


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def test_pages_hold_every_session_once(owner: httpx.Client, three: list[dict[str, Any]]) -> None:
    found, cursor, sizes = [], "", []
    while cursor is not None:
        data = data_of(owner.get("/tci/sessions", params={"limit": 2, **({"cursor": cursor} if cursor else {})}))
        assert data.keys() == {"sessions", "next_cursor"}
        found += ids(data["sessions"])
        sizes.append(len(data["sessions"]))
        cursor = data["next_cursor"]
    assert (found, sizes) == (ids(three), [2, 1])
    whole = data_of(owner.get("/tci/sessions", params={"limit": 3}))
    assert (ids(whole["sessions"]), whole["next_cursor"]) == (ids(three), None)


def test_session_opened_meanwhile_moves_no_page(owner: httpx.Client, three: list[dict[str, Any]]) -> None:
    first = data_of(owner.get("/tci/sessions", params={"limit": 1}))
    new = opened(owner)
    rest = listed(owner, cursor=first["next_cursor"])
    ended(owner, new["id"])
    assert ids(first["sessions"] + rest) == ids(three)


@pytest.mark.parametrize(
    ("metadata", "places"),
    [
        (["job:a"], [1, 2]),
        (["job:a", "step:x:1"], [1]),
        (["step:x:1"], [1]),
        (["step:x"], []),
        (["job:A"], []),
        (["job:"], []),
        (["none:a"], []),
        (["job:' OR 1=1 --"], []),
        (["job:\N{SNOWMAN}"], []),
        ([f"job:{'x' * 5000}"], []),
    ],
    ids=lambda value: str(value)[:40],
)
def test_metadata_chooses(
    owner: httpx.Client, three: list[dict[str, Any]], metadata: list[str], places: list[int]
) -> None:
    assert ids(listed(owner, metadata=metadata)) == [three[place]["id"] for place in places]
    data = data_of(owner.get("/tci/sessions", params={"metadata": metadata, "limit": 1}))
    assert ids(data["sessions"]) == [three[place]["id"] for place in places[:1]]
    assert (data["next_cursor"] is not None) is (len(places) > 1)


MALFORMED = [
    ("limit", "0"),
    ("limit", "1001"),
    ("limit", "ten"),
    ("limit", "9" * 400),
    ("cursor", ""),
    ("cursor", "x"),
    ("cursor", base64.urlsafe_b64encode(b"2026-11-01T00:00:00+00:00 ses_\0").decode()),
    ("metadata", ""),
    ("metadata", "job"),
    ("metadata", ":a"),
    ("metadata", "a b:a"),
    ("metadata", '$.":a'),
    ("metadata", "job:\0"),
    ("metadata", ["job:a"] * 17),
]


@pytest.mark.parametrize(("name", "value"), MALFORMED, ids=lambda value: str(value)[:40])
def test_malformed_query_is_refused_by_name(owner: httpx.Client, name: str, value: Any) -> None:
    answer = owner.get("/tci/sessions", params={name: value})
    assert assert_failure(answer, 400, "invalid_request", param=name).startswith(f"{name}: ")


def test_other_accounts_are_no_accounts(owner: httpx.Client, three: list[dict[str, Any]]) -> None:
    mine = three[0]["account"]
    assert listed(owner, account=mine) == listed(owner)
    told = set()
    for name in ("default", "operator", "nobody at all", "", "a\0b", "x" * 10_000):
        answer = owner.get("/tci/sessions", params={"account": name})
        assert_failure(answer, 404, "account_not_found", param="account")
        told.add(answer.text.replace(f"Account {name[:40]} ".replace("\0", "?"), ""))
    assert len(told) == 1


def test_admin_key_lists_every_account_or_one(
    service: Service, admin: httpx.Client, owner: httpx.Client, three: list[dict[str, Any]], session_id: str
) -> None:
    assert service.run("", session_id)  # of another account
    every = listed(admin)
    assert {session["id"]: session["account"] for session in every}.items() >= {
        session_id: "default",
        **{session["id"]: session["account"] for session in three},
    }.items()
    assert listed(admin, account=three[0]["account"]) == listed(owner)
    both = listed(admin, account=three[0]["account"], metadata="job:a")
    assert ids(both) == ids(three)[1:]
    assert listed(admin, account="operator") == []
    for name in ("nobody at all", "", "a\0b"):
        assert_failure(admin.get("/tci/sessions", params={"account": name}), 404, "account_not_found", param="account")
