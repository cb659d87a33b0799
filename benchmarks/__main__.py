"""Measures the service beside its floor and its peers, and prints one table.

python -m benchmarks [--quick] [--only warm,opening,crowd,many]
"""

import argparse
import subprocess
import sys
import time
import traceback
from pathlib import Path

from benchmarks import crowd, many, opening, warm
from benchmarks.peers import peers_environment
from benchmarks.plan import FULL, QUICK
from benchmarks.report import Report
from tests.conftest import CACHE, clean_environment, run_tci

PARTS = {"warm": warm, "opening": opening, "crowd": crowd, "many": many}

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the service beside its floor and its peers.")
    parser.add_argument("--quick", action="store_true", help="a glance, in a minute")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, by commas: %(default)s")
    options = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    run_tci("sandbox", "prepare", environment=clean_environment(CACHE, sandbox="docker"))
    programs = peers_environment()
    report = Report()
    for name in options.only.split(","):
        began = time.monotonic()
        try:
            PARTS[name].measure(report, QUICK if options.quick else FULL, programs)
        except Exception as error:  # noqa: BLE001 (the other parts are worth having)
            traceback.print_exc()
            report.failures.append(f"{name} was not measured: {type(error).__name__}: {error}"[:500])
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    results = report.write(RESULTS)
    print(report.as_text())
    subprocess.run(
        [programs / "python", Path(__file__).parent / "chart.py", results, RESULTS / "chart.png"], check=True
    )
    sys.exit(1 if report.failures else 0)


if __name__ == "__main__":
    main()
