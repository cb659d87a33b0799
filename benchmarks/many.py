"""Many sessions alive: how fast one of them is, how much all of them get through, and what they cost while idle."""

import statistics
import time
from collections import defaultdict
from pathlib import Path

from benchmarks.bare import Bare, bare
from benchmarks.deployment import SMALL, Deployment, cpu_milliseconds, deployed, memory_mebibytes, resident_kilobytes
from benchmarks.loop import Runner, Times, rate
from benchmarks.plan import Plan
from benchmarks.report import Bar, Report

RAW_KERNELS = 8

ROUNDS, BLOCK = 8, 40

Rates = dict[tuple[str, int], list[float]]
"""By who calls (a number of workers, or the raw client) and over how many sessions."""


def measure(report: Report, plan: Plan, _programs: Path) -> None:
    """One service that gets more and more sessions; then workers are changed under them."""
    with deployed(**SMALL) as ours, bare(preload=("json",)) as floor:
        memory = grow(report, plan, ours, floor)
        idle(report, plan, ours, memory)
        tell_rates(report, plan, rates(plan, ours))


def grow(report: Report, plan: Plan, ours: Deployment, floor: Bare) -> dict[int, float]:
    """Tell the warm round trip with so many sessions alive; return the service's memory with so many connected."""
    twin, times, memory = floor.launch().kernel, {}, {}
    raw: dict[int, Times] = {}
    for alive in plan.alive:
        ours.open(alive - len(ours.opened))
        ours.wait_until_quiet()
        times[alive], raw[alive] = Times(), Times()
        caller = ours.caller(ours.opened[0])
        for _ in range(ROUNDS):
            caller.run()
            times[alive].add(caller.run, count=BLOCK)
            twin.run()
            raw[alive].add(twin.run, count=BLOCK)
        memory[alive] = resident_kilobytes(ours.processes())
    first = plan.alive[0]
    for alive in plan.alive:
        against = {"reference": times[first].p50, "reference_name": f"with {first}"} if alive != first else {}
        bar = {"bar": Bar(1.25)} if alive == plan.alive[-1] else {}
        report.add(f"warm p50, {alive} alive", times[alive].p50, "ms", **against, **bar)
    last = plan.alive[-1]
    against = {"reference": raw[first].p50, "reference_name": f"with {first}"}
    report.add(f"the same of raw ZeroMQ, {last} alive: the machine's part", raw[last].p50, "ms", **against)
    return memory


def idle(report: Report, plan: Plan, ours: Deployment, memory: dict[int, float]) -> None:
    """Tell what sessions cost that do nothing."""
    # Not from the first one on: the service's own buffers grow with the first few.
    some, most = plan.alive[-2:]
    each = (memory[most] - memory[some]) / (most - some)
    report.add("memory of the service, one idle connected session", each, "KB", bar=Bar(100.0))
    inside = statistics.median(memory_mebibytes(group) for group in ours.cgroups())
    report.add("memory of an idle session, preload json", inside, "MiB")
    ours.wait_until_quiet()
    before = cpu_milliseconds(ours.processes())
    time.sleep(plan.idle_seconds)
    share = (cpu_milliseconds(ours.processes()) - before) / plan.idle_seconds / 10
    report.add(f"CPU of the idle service, {most} sessions", share, "% of a core", bar=Bar(2.0))


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
