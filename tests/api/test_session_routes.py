"""Sessions as a whole: opened ahead under terms of their own, shown, interrupted, ended."""

import datetime as dt
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from unittest.mock import ANY

import httpx
import pytest

from tci.kernel.launcher import PROXY_ADDRESS
from tests.api.failures import assert_failure
from tests.api.sessions import FIVE, bills, data_of, ended, new_account, opened, run, shown, text
from tests.api.test_sessions import SESSION_ID, host_runs, moment
from tests.conftest import Service
from tests.sandbox.processes import eventually
from tests.sessions.test_pool import figures, filled, sandbox_of

MIB = 1024**2
TERMS = {
    "ttl_seconds": 600,
    "egress": "none",
    "limits": {"memory_bytes": 256 * MIB, "cpus": 0.25},
    "metadata": {"job": "train-7", "a.b_c-1": "\N{SNOWMAN} 'quoted' \"twice\""},
}

ASK_PROXY = f"""
import http.client
connection = http.client.HTTPConnection(*{PROXY_ADDRESS!r}, timeout=20)
connection.request('GET', 'http://blocked.example/')
print(connection.getresponse().reason)
"""


@pytest.fixture(scope="module")
def owner(service: Service) -> Iterator[httpx.Client]:
    """A caller whose account is this module's."""
    with new_account(service) as client:
        yield client


@pytest.fixture(scope="module")
def confined(owner: httpx.Client) -> dict[str, Any]:
    """A session with less of everything."""
    return opened(owner, **TERMS)


def test_session_under_terms_is_what_was_asked_for(owner: httpx.Client, confined: dict[str, Any]) -> None:
    started = moment(confined["started_at"])
    assert list(confined)[:5] == FIVE
    assert confined == {
        "id": ANY,
        "started_at": ANY,
        "last_execute_at": confined["started_at"],
        "expires_at": ANY,
        "execute_count": 0,
        "account": ANY,
        "egress": "none",
        "metadata": TERMS["metadata"],
        "limits": TERMS["limits"],
        "state": "live",
    }
    assert SESSION_ID.fullmatch(confined["id"])
    assert moment(confined["expires_at"]) - started == dt.timedelta(seconds=600)
    assert shown(owner, confined["id"]) == confined
    assert data_of(owner.get(f"/v1/tci/sessions/{confined['id']}")) == {"session": confined}


def test_opened_session_runs_code_and_keeps_its_state(owner: httpx.Client, confined: dict[str, Any]) -> None:
    count = shown(owner, confined["id"])["execute_count"]
    first = run(owner, "x = 42", confined["id"])
    assert first["execution"]["execute_count"] == count + 1
    assert first["execution"]["expires_at"] == confined["expires_at"]
    assert text(owner, "print(x)", confined["id"]) == "42\n"
    after = shown(owner, confined["id"])
    assert after == {**confined, "execute_count": count + 2, "last_execute_at": after["last_execute_at"]}
    assert moment(after["last_execute_at"]) > moment(confined["started_at"])


def test_fewer_processors_are_all_that_it_gets(owner: httpx.Client, confined: dict[str, Any]) -> None:
    """However busy this machine is, it gets no more than its share."""
    code = "import time\nend = time.monotonic() + 2\nwhile time.monotonic() < end: pass"
    execution = run(owner, code, confined["id"])["execution"]
    assert execution["cpu_ms"] < 0.6 * execution["duration_ms"], execution


def test_less_memory_is_all_that_it_gets(owner: httpx.Client) -> None:
    session = opened(owner, limits={"memory_bytes": 200 * MIB})
    assert session["limits"] == {"memory_bytes": 200 * MIB, "cpus": 1.0}
    data = run(owner, f"x = bytearray({400 * MIB})", session["id"])
    assert data["execution"]["verdict"] == "oom"
    assert "limit of 200 MiB" in data["outputs"][-1]["data"]
    told = assert_failure(owner.get(f"/tci/sessions/{session['id']}"), 404, "session_not_found", param="session_id")
    assert "out of memory" in told


def test_narrower_way_out_is_all_that_it_gets(owner: httpx.Client, confined: dict[str, Any]) -> None:
    assert "policy 'none'" in text(owner, ASK_PROXY, confined["id"])
    usual = opened(owner, egress="packages")
    assert usual["egress"] == "packages"
    assert "policy 'packages'" in text(owner, ASK_PROXY, usual["id"])
    ended(owner, usual["id"])


def test_shorter_life_ends_when_it_says(owner: httpx.Client) -> None:
    mark = f"1000.{uuid.uuid4().int % 10**12}"
    session = opened(owner, ttl_seconds=8, metadata={"kind": "short"})
    run(owner, f"import subprocess; subprocess.Popen(['sleep', '{mark}'])", session["id"])
    assert host_runs(mark)
    assert moment(session["expires_at"]) - moment(session["started_at"]) == dt.timedelta(seconds=8)
    left = (moment(session["expires_at"]) - dt.datetime.now(dt.UTC)).total_seconds()
    time.sleep(max(0.0, left) + 0.05)  # the moment decides, not the reaper's next pass
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/interrupt")):
        answer = owner.request(method, f"/tci/sessions/{session['id']}{path}")
        assert "expired" in assert_failure(answer, 404, "session_not_found", param="session_id")
    answer = owner.post("/tci/execute", json={"code": "", "session_id": session["id"]})
    assert "expired" in assert_failure(answer, 404, "session_not_found", param="session_id")
    assert data_of(owner.get("/tci/sessions", params={"metadata": "kind:short"}))["sessions"] == []
    assert eventually(lambda: not host_runs(mark), 15)


@pytest.mark.parametrize("body", [None, b'{"ttl_seconds": null, "limits": {}, "metadata": null, "new": 1}'])
def test_without_terms_it_has_all_that_it_may(owner: httpx.Client, body: bytes | None) -> None:
    session = data_of(owner.post("/v1/tci/sessions", content=body), 201)["session"]
    assert session["egress"] == "packages"
    assert session["limits"] == {"memory_bytes": 2048 * MIB, "cpus": 1.0}
    assert session["metadata"] == {}
    assert moment(session["expires_at"]) - moment(session["started_at"]) == dt.timedelta(hours=1)
    ended(owner, session["id"])


REFUSED = [
    ({"ttl_seconds": 0}, "ttl_seconds"),
    ({"ttl_seconds": 3601}, "ttl_seconds"),
    ({"ttl_seconds": 10**400}, "ttl_seconds"),
    ({"ttl_seconds": "60"}, "ttl_seconds"),
    ({"ttl_seconds": 1.5}, "ttl_seconds"),
    ({"ttl_seconds": True}, "ttl_seconds"),
    ({"egress": "open"}, "egress"),
    ({"egress": "NONE"}, "egress"),
    ({"limits": 1}, "limits"),
    ({"limits": {"memory_bytes": 2048 * MIB + 1}}, "limits.memory_bytes"),
    ({"limits": {"memory_bytes": 128 * MIB - 1}}, "limits.memory_bytes"),
    ({"limits": {"memory_bytes": -1}}, "limits.memory_bytes"),
    ({"limits": {"memory_bytes": 2**100}}, "limits.memory_bytes"),
    ({"limits": {"cpus": 1.01}}, "limits.cpus"),
    ({"limits": {"cpus": 0}}, "limits.cpus"),
    ({"limits": {"cpus": 1e308}}, "limits.cpus"),
    ({"metadata": []}, "metadata"),
    ({"metadata": {"a": 1}}, "metadata.a"),
    ({"metadata": {"a": None}}, "metadata.a"),
    ({"metadata": {"a": "x" * 513}}, "metadata.a"),
    ({"metadata": {"a": "nul \0"}}, "metadata.a"),
    ({"metadata": {"": "x"}}, "metadata"),
    ({"metadata": {"x" * 65: "x"}}, "metadata"),
    ({"metadata": {"a b": "x"}}, "metadata"),
    ({"metadata": {'$."': "x"}}, "metadata"),
    ({"metadata": {"a\n": "x"}}, "metadata"),
    ({"metadata": {"\N{SNOWMAN}" * 9: "x"}}, "metadata"),
    ({"metadata": {str(number): "x" for number in range(17)}}, "metadata"),
    ([], None),
]


@pytest.mark.parametrize(("body", "param"), REFUSED, ids=lambda value: str(value)[:40])
def test_terms_beyond_what_it_may_have_are_refused_by_name(owner: httpx.Client, body: Any, param: str | None) -> None:
    before = len(bills(owner))
    assert_failure(owner.post("/tci/sessions", json=body), 400, "invalid_request", param=param)
    assert len(bills(owner)) == before, "nothing is opened or billed"


@pytest.mark.parametrize(
    "content", [b"{", b"[", b"\xff", b'{"metadata": {"a": "\\ud800"}}', b'{"limits": {"cpus": NaN}}']
)
def test_malformed_body_is_refused(owner: httpx.Client, content: bytes) -> None:
    answer = owner.post("/tci/sessions", content=content)
    assert_failure(answer, 400, "invalid_request", param=answer.json()["error"]["param"])


def test_session_opened_ahead_is_billed_once(service: Service) -> None:
    with new_account(service) as client:
        session = opened(client, metadata={"a": "b"})
        for _ in range(2):
            run(client, "1", session["id"])
        ended(client, session["id"])
        [bill] = bills(client)
    assert (bill["id"], bill["amount_usd"], bill["waived"]) == (session["id"], "0.03", False)
    assert (bill["execute_count"], bill["end_reason"]) == (2, "was ended on request")


def test_unused_session_is_billed_once_too(service: Service) -> None:
    with new_account(service) as client:
        ended(client, opened(client)["id"])
        [bill] = bills(client)
    assert (bill["amount_usd"], bill["waived"], bill["execute_count"]) == ("0.03", False, 0)


def test_life_that_is_over_before_it_began_costs_nothing(service: Service) -> None:
    with new_account(service) as client:
        answer = client.post("/tci/sessions", json={"ttl_seconds": 1, "limits": {"cpus": 0.1}})
        assert_failure(answer, 504, "sandbox_timeout")
        assert bills(client) == []
        assert data_of(client.get("/tci/sessions")) == {"sessions": []}


def test_client_that_leaves_while_it_opens_has_no_session(service: Service) -> None:
    with new_account(service) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/tci/sessions", json={"limits": {"cpus": 0.1}, "metadata": {"mark": "left"}}, timeout=1)
        assert eventually(lambda: "Client left" in service.log.read_text(), 20)
        assert data_of(client.get("/tci/sessions")) == {"sessions": []}
        assert bills(client) == []


def test_session_that_fails_to_open_costs_nothing_and_gives_its_place_back(
    start_service: Callable[..., Service],
) -> None:
    service = start_service(launch_timeout_seconds=0.01, max_sessions_per_account=1)
    for _ in range(2):
        assert_failure(service.client.post("/tci/sessions"), 504, "sandbox_timeout")
    with closing(sqlite3.connect(service.data_dir / "tci.sqlite3")) as database:
        counts = database.execute("SELECT (SELECT count(*) FROM sessions), (SELECT count(*) FROM ledger)").fetchone()
    assert counts == (0, 0)
    assert list((service.data_dir / "run").iterdir()) == []


def test_only_usual_limits_are_met_from_the_pool(start_service: Callable[..., Service]) -> None:
    service = start_service(pool_size=1, preload="json")
    [pooled] = filled(service, 1)
    for terms in ({"limits": {"memory_bytes": 256 * MIB}}, {"limits": {"cpus": 0.9}}, {"egress": "none"}):
        assert sandbox_of(service, opened(service.client, **terms)["id"]) != pooled
    assert figures(service).get("hits", 0) == 0
    usual = {"ttl_seconds": 60, "metadata": {"a": "b"}, "limits": {"memory_bytes": 2048 * MIB, "cpus": 1}}
    assert sandbox_of(service, opened(service.client, **usual)["id"]) == pooled
