"""One fault under load, each in turn: what can live lives and has its variables, the rest ends with a reason."""

from collections.abc import Callable

import pytest

from tests.chaos import faults
from tests.chaos.chaos import chaos, show
from tests.stack import Kind

LOAD_SECONDS = 4.0
"""Load before and after the fault."""

TTL_SECONDS = 240
"""Longer than all of it takes on a busy machine: what is shown are sessions that live to the end."""

EMBEDDED = ("service killed", "worker killed", "service restarted", "redis killed", "redis flushed")
"""What is another thing with the embedded pair than with servers."""

CASES = [*((Kind.SERVERS, name) for name in faults.FAULTS), *((Kind.EMBEDDED, name) for name in EMBEDDED)]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_books_balance_after_one_fault_under_load(
    kind: Kind, name: str, best_driver: str, prepared: Callable[[str], None]
) -> None:
    driver = best_driver if kind is Kind.SERVERS else "bubblewrap"
    prepared(driver)
    with chaos(driver, kind, seed=0, ttl_seconds=TTL_SECONDS) as run:
        run.break_once(name, before=LOAD_SECONDS, after=LOAD_SECONDS)
        show(run)
    assert run.complaints == []
    assert [fault.name for fault in run.faults] == [name]
    assert run.looks, "no session lived to the end: nothing was shown"
