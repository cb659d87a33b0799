"""How the whole service does: what its processes share, read where it stands, and how fast it lately was."""

import asyncio
import datetime as dt
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import structlog
from prometheus_client.core import Metric

from tci import metrics
from tci.errors import Unavailable
from tci.sessions.shared import Shared
from tci.settings import Settings
from tci.storage.pool_store import PoolFigures, PoolStore
from tci.storage.session_store import SessionStore
from tci.storage.usage_store import AccountUsage, Period, UsageStore

log = structlog.get_logger()

LEDGER_SECONDS = 2.0
"""How long the month's bills are believed: they may be many, and several may ask every few seconds."""

RECENT_SECONDS, SNAPSHOT_SECONDS = 300.0, 15.0
"""What counts as recent, and how exactly."""

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}

Buckets = list[tuple[float, float]]
"""Upper bounds, in seconds, and how many were at most that."""


class Counted:
    """What was counted by all processes, at one moment, to be looked up."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._samples = [sample for family in families for sample in family.samples]

    def by(self, name: str, label: str) -> dict[str, int]:
        """Return a counter's values by a label's."""
        return {sample.labels[label]: int(sample.value) for sample in self._samples if sample.name == name}

    def buckets(self, name: str, **labels: str) -> Buckets:
        """Return a histogram's buckets, in order."""
        found = [sample for sample in self._samples if sample.name == name and labels.items() <= sample.labels.items()]
        return sorted((float(sample.labels["le"]), sample.value) for sample in found)


def quantile(buckets: Buckets, share: float) -> float | None:
    """Return the time that so great a share of cases needed at most, None if there were none.

    As Prometheus does it: evenly spread within a bucket; of what lies beyond the last bound, that bound.
    """
    if not buckets or buckets[-1][1] <= 0:
        return None
    rank = share * buckets[-1][1]
    for (low, below), (high, upto) in pairwise([(0.0, 0.0), *buckets]):
        if upto >= rank and upto > below:
            return low if high == float("inf") else low + (high - low) * (rank - below) / (upto - below)
    return None


@dataclass(frozen=True, slots=True)
class Overview:
    """How the service does at a glance."""

    shared: Shared
    verdicts: dict[str, int]
    failed: int
    latency: dict[str, float | None]
    quota_refusals: int
    egress_refusals: int


class Figures:
    """Reads them, for the operators' routes."""

    def __init__(self, *, settings: Settings, sessions: SessionStore, usage: UsageStore, pool: PoolStore) -> None:
        self._settings = settings
        self._sessions = sessions
        self._usage = usage
        self._pool = pool
        self._spend: list[AccountUsage] = []
        self._spend_until = 0.0
        self._snapshots: deque[Buckets] = deque(maxlen=int(RECENT_SECONDS / SNAPSHOT_SECONDS))

    async def run(self) -> None:
        """Remember for ever how fast executions were until now, so that what is recent can be told."""
        while True:
            try:
                self._snapshots.append(_whole(await _counted()))
            except Exception:  # of figures nobody's sessions hang
                log.exception("Background pass failed", loop="figures")
            await asyncio.sleep(SNAPSHOT_SECONDS)

    async def shared(self) -> Shared:
        """Read what all processes share; what is away is left out."""
        capacity = self._settings.sandbox_capacity
        return Shared(capacity, live=await self._live(), pool=await self._pool_figures(), spend=await self._month())

    async def overview(self) -> Overview:
        """Return how the service does."""
        counted, shared = await _counted(), await self.shared()
        return Overview(
            shared=shared,
            verdicts=counted.by("tci_executions_ended_total", "verdict"),
            failed=sum(counted.by("tci_executions_failed_total", "code").values()),
            latency=self._recent(_whole(counted)),
            quota_refusals=sum(counted.by("tci_quotas_refused_total", "quota").values()),
            egress_refusals=sum(counted.by("tci_connections_refused_total", "policy").values()),
        )

    def _recent(self, now: Buckets) -> dict[str, float | None]:
        before = dict(self._snapshots[0]) if self._snapshots else {}
        fresh = [(bound, count - before.get(bound, 0)) for bound, count in now]
        return {name: quantile(fresh, share) for name, share in QUANTILES.items()}

    async def _live(self) -> int | None:
        try:
            return await self._sessions.count_live()
        except Unavailable:
            return None

    async def _pool_figures(self) -> PoolFigures | None:
        try:
            return await self._pool.figures()
        except Unavailable:
            return None

    async def _month(self) -> list[AccountUsage] | None:
        if time.monotonic() >= self._spend_until:
            try:
                self._spend = await self._usage.accounts(Period.month(dt.datetime.now(dt.UTC).date()))
            except Unavailable:
                return None
            self._spend_until = time.monotonic() + LEDGER_SECONDS
        return self._spend


async def _counted() -> Counted:
    return Counted(await asyncio.to_thread(metrics.counted))  # of several workers it is in files


def _whole(counted: Counted) -> Buckets:
    return counted.buckets("tci_stages_took_seconds_bucket", stage="whole")
