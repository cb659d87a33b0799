"""Every metric, declared once. Names are tci_<noun>_<verb>_<unit>; label values are listed here, so that zeros exist.

Processes count what they do. What they share (pool, live sessions, ledger) nobody counts: it is read where it stands,
when it is asked for. Several workers keep their counts in files of one directory, each in its place's own, and a scrape
of any of them adds all up; a worker that is started again in the place of a dead one goes on with its files.
"""

import asyncio
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest, values
from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from typing_extensions import override

from tci.errors import LaunchTimeout, ServiceError

DIRECTORY, PLACE = "PROMETHEUS_MULTIPROC_DIR", "TCI_WORKER"
"""Variables by which a supervisor tells a worker where to count: the library's, and ours. Read at import, since the
library chooses then, when a metric is made, where its value is kept.
"""

if PLACE in os.environ:
    values.ValueClass = values.MultiProcessValue(lambda: os.environ[PLACE])  # type: ignore[no-untyped-call]

disable_created_metrics()  # type: ignore[no-untyped-call]

REGISTRY = CollectorRegistry()
"""Ours alone: the library's own has figures of one process, which say little where there are several."""

VERDICTS = ("ok", "error", "timeout", "interrupted", "oom", "kernel_died", "output_limit")
STAGES = ("open", "turn", "run", "count", "whole")
POLICIES = ("packages", "open")
DRIVERS = ("docker", "bubblewrap")
OUTCOMES = ("ok", "failed", "timeout", "cancelled")
QUOTAS = ("account_sessions", "key_sessions", "sessions_per_day", "spend_per_month", "executions_per_minute")
FRAMEWORK_CODES = ("not_found", "method_not_allowed")
"""Codes of failures that have no class in errors.py."""

STAGE_SECONDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0),
)
LAUNCH_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0)


def _failures(kind: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    yield kind
    for narrower in kind.__subclasses__():
        yield from _failures(narrower)


REFUSALS = tuple(sorted({kind.code for kind in _failures() if kind.status < 500}))  # noqa: PLR2004 (HTTP's own line)
FAILURES = tuple(sorted({kind.code for kind in _failures() if kind.status >= 500}))  # noqa: PLR2004


def _counter(name: str, text: str, label: str | None = None, known: Iterable[str] = ()) -> Counter:
    counter = Counter(name, text, [label] if label else [], registry=REGISTRY)
    for value in known:
        counter.labels(value)
    return counter


EXECUTIONS_ENDED = _counter("tci_executions_ended", "Executions, by verdict.", "verdict", VERDICTS)
EXECUTIONS_REFUSED = _counter(
    "tci_executions_refused", "Executions that were refused before any code ran, by code.", "code", REFUSALS
)
EXECUTIONS_FAILED = _counter("tci_executions_failed", "Executions that the service failed, by code.", "code", FAILURES)
EXECUTIONS_ABANDONED = _counter(
    "tci_executions_abandoned", "Executions whose caller left, or that a stop of the service cut short."
)
STAGES_TOOK = Histogram(
    "tci_stages_took_seconds",
    "Stages of executions that went well: opening a session, waiting for the turn in it, files and code, the record;"
    " and the whole.",
    ["stage"],
    buckets=STAGE_SECONDS,
    registry=REGISTRY,
)
OUTPUTS_CUT = _counter("tci_outputs_cut", "Executions whose output was cut at its limit.")
SANDBOXES_LAUNCHED = Histogram(
    "tci_sandboxes_launched_seconds",
    "Launches of sandboxes, by driver and outcome.",
    ["driver", "outcome"],
    buckets=LAUNCH_SECONDS,
    registry=REGISTRY,
)
CONNECTIONS_REFUSED = _counter(
    "tci_connections_refused", "Ways out of sandboxes that the proxy refused, by policy.", "policy", POLICIES
)
QUOTAS_REFUSED = _counter("tci_quotas_refused", "Requests over a quota, by quota.", "quota", QUOTAS)
FAILURES_ANSWERED = _counter(
    "tci_failures_answered",
    "Answers that are failures, of any route, by code.",
    "code",
    sorted({*REFUSALS, *FAILURES, *FRAMEWORK_CODES}),
)

STAGE = {stage: STAGES_TOOK.labels(stage) for stage in STAGES}
for _driver in DRIVERS:
    for _outcome in OUTCOMES:
        SANDBOXES_LAUNCHED.labels(_driver, _outcome)


class Launch:
    """Times the launch of a sandbox in a `with` block, and sees how it ended."""

    def __init__(self, driver: str) -> None:
        self._driver = driver
        self._started = 0.0

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        match error:
            case None:
                outcome = "ok"
            case LaunchTimeout():
                outcome = "timeout"
            case asyncio.CancelledError():
                outcome = "cancelled"
            case _:
                outcome = "failed"
        SANDBOXES_LAUNCHED.labels(self._driver, outcome).observe(time.perf_counter() - self._started)


def count_failed_execution(error: BaseException) -> None:
    """Count an execution that gave no verdict."""
    match error:
        case asyncio.CancelledError():
            EXECUTIONS_ABANDONED.inc()
        case ServiceError() if error.status < 500:  # noqa: PLR2004
            EXECUTIONS_REFUSED.labels(error.code).inc()
        case ServiceError():
            EXECUTIONS_FAILED.labels(error.code).inc()
        case _:
            EXECUTIONS_FAILED.labels(ServiceError.code).inc()


def counted() -> list[Metric]:
    """Return what all processes of this service have counted."""
    if DIRECTORY not in os.environ:
        return list(REGISTRY.collect())
    files = Path(os.environ[DIRECTORY]).glob("*.db")
    begun = [str(file) for file in files if file.stat().st_size]  # another worker may just be making its own
    return list(MultiProcessCollector.merge(begun))  # type: ignore[no-untyped-call]


class _Gathered(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    @override
    def collect(self) -> Iterable[Metric]:
        return self._families


def render(others: Iterable[Metric]) -> bytes:
    """Return what was counted, and others, as Prometheus reads them."""
    registry = CollectorRegistry()
    registry.register(_Gathered([*counted(), *others]))
    return generate_latest(registry)
