"""The chaos suite's short form, for every run of the tests; `make chaos` runs the long one."""

from collections.abc import Callable

import pytest

from tests.chaos.chaos import chaos, show
from tests.stack import Kind


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("kind", "driver", "seconds"), [(Kind.SERVERS, "docker", 60), (Kind.EMBEDDED, "bubblewrap", 40)]
)
def test_books_balance_after_parts_were_killed_under_load(
    kind: Kind, driver: str, seconds: float, prepared: Callable[[str], None]
) -> None:
    prepared(driver)
    with chaos(driver, kind, seed=5) as run:
        run.run(seconds)
        show(run)
    assert run.complaints == []
