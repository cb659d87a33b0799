"""The values of an execution."""

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum

from tci.kernel.outputs import Output


class Verdict(StrEnum):
    """How an execution ended, as the service saw it from outside the kernel wherever it could."""

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
    OOM = "oom"
    KERNEL_DIED = "kernel_died"


@dataclass(frozen=True, slots=True)
class Execution:
    """One run of code."""

    session_id: str
    outputs: tuple[Output, ...]
    verdict: Verdict
    duration: dt.timedelta
    execute_count: int
    expires_at: dt.datetime
