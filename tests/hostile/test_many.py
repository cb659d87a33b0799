"""The short form of `make hostile-soak`."""

from pathlib import Path

import pytest

from tests.conftest import serving
from tests.hostile.many import SETTINGS, many


@pytest.mark.timeout(400)
async def test_sessions_of_hostile_code_leave_nothing_on_the_host(driver: str, tmp_path: Path) -> None:
    with serving(driver, tmp_path / "data", **SETTINGS) as service:
        done = await many(service, 20)
    assert done.failures == []
    assert done.verdicts.total() == 20
