"""`tci usage`: what it refuses. What it prints is compared with the API in tests/api/test_usage.py."""

import pytest
from typer.testing import CliRunner

from tci.cli.commands import app
from tests.conftest import run_tci


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("month", ["2026", "2026-13", "2026-1", "9999-12", "november", ""])
def test_text_that_is_no_month_is_refused(month: str) -> None:
    result = CliRunner().invoke(app, ["usage", "--month", month])
    assert result.exit_code == 2
    assert "is not a month" in result.stderr


def test_account_that_is_not_there_is_named(environment: dict[str, str]) -> None:
    result = run_tci("usage", "--account", "nobody", environment=environment, check=False)
    assert (result.returncode, result.stderr) == (1, "tci: there is no account nobody\n")


def test_month_without_sessions_is_a_total_of_nothing(environment: dict[str, str]) -> None:
    run_tci("keys", "create", "--account", "idle", environment=environment)
    table = run_tci("usage", "--account", "idle", "--month", "2024-02", environment=environment).stdout
    assert table == "date   account  sessions   USD\ntotal                  0  0.00\n"
    lines = run_tci("usage", "--account", "idle", "--csv", environment=environment).stdout
    assert lines == "session_id,account,started_at,ended_at,end_reason,execute_count,amount_usd,waived\n"
