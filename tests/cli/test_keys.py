"""`tci keys`: bounds that are given, changed, taken away and refused."""

import pytest
from typer.testing import CliRunner

from tci.cli.commands import app
from tests.conftest import run_tci


def listed_key(environment: dict[str, str], account: str) -> list[str]:
    """Return the columns of an account's one key."""
    lines = [line.split("\t") for line in run_tci("keys", "list", environment=environment).stdout.splitlines()]
    [found] = [line for line in lines if line[1] == account]
    return found


def test_key_is_made_and_changed_with_bounds(environment: dict[str, str]) -> None:
    bounds = ("--max-sessions=5", "--sessions-per-day=20", "--spend-per-month=9.9", "--executions-per-minute=60")
    run_tci("keys", "create", "--account", "bounded", *bounds, environment=environment)
    key_id, *_, rights, shown = listed_key(environment, "bounded")
    assert (rights, shown) == ("-", "sessions=5 sessions/day=20 USD/month=9.90 executions/minute=60")

    change = ("--max-sessions=none", "--spend-per-month=0.000001")
    told = run_tci("keys", "limit", key_id, *change, environment=environment).stdout
    assert told == f"Key {key_id}: sessions/day=20 USD/month=0.000001 executions/minute=60\n"
    assert listed_key(environment, "bounded")[-1] == "sessions/day=20 USD/month=0.000001 executions/minute=60"

    change = ("--sessions-per-day=none", "--spend-per-month=none", "--executions-per-minute=none")
    run_tci("keys", "limit", key_id, *change, environment=environment)
    assert listed_key(environment, "bounded")[-1] == "no bounds"


def test_admin_key_is_listed_as_one(environment: dict[str, str]) -> None:
    run_tci("keys", "create", "--account", "operator", "--admin", environment=environment)
    assert listed_key(environment, "operator")[-2:] == ["admin", "no bounds"]


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--max-sessions", "-1"),
        ("--max-sessions", "1.5"),
        ("--max-sessions", "9" * 5000),
        ("--sessions-per-day", "2147483648"),
        ("--executions-per-minute", "many"),
        ("--spend-per-month", "-0.01"),
        ("--spend-per-month", "0.0000001"),
        ("--spend-per-month", "100000000"),
        ("--spend-per-month", "NaN"),
        ("--spend-per-month", "sNaN"),
        ("--spend-per-month", "infinity"),
        ("--spend-per-month", ""),
    ],
)
@pytest.mark.parametrize("command", [("create", "--account", "refused"), ("limit", "1")], ids=["create", "limit"])
def test_malformed_bound_is_refused(command: tuple[str, ...], option: str, value: str) -> None:
    before = CliRunner().invoke(app, ["keys", "list"]).stdout
    result = CliRunner().invoke(app, ["keys", *command, f"{option}={value}"])
    assert result.exit_code == 2
    assert "neither" in result.stderr
    assert CliRunner().invoke(app, ["keys", "list"]).stdout == before


def test_bound_of_a_key_that_is_not_there_is_refused(environment: dict[str, str]) -> None:
    result = run_tci("keys", "limit", "4711", environment=environment, check=False)
    assert (result.returncode, result.stderr) == (1, "tci: there is no key 4711\n")
