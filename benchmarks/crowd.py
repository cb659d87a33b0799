"""Many new sessions: as many as it takes for long, and fifty at once."""

import statistics
from pathlib import Path

from benchmarks.bare import bare
from benchmarks.deployment import HAS_POOL, OPENERS, Deployment, deployed, opener
from benchmarks.loop import closed_loop
from benchmarks.plan import Plan
from benchmarks.report import Bar, Report

PARALLEL = (2, 4)
"""How many containers the bare loop starts at once, in turn: the better one counts."""


def measure(report: Report, plan: Plan, _programs: Path) -> None:
    """A burst, then a flood, then the bare loop; and again, without the burst."""
    floods, bare_rates = list[float](), list[float]()
    slowest, succeeded = 0.0, 0
    for number in range(plan.flood_rounds):
        with deployed(pool_size=plan.burst_pool) as ours:
            if number == 0:
                ends = burst(ours, plan.burst)
                slowest, succeeded = max(ends), len(ends)
            floods.append(flood(ours, plan.flood))
        with bare() as floor:
            bare_rates.append(floor.rate(plan.flood, parallel=PARALLEL[-1 - number % 2]))
    sustained, best = statistics.median(floods), max(bare_rates)
    versus_bare = {"reference": best, "reference_name": "bare loop"}
    report.add("sustained new sessions, pool refilling", sustained, "/s", **versus_bare, bar=Bar(0.8, is_floor=True))
    beyond = plan.burst - (plan.burst_pool if HAS_POOL else 0)
    expected = {"reference": beyond / sustained, "reference_name": f"{beyond} ÷ sustained"}
    none = "" if HAS_POOL else " (no pool)"
    report.add(
        f"burst of {plan.burst}, pool of {plan.burst_pool}{none}: slowest", slowest, "s", **expected, bar=Bar(1.3)
    )
    all_of_them = {"reference": float(plan.burst), "reference_name": "asked for"}
    report.add("burst: succeeded", float(succeeded), "", **all_of_them, bar=Bar(1.0, is_floor=True))


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
