"""The soak's short form, for every run of the tests; `make soak` runs the long one."""

from pathlib import Path

import pytest

from tests.conftest import serving
from tests.soak.soak import SETTINGS, soak


@pytest.mark.timeout(400)
def test_mixed_executions_have_the_right_verdicts_and_leave_nothing_behind(driver: str, tmp_path: Path) -> None:
    with serving(driver, tmp_path / "data", **SETTINGS) as service:
        soaked = soak(service, executions=300)
    assert soaked.failures == []
