"""What the service itself fails at: told apart from any answer to code, and never recorded or billed."""

import sqlite3
from collections.abc import Callable
from contextlib import closing

from tests.api.failures import assert_failure
from tests.conftest import Service


def test_sandbox_that_is_not_ready_in_time_leaves_nothing(start_service: Callable[..., Service]) -> None:
    service = start_service(launch_timeout_seconds=0.01, max_sessions_per_account=1)
    for _ in range(2):  # the second would be 429 if the first had kept its place
        assert_failure(service.post({"code": "print(1)"}), 504, "sandbox_timeout")
    assert service.client.get("/tci/sessions").json() == {"data": {"sessions": []}, "errors": None}
    assert list((service.data_dir / "run").iterdir()) == []
    with closing(sqlite3.connect(service.data_dir / "tci.sqlite3")) as database:
        assert database.execute("SELECT (SELECT count(*) FROM sessions), (SELECT count(*) FROM ledger)").fetchone() == (
            0,
            0,
        )


def test_bug_is_a_failure_without_its_traceback(start_service: Callable[..., Service]) -> None:
    service = start_service()
    with closing(sqlite3.connect(service.data_dir / "tci.sqlite3")) as database:
        database.execute("ALTER TABLE api_keys RENAME TO api_keys_gone")
    for method, path in (("GET", "/tci/sessions"), ("POST", "/v1/tci/execute")):
        for _ in range(3):
            answer = service.client.request(method, path)
            message = assert_failure(answer, 500, "internal_error")
            assert "api_keys" not in message
            assert answer.headers["x-request-id"].startswith("req_")
    assert "api_keys" in service.log.read_text()
    assert service.client.get("/health").status_code == 200
