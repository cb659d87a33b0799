"""Breaks a stack under load and balances the books: `python -m tests.chaos --seconds 180 --seed 1`."""

import argparse
import random
import sys
import time
from pathlib import Path

from tests.chaos.chaos import chaos, show
from tests.conftest import CACHE, DRIVERS, clean_environment, run_tci
from tests.stack import Kind


def main() -> int:
    """Run and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--seed", type=int, default=None, help="left out: one by chance, which is printed")
    parser.add_argument("--driver", choices=DRIVERS, default="docker")
    parser.add_argument("--stack", type=Kind, choices=list(Kind), default=Kind.SERVERS)
    parser.add_argument("--logs", type=Path, help="a directory for the services' logs")
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed  # noqa: S311 (no secret)
    CACHE.mkdir(parents=True, exist_ok=True)
    run_tci("sandbox", "prepare", environment=clean_environment(CACHE, sandbox=options.driver))
    print(f"Seed {seed} on {options.stack} and {options.driver}, {options.seconds:g} s", flush=True)
    began = time.monotonic()
    with chaos(options.driver, options.stack, seed=seed) as run:
        try:
            run.run(options.seconds)
        finally:
            show(run)
            for instance in run.stack.instances if options.logs else []:
                (options.logs / f"{seed}-{instance.log.name}").write_text(instance.log.read_text())
    print(f"{time.monotonic() - began:.0f} s")
    return 1 if run.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
