"""The values of a session and of an execution."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from tci.kernel.output_buffer import OutputBuffer, Outputs
from tci.settings import EgressPolicy
from tci.storage.session_store import Session


class Verdict(StrEnum):
    """How an execution ended, as the service saw it from outside the kernel wherever it could."""

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"
    OOM = "oom"
    KERNEL_DIED = "kernel_died"
    OUTPUT_LIMIT = "output_limit"


@dataclass(frozen=True, slots=True)
class Terms:
    """What a session is opened with, where its caller asks for less than it may have."""

    ttl_seconds: int | None = None
    egress: EgressPolicy | None = None
    memory_bytes: int | None = None
    cpus: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)


USUAL = Terms()
"""All that it may have."""


@dataclass(frozen=True, slots=True)
class Execution:
    """One run of code."""

    session_id: str
    outputs: Outputs
    verdict: Verdict
    duration: dt.timedelta
    cpu: dt.timedelta
    """Processor time of all of the sandbox's processes during the run."""
    peak_memory_bytes: int
    """Most memory that the sandbox has used so far, of all its processes and files in memory."""
    execute_count: int
    expires_at: dt.datetime


class Follower(Protocol):
    """Whoever follows a run while it goes on."""

    @property
    def has_heard(self) -> bool:
        """Whether it was told the session's id: a new session then outlives its first run, whatever comes of it."""

    def expect(self, session: Session) -> None:
        """Learn in which session the code is to run once it is its turn."""

    async def begin(self, session: Session, outputs: OutputBuffer) -> None:
        """Learn that the code runs now, in which session, and where its outputs will be."""
