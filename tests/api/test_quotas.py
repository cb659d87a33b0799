"""Quotas of keys, over HTTP: what is over one is refused with a sentence that names it, and nothing runs."""

import asyncio
import time
from collections.abc import Callable
from decimal import Decimal

import httpx
import pytest

from tci.settings import Settings
from tci.storage.account_store import AccountStore, Quota
from tci.storage.database import open_database
from tests.api.failures import assert_failure
from tests.conftest import Service

NewKey = Callable[[Quota], str]


@pytest.fixture
def new_key(live_service: Service) -> NewKey:
    """Makes keys of an account of their own."""

    async def create(quota: Quota) -> str:
        settings = Settings(data_dir=live_service.data_dir, _env_file=None)
        async with open_database(settings) as engine:
            return await AccountStore(engine).create_key(f"account {time.monotonic_ns()}", quota=quota)

    def make(quota: Quota) -> str:
        return asyncio.run(create(quota))

    return make


def execute(service: Service, key: str, session_id: str | None = None) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"}
    return service.client.post("/tci/execute", json={"code": "1", "session_id": session_id}, headers=headers)


@pytest.mark.parametrize(
    ("quota", "code", "says"),
    [
        (Quota(max_sessions=1), "quota_exceeded", "sessions at once: 1"),
        (Quota(max_sessions_per_day=1), "quota_exceeded", "sessions a day (UTC): 1"),
        (Quota(max_spend_per_month_usd=Decimal("0.05")), "quota_exceeded", "US dollars a month (UTC): 0.05"),
        (Quota(max_executions_per_minute=2), "rate_limited", "executions a minute: 2"),
    ],
    ids=["sessions", "day", "month", "rate"],
)
def test_call_over_a_quota_is_429_and_names_it(
    live_service: Service, new_key: NewKey, quota: Quota, code: str, says: str
) -> None:
    key = new_key(quota)
    first = execute(live_service, key)
    assert first.status_code == httpx.codes.OK
    session_id = first.json()["data"]["session_id"]
    # An open session goes on, and its execution counts for the rate alone. A new minute may begin in between.
    refused = [execute(live_service, key, session_id) for _ in range(4)][-1] if "minute" in says else None
    refused = refused or execute(live_service, key)
    message = assert_failure(refused, httpx.codes.TOO_MANY_REQUESTS, code=code)
    assert says in message
    assert 0 < int(refused.headers["retry-after"]) <= 60
    if "minute" not in says:
        assert execute(live_service, key, session_id).status_code == httpx.codes.OK
    assert live_service.run("print(1)")["execution"]["verdict"] == "ok", "other keys are free"


def test_ended_session_gives_its_place_back_and_counts_for_its_day(live_service: Service, new_key: NewKey) -> None:
    key = new_key(Quota(max_sessions=1, max_sessions_per_day=2))
    session_id = execute(live_service, key).json()["data"]["session_id"]
    live_service.tci("sessions", "end", session_id)
    assert execute(live_service, key).status_code == httpx.codes.OK
    listed = live_service.client.get("/tci/sessions", headers={"Authorization": f"Bearer {key}"}).json()
    live_service.tci("sessions", "end", listed["data"]["sessions"][0]["id"])
    message = assert_failure(execute(live_service, key), httpx.codes.TOO_MANY_REQUESTS, code="quota_exceeded")
    assert "sessions a day (UTC): 2" in message
