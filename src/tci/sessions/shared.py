"""What all processes share, as it stands in SQL and Redis, and how Prometheus reads it."""

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from tci.storage.pool_store import PoolFigures
from tci.storage.usage_store import NOTHING, AccountUsage


@dataclass(frozen=True, slots=True)
class Shared:
    """What nobody counts, since it can be read. None: the store that knows it is away."""

    capacity: int
    live: int | None
    pool: PoolFigures | None
    spend: list[AccountUsage] | None
    """This month's, by account."""

    def families(self) -> Iterator[Metric]:
        """Give it as metrics; of a store that is away, no sample."""
        yield _gauge("tci_sessions_live", "Live sessions.", self.live)
        yield _gauge("tci_sessions_capacity", "Sandboxes that this machine may run.", self.capacity)
        yield from self._of_the_pool()
        yield from self._of_the_ledger()
        stores = GaugeMetricFamily("tci_stores_up", "Whether the store answers.", labels=["store"])
        stores.add_metric(["database"], float(self.live is not None))
        stores.add_metric(["redis"], float(self.pool is not None))
        yield stores

    def _of_the_pool(self) -> Iterator[Metric]:
        claims = CounterMetricFamily(
            "tci_pool_claimed", "New sessions, by whether a sandbox was ready.", labels=["result"]
        )
        fills = CounterMetricFamily("tci_pool_filled", "Launches for the warm pool.", labels=["outcome"])
        if (pool := self.pool) is not None:
            yield _gauge("tci_pool_ready", "Sandboxes in the warm pool.", pool.level)
            yield _gauge("tci_pool_target", "Sandboxes that the warm pool is to hold.", pool.target)
            claims.add_metric(["hit"], pool.hits)
            claims.add_metric(["miss"], pool.misses)
            fills.add_metric(["ok"], pool.filled)
            fills.add_metric(["failed"], pool.failed)
        yield claims
        yield fills

    def _of_the_ledger(self) -> Iterator[Metric]:
        if (spend := self.spend) is None:
            return
        billed, waived = sum(one.sessions for one in spend), sum(one.waived for one in spend)
        dollars = float(sum((one.amount_usd for one in spend), NOTHING))
        yield _gauge("tci_ledger_billed_sessions", "Sessions billed this month (UTC).", billed)
        yield _gauge("tci_ledger_billed_usd", "Billed this month (UTC), in US dollars.", dollars)
        yield _gauge("tci_ledger_waived_sessions", "Sessions waived this month (UTC).", waived)


def _gauge(name: str, text: str, value: float | None) -> Metric:
    family = GaugeMetricFamily(name, text)
    if value is not None:
        family.add_metric([], value)
    return family
