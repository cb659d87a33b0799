"""One run: its parts one after the other, then the table.

Started by `python -m benchmarks`, which ends what it leaves behind.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import crowd, many, opening, warm
from benchmarks.guard import end_with_guard
from benchmarks.peers import install_peers, programs_of_peers
from benchmarks.plan import FULL, QUICK, Plan
from benchmarks.report import Report
from benchmarks.steps import Steps
from tests.conftest import CACHE, clean_environment, run_tci

Part = Callable[[Report, Steps, Plan, Path], None]

PARTS: dict[str, Part] = {
    "warm": warm.measure,
    "opening": opening.measure,
    "crowd": crowd.measure,
    "many": many.measure,
}

RESULTS = Path(__file__).parent / "results"

CHART_SECONDS = 60.0

PREPARE_SECONDS = 1200.0
"""How long the image and the peers may take, the first time."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("parts")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    end_with_guard()
    report = Report()
    steps = Steps(report)
    steps.take("preparing the sandboxes", prepare, seconds=PREPARE_SECONDS / 2)
    steps.take("installing the peers", install_peers, seconds=PREPARE_SECONDS / 2)
    measure(report, steps, QUICK if options.quick else FULL, options.parts.split(","))
    results = report.write(RESULTS)
    print(report.as_text(), flush=True)
    steps.take("chart", lambda: draw(results), seconds=CHART_SECONDS)
    sys.exit(1 if report.failures else 0)


def prepare() -> None:
    """Build the sandbox image, if it is not there."""
    CACHE.mkdir(parents=True, exist_ok=True)
    run_tci("sandbox", "prepare", environment=clean_environment(CACHE, sandbox="docker"))


def measure(report: Report, steps: Steps, plan: Plan, parts: list[str]) -> None:
    """Take the parts one after the other, each within what is left of the time."""
    give_up = time.monotonic() + plan.total_seconds
    for name in parts:
        began = time.monotonic()
        part = partial(PARTS[name], report, steps, plan, programs_of_peers())
        steps.take(name, part, seconds=min(plan.part_seconds, give_up - began))


def draw(results: Path) -> None:
    """Draw the results, with the Matplotlib of the peers' environment."""
    command = [programs_of_peers() / "python", Path(__file__).parent / "chart.py", results, RESULTS / "chart.png"]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
