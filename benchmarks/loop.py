"""Times of one who calls, and how many calls many of them get through."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import zmq

LONGEST_SECONDS = 120.0
"""After so long without any answer something is broken."""


class Runner(Protocol):
    """Whoever runs code over and over: over HTTP or over ZeroMQ."""

    @property
    def sources(self) -> list[Any]: ...

    def begin(self) -> None: ...

    def advance(self) -> bool: ...


@dataclass
class Times:
    """How long each of many calls took, in milliseconds."""

    values: list[float] = field(default_factory=list)

    def add(self, call: Callable[[], Any], *, count: int = 1) -> None:
        """Make a call so many times, one after the other."""
        for _ in range(count):
            began = time.perf_counter()
            call()
            self.values.append((time.perf_counter() - began) * 1000)

    @property
    def p50(self) -> float | None:
        """The median, or None where nothing was measured."""
        return statistics.median(self.values) if self.values else None

    @property
    def p99(self) -> float | None:
        """What one in a hundred takes longer than."""
        return statistics.quantiles(self.values, n=100)[-1] if len(self.values) > 1 else None


def closed_loop(
    runners: Sequence[Runner], *, seconds: float = LONGEST_SECONDS, count: int | None = None
) -> list[float]:
    """Let each runner begin again as soon as it has ended; return when each run ended, in seconds from the start.

    Ends after so many seconds, or so many runs; what was begun is waited for, and not counted after the time.
    """
    owners, poller = {}, zmq.Poller()
    for runner in runners:
        for source in runner.sources:
            owners[source if isinstance(source, zmq.Socket) else source.fileno()] = runner
            poller.register(source, zmq.POLLIN)
    begun, ended = 0, list[float]()
    busy = set[int]()
    start = time.perf_counter()

    def begin(runner: Runner) -> None:
        nonlocal begun
        if time.perf_counter() - start < seconds and (count is None or begun < count):
            begun += 1
            busy.add(id(runner))
            runner.begin()

    for runner in runners:
        begin(runner)
    while busy:
        events = poller.poll(LONGEST_SECONDS * 1000)
        assert events, "nothing answered"
        for source, _ in events:
            runner = owners[source]
            if id(runner) in busy and runner.advance():
                busy.discard(id(runner))
                ended.append(time.perf_counter() - start)
                begin(runner)
    return [moment for moment in ended if moment <= seconds]


def rate(runners: Sequence[Runner], seconds: float) -> float:
    """Return the runs a second of all runners together."""
    return len(closed_loop(runners, seconds=seconds)) / seconds
