"""Steps with deadlines: one that fails or takes too long is told as not measured, and the run goes on."""

import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from benchmarks.report import Report

AGAIN_SECONDS = 20.0
"""How long what is closed after a deadline may take, each time that it waits."""

MAX_REASON_CHARACTERS = 300

TOLD_SECONDS = 2.0
"""Steps that take longer are told as they end."""

T = TypeVar("T")


class TooSlow(Exception):
    """A deadline passed. Not a TimeoutError: who suppresses those, as OSErrors, would wait on."""


class Deadlines:
    """The deadlines of the blocks that we are in; the first to pass ends its block, whatever that waits for.

    By a signal, since a step may wait in a socket, in a child, in ZeroMQ or in an event loop.
    """

    def __init__(self) -> None:
        self._moments: list[float] = []
        signal.signal(signal.SIGALRM, self._expire)

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Raise TooSlow in the block after so long, and again while it does not end."""
        if seconds <= 0:
            raise TooSlow("no time was left")
        self._moments.append(time.monotonic() + seconds)
        self._arm()
        try:
            yield
        finally:
            self._moments.pop()
            self._arm()

    def _arm(self) -> None:
        left = max(min(self._moments) - time.monotonic(), 0.001) if self._moments else 0
        signal.setitimer(signal.ITIMER_REAL, left, AGAIN_SECONDS)

    def _expire(self, *_: object) -> None:
        raise TooSlow("it took too long")


class Steps:
    """The steps of one run."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._deadlines = Deadlines()
        self._failed: set[str] = set()

    def take(self, name: str, call: Callable[[], T], *, seconds: float) -> T | None:
        """Return what a call gives; None if it fails, or does not end in time, or one of this name did so before."""
        if name in self._failed:
            return None
        began = time.monotonic()
        try:
            with self._deadlines.within(seconds):
                return call()
        except (Exception, pytest.skip.Exception) as error:  # noqa: BLE001 (the other steps are worth having)
            traceback.print_exc()
            self._failed.add(name)
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:MAX_REASON_CHARACTERS]
            self._report.failures.append(f"{name}: not measured after {time.monotonic() - began:.0f} s: {reason}")
            return None
        finally:
            if (taken := time.monotonic() - began) > TOLD_SECONDS:
                print(f"{name}: {taken:.0f} s", file=sys.stderr, flush=True)
