"""Measures the service beside its floor and its peers, and prints one table.

python -m benchmarks [--quick] [--only warm,opening,crowd,many]
"""

import argparse
import sys

from benchmarks.guard import guarded
from benchmarks.plan import FULL, QUICK
from benchmarks.run import PARTS, PREPARE_SECONDS

MORE_SECONDS = 60.0
"""How long the run may take beyond its plan, to close what it has open, before it is ended."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the service beside its floor and its peers.")
    parser.add_argument("--quick", action="store_true", help="a glance, in a minute")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, by commas: %(default)s")
    options = parser.parse_args()
    plan = QUICK if options.quick else FULL
    command = [sys.executable, "-m", "benchmarks.run", options.only, *(["--quick"] * options.quick)]
    sys.exit(guarded(command, seconds=PREPARE_SECONDS + plan.total_seconds + MORE_SECONDS))


if __name__ == "__main__":
    main()
