"""A run whose sandbox can't be looked at: the answer says what is known."""

import asyncio
import datetime as dt
from pathlib import Path
from typing import Any, cast

from tci.errors import EngineAway
from tci.kernel.client import KernelClient
from tci.kernel.zmtp import ConnectionLost
from tci.sandbox.driver import SandboxDriver, Usage
from tci.sessions.runner import Runner
from tci.sessions.session import Verdict
from tci.settings import Settings
from tci.storage.session_store import EndReason, Session


class DriverWhoseEngineGoesAway:
    """Measures once, then nothing answers."""

    async def usage(self, _sandbox_id: str) -> Any:
        return Usage(cpu=dt.timedelta(), peak_memory_bytes=1)

    async def inspect(self, _sandbox_id: str) -> Any:
        raise EngineAway("The engine does not answer.")


class ClosingKernel:
    """Ends the connection under the code."""

    async def execute(self, *_arguments: Any) -> bool:
        await asyncio.sleep(0)
        raise ConnectionLost


NOW = dt.datetime.now(dt.UTC)

SESSION = Session(
    id="ses_1",
    account_id=1,
    account="a",
    sandbox_id="sbx_1",
    kernel_key="k",
    started_at=NOW,
    last_execute_at=NOW,
    expires_at=NOW + dt.timedelta(hours=1),
    execute_count=1,
    answered_at=NOW,
)


async def test_kernel_that_closes_while_the_engine_is_away_has_died(tmp_path: Path) -> None:
    """A failure that may be tried again would say that nothing has run."""
    ended = []

    async def end(_session: Session, reason: EndReason) -> EndReason:
        ended.append(reason)
        return reason

    driver, kernel = cast(SandboxDriver, DriverWhoseEngineGoesAway()), cast(KernelClient, ClosingKernel())
    runner = Runner(settings=Settings(data_dir=tmp_path), driver=driver, end=end, is_stopping=lambda: False)
    result = await runner.run(SESSION, kernel, "x", files={}, timeout=5)
    assert result.verdict is Verdict.KERNEL_DIED
    assert ended == [EndReason.KERNEL_DIED]
