"""Many sessions alive: how fast one of them is, how much all of them get through, and what they cost while idle."""

import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.bare import Bare, bare
from benchmarks.deployment import (
    SMALL,
    Deployment,
    cpu_milliseconds,
    deployed,
    memory_mebibytes,
    opener,
    resident_kilobytes,
)
from benchmarks.loop import Runner, Times, rate
from benchmarks.plan import Plan
from benchmarks.raw_kernel import RawKernel
from benchmarks.report import Bar, Report
from benchmarks.steps import Steps

RAW_KERNELS = 8

ROUNDS, BLOCK = 8, 40

NEW = 3
"""How many sessions are opened one by one, and their times taken, before so many are alive."""

GROWTH_RATE_SECONDS = 1.0

GROWTH_SECONDS, IDLE_SECONDS, RATE_SECONDS = 120.0, 60.0, 90.0
"""How long each may take."""

Rates = dict[tuple[str, int], list[float]]
"""By who calls (a number of workers, or the raw client) and over how many sessions."""


def measure(report: Report, steps: Steps, plan: Plan, _programs: Path) -> None:
    """One service that gets more and more sessions; then workers are changed under them."""
    with (
        deployed(pool_size=1, **SMALL) as ours,
        deployed(**SMALL) as plain,
        bare(preload=("json",)) as floor,
    ):
        grown = grow(steps, plan, ours, plain, floor)
        tell_growth(report, grown)
        steps.take("idle sessions", lambda: idle(report, plan, ours, grown), seconds=IDLE_SECONDS)
        # The service is started again meanwhile, for each number of workers.
        if found := steps.take("executions a second", lambda: rates(plan, ours), seconds=RATE_SECONDS):
            tell_rates(report, plan, found)


@dataclass
class Grown:
    """What was seen with so many sessions alive."""

    alive: int
    ours: Times = field(default_factory=Times)
    raw: Times = field(default_factory=Times)
    hit: Times = field(default_factory=Times)
    miss: Times = field(default_factory=Times)
    rate: float | None = None
    cpu: float = 0.0
    """Milliseconds of the service for one warm execution."""
    memory: float = 0.0
    """Kilobytes of the service."""


def grow(steps: Steps, plan: Plan, ours: Deployment, plain: Deployment, floor: Bare) -> list[Grown]:
    """Look at everything with one session alive, with ten, with a hundred."""
    twin = floor.launch().kernel
    found = []
    for alive in plan.alive:
        seen = Grown(alive)
        if steps.take("growth", lambda: look(seen, ours, plain, twin) or True, seconds=GROWTH_SECONDS):  # noqa: B023 (called here)
            found.append(seen)
    return found


def look(seen: Grown, ours: Deployment, plain: Deployment, twin: RawKernel) -> None:
    """Open sessions until so many are alive, and measure."""
    ours.open(max(seen.alive - len(ours.opened) - NEW, 0))
    while len(ours.opened) < seen.alive:
        ours.wait_until_quiet()
        seen.hit.add(opener(ours).run)
    ours.wait_until_quiet()
    for _ in range(NEW if plain.opened else NEW + 1):
        seen.miss.add(opener(plain).run)
    del seen.miss.values[:-NEW]  # a service's first session is not like the others
    caller = ours.caller(ours.opened[0])
    spent = 0.0
    for _ in range(ROUNDS):
        caller.run()
        before = cpu_milliseconds(ours.processes())
        seen.ours.add(caller.run, count=BLOCK)
        spent += cpu_milliseconds(ours.processes()) - before
        twin.run()
        seen.raw.add(twin.run, count=BLOCK)
    caller.close()
    seen.cpu = spent / ROUNDS / BLOCK
    seen.rate = over_http(ours, min(seen.alive, RAW_KERNELS), GROWTH_RATE_SECONDS)
    for session_id in ours.opened:  # one whose connection was dropped meanwhile is connected again
        caller = ours.caller(session_id)
        caller.run()
        caller.close()
    seen.memory = resident_kilobytes(ours.processes())


def tell_growth(report: Report, grown: list[Grown]) -> None:
    """Add the lines: each figure beside that with the fewest sessions."""
    if not grown:
        return
    first, last = grown[0], grown[-1]
    for seen in grown:
        against = {"reference": first.ours.p50, "reference_name": f"with {first.alive}"} if seen is not first else {}
        bar = {"bar": Bar(1.25)} if seen is last is not first else {}
        report.add(f"warm p50, {seen.alive} alive", seen.ours.p50, "ms", **against, **bar)
    against = {"reference": first.raw.p50, "reference_name": f"with {first.alive}"}
    report.add(f"the same of raw ZeroMQ, {last.alive} alive: the machine's part", last.raw.p50, "ms", **against)
    for seen in grown:
        against = {"reference": first.cpu, "reference_name": f"with {first.alive}"} if seen is not first else {}
        report.add(f"CPU of the service, one warm execution, {seen.alive} alive", seen.cpu, "ms", **against)
    for seen in grown:
        if seen.hit.values:
            report.add(f"new session, pool hit, p50, {seen.alive} alive, preload json", seen.hit.p50, "ms")
        if seen.miss.values:
            report.add(f"new session, pool miss, p50, {seen.alive} alive, preload json", seen.miss.p50, "ms")
    for seen in grown:
        called = min(seen.alive, RAW_KERNELS)
        report.add(f"executions a second over {called} of {seen.alive} alive", seen.rate, "/s")


def idle(report: Report, plan: Plan, ours: Deployment, grown: list[Grown]) -> None:
    """Tell what sessions cost that do nothing."""
    # Not from the first one on: the service's own buffers grow with the first few.
    some, most = grown[-2:]
    each = (most.memory - some.memory) / (most.alive - some.alive)
    report.add("memory of the service, one idle connected session", each, "KB", bar=Bar(100.0))
    inside = statistics.median(memory_mebibytes(group) for group in ours.cgroups())
    report.add("memory of an idle session, preload json", inside, "MiB")
    ours.wait_until_quiet()
    before = cpu_milliseconds(ours.processes())
    time.sleep(plan.idle_seconds)
    share = (cpu_milliseconds(ours.processes()) - before) / plan.idle_seconds / 10
    report.add(f"CPU of the idle service, {most.alive} sessions", share, "% of a core", bar=Bar(2.0))


def rates(plan: Plan, ours: Deployment) -> Rates:
    """Return the executions a second of each number of workers and of the raw client, in turn."""
    found: Rates = defaultdict(list)
    for _ in range(plan.rate_rounds):
        for workers in plan.rate_workers:
            ours.instance.terminate()
            # The service is away, so that it does not read along with the raw client.
            found["raw", RAW_KERNELS].append(over_raw(ours, plan.rate_seconds))
            ours.restart(workers=workers)
            for count in plan.rate_sessions:
                found[str(workers), count].append(over_http(ours, count, plan.rate_seconds))
    return found


def over_raw(ours: Deployment, seconds: float) -> float:
    """Return the executions a second that the raw client reaches over the sessions' own kernels."""
    kernels = [ours.raw(session_id) for session_id in ours.opened[:RAW_KERNELS]]
    try:
        return warmed_rate(kernels, seconds)
    finally:
        for kernel in kernels:
            kernel.close()


def over_http(ours: Deployment, count: int, seconds: float) -> float:
    """Return the executions a second over so many sessions, each with a connection of its own."""
    callers = [ours.caller(session_id) for session_id in ours.opened[:count]]
    try:
        return warmed_rate(callers, seconds)
    finally:
        for caller in callers:
            caller.close()


def warmed_rate(runners: list[Runner], seconds: float) -> float:
    """Return the runs a second, after a moment in which connections are made."""
    rate(runners, seconds / 4)
    return rate(runners, seconds)


def tell_rates(report: Report, plan: Plan, found: Rates) -> None:
    """Add the lines; the best number of workers is what the bar is about."""
    medians = {key: statistics.median(values) for key, values in found.items()}
    raw = {"reference": medians["raw", RAW_KERNELS], "reference_name": f"raw over {RAW_KERNELS}"}
    best = max(map(str, plan.rate_workers), key=lambda workers: medians[workers, RAW_KERNELS])
    for workers in map(str, plan.rate_workers):
        for count in plan.rate_sessions:
            name = f"executions a second, {count} sessions, {workers} workers"
            against = raw if count == RAW_KERNELS else {}
            bar = {"bar": Bar(0.6, is_floor=True)} if count == RAW_KERNELS and workers == best else {}
            report.add(name, medians[workers, count], "/s", **against, **bar)
