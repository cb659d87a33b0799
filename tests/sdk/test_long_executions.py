"""The vendor's SDKs wait through an execution that is far longer than they wait for a byte, and send it once.

With their defaults 2.x and TypeScript give up after 60 seconds without a byte and send the request again, three
times in all; a copy has no session id, so each would open a session of its own.
"""

from __future__ import annotations

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from .test_documentation_examples import stdout, succeeded

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Service

    from .conftest import Sdks

    Run = Callable[..., dict[str, Any]]

WAITING = ("python-1x", "python-2x", "python-2x-async", "typescript")


def sessions_of(service: Service, key: str) -> list[dict[str, Any]]:
    """List an account's sessions without any SDK."""
    assert service.url.startswith("http")
    request = urllib.request.Request(  # noqa: S310
        f"{service.url}/tci/sessions", headers={"Authorization": f"Bearer {key}"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as answer:
        sessions: list[dict[str, Any]] = json.loads(answer.read())["data"]["sessions"]
    return sessions


@pytest.mark.timeout(400)
def test_run_of_150_seconds_is_waited_for_and_runs_exactly_once(
    sdks: Sdks, run_example: Run, live_service: Service
) -> None:
    """All clients at the same time, each for an account of its own, so that no other session is in its list."""
    present = sdks.present(WAITING)
    keys = {sdk: live_service.new_key(f"long-{sdk}") for sdk in present}
    with ThreadPoolExecutor(len(present)) as pool:
        futures = {sdk: pool.submit(run_example, sdk, "very_long_run", key=keys[sdk]) for sdk in present}
    for sdk, future in futures.items():
        seen = future.result()
        assert succeeded(sdk, seen, calls=2) == stdout("begun\nended\n"), sdk
        assert seen["calls"][0]["outputs"] == stdout("awake\n"), sdk
        # Had the request been sent again, it had opened another session.
        sessions = sessions_of(live_service, keys[sdk])
        assert [session["id"] for session in sessions] == [seen["calls"][0]["session_id"]], sdk
        assert sessions[0]["execute_count"] == 2, sdk
