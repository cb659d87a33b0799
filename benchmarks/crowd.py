"""Many new sessions: as many as it takes for long, and fifty at once."""

import statistics
from pathlib import Path

from benchmarks.bare import bare
from benchmarks.deployment import HAS_POOL, OPENERS, Deployment, deployed, opener
from benchmarks.loop import closed_loop
from benchmarks.plan import Plan
from benchmarks.report import Bar, Report
from benchmarks.steps import Steps

PARALLEL = (2, 4)
"""How many containers the bare loop starts at once, in turn: the better one counts."""

STEP_SECONDS = 90.0


def measure(report: Report, steps: Steps, plan: Plan, _programs: Path) -> None:
    """A burst, then a flood, then the bare loop; and again, without the burst."""
    floods, bare_rates = list[float](), list[float]()
    ends = list[float]()
    for number in range(plan.flood_rounds):
        with deployed(pool_size=plan.burst_pool) as ours:
            if number == 0:
                ends = steps.take("burst", lambda: burst(ours, plan.burst), seconds=STEP_SECONDS) or []
            if found := steps.take("sustained new sessions", lambda: flood(ours, plan.flood), seconds=STEP_SECONDS):
                floods.append(found)
        if found := steps.take("bare loop", lambda: bare_rate(plan, number), seconds=STEP_SECONDS):  # noqa: B023
            bare_rates.append(found)
    tell(report, plan, floods, bare_rates, ends)


def bare_rate(plan: Plan, number: int) -> float:
    """Return how many containers with a kernel are started a second."""
    with bare() as floor:
        return floor.rate(plan.flood, parallel=PARALLEL[-1 - number % 2])


def tell(report: Report, plan: Plan, floods: list[float], bare_rates: list[float], ends: list[float]) -> None:
    """Add the lines."""
    sustained = statistics.median(floods) if floods else None
    versus_bare = {"reference": max(bare_rates, default=None), "reference_name": "bare loop"}
    report.add("sustained new sessions, pool refilling", sustained, "/s", **versus_bare, bar=Bar(0.8, is_floor=True))
    beyond = plan.burst - (plan.burst_pool if HAS_POOL else 0)
    expected = {"reference": beyond / sustained if sustained else None, "reference_name": f"{beyond} ÷ sustained"}
    name = f"burst of {plan.burst}, pool of {plan.burst_pool}{'' if HAS_POOL else ' (no pool)'}: slowest"
    report.add(name, max(ends, default=None), "s", **expected, bar=Bar(1.3))
    all_of_them = {"reference": float(plan.burst), "reference_name": "asked for"}
    succeeded = float(len(ends)) if ends else None
    report.add("burst: succeeded", succeeded, "", **all_of_them, bar=Bar(1.0, is_floor=True))


def burst(ours: Deployment, count: int) -> list[float]:
    """Ask for so many sessions at once; return when each answered, in seconds."""
    ours.wait_until_quiet()
    callers = [opener(ours) for _ in range(count)]
    return closed_loop(callers, count=count)


def flood(ours: Deployment, count: int) -> float:
    """Return the new sessions a second, counted from when the pool is used up."""
    ours.wait_until_quiet()
    callers = [opener(ours) for _ in range(OPENERS)]
    # The first answers are from the pool, and the next ones had begun meanwhile.
    first = ours.pool_size + OPENERS
    ends = closed_loop(callers, count=first + count)
    return count / (ends[-1] - ends[first - 1])
