"""Many sessions of hostile code on a served service, then a look at what is left: `python -m tests.hostile.many`."""

import argparse
import asyncio
import itertools
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tci.doctor.attacks import ATTACKS, plant_code
from tci.doctor.attacks.toolkit import Target
from tci.doctor.decoys import decoys
from tests.conftest import CACHE, DRIVERS, Service, clean_environment, run_tci, serving
from tests.hostile import host
from tests.hostile.cases import DEATHS, FLOODS, IMPORTS, STAYING

CLIENTS = 4

SETTINGS = {
    "session_ttl_seconds": 15,
    "preload": "json",
    "max_output_bytes": 1024**2,
    "sandbox_memory_bytes": 256 * 1024**2,
    "sandbox_pids": 64,
    "sandbox_disk_bytes": 8 * 1024**2,
    "sandbox_shm_bytes": 8 * 1024**2,
    "max_sessions_per_account": 1000,
    "max_sandboxes": 1000,
    "grace_seconds": 1,
}

LIMITS: dict[str, Any] = {
    "memory_bytes": SETTINGS["sandbox_memory_bytes"],
    "pids": SETTINGS["sandbox_pids"],
    "open_files": 1024,
    "disk_bytes": SETTINGS["sandbox_disk_bytes"],
    "shm_bytes": SETTINGS["sandbox_shm_bytes"],
}

SETTLE_SECONDS = 90


@dataclass
class Many:
    """Many sessions on one service, and what was seen of each sandbox while it ran."""

    service: Service
    seen: dict[str, host.Places] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    verdicts: Counter[str] = field(default_factory=Counter)
    _is_over: threading.Event = field(default_factory=threading.Event)

    def run(self, sessions: int, target: Target) -> None:
        """Open so many sessions, each with one piece of hostile code, and note where the host keeps each."""
        watcher = threading.Thread(target=self._watch)
        watcher.start()
        try:
            with ThreadPoolExecutor(CLIENTS) as pool:
                for number, _ in enumerate(pool.map(self._one, itertools.islice(cases(target), sessions)), 1):
                    if number % 50 == 0:
                        print(f"  {number} sessions, {len(self.failures)} failures", flush=True)
            self._settle()
        finally:
            self._is_over.set()
            watcher.join()

    def left(self) -> list[str]:
        """Return all that the host still holds of any sandbox that was seen."""
        return [f"{name}: {left}" for name, places in self.seen.items() if (left := places.left())]

    def _one(self, case: tuple[str, str]) -> None:
        name, code = case
        answer = self.service.post({"code": code, "language": "python", "session_id": None, "timeout": 2})
        if answer.status_code != 200:
            self.failures.append(f"{name}: {answer.status_code} {answer.text[:300]}")
            return
        data: dict[str, Any] = answer.json()["data"]
        last = "".join(str(output["data"]) for output in data["outputs"]).strip().splitlines()[-1:]
        self.verdicts[f"{name}: {(last or ['nothing'])[0][:60]}"] += 1

    def _watch(self) -> None:
        """Look at each sandbox while it runs: afterwards nobody could say where it was."""
        while not self._is_over.is_set():
            for directory in (self.service.data_dir / "run").iterdir():
                places = self.seen.get(directory.name)
                if places is None or not (places.groups or places.namespaces):
                    self.seen[directory.name] = host.places_of(directory.name, directory)
            time.sleep(0.1)

    def _settle(self) -> None:
        """Wait until every session has ended by its time limit."""
        give_up = time.monotonic() + SETTLE_SECONDS
        while any((self.service.data_dir / "run").iterdir()):
            if time.monotonic() > give_up:
                self.failures.append("sandboxes did not end")
                return
            time.sleep(0.25)


def cases(target: Target) -> Iterator[tuple[str, str]]:
    """Give hostile code without end, in turn: attacks, floods, things that stay, and deaths."""
    table = {attack.name: attack.code(target) for attack in ATTACKS if not attack.uploads}
    table |= {f"flood of {name}": IMPORTS + code for name, code in FLOODS.items()}
    table |= {f"end by {name}": code for name, code in DEATHS.items()}
    table |= {"staying": STAYING, "planting": plant_code(target)}
    # In an order that mixes them, the same each time.
    names = sorted(table, key=hash_of)
    yield from itertools.cycle((name, table[name]) for name in names)


def hash_of(name: str) -> int:
    """Return a number that is the same in every run."""
    return sum(ord(character) * 31**index for index, character in enumerate(name)) % 10_007


def files_of(data_dir: Path) -> set[str]:
    """Return the files of a service's data directory, the prepared environment aside."""
    found = (path.relative_to(data_dir) for path in data_dir.glob("**/*"))
    return {str(path) for path in found if path.parts[0] != "environments"}


async def many(service: Service, sessions: int) -> Many:
    """Open many sessions of hostile code and compare the host before and after."""
    service.run("1")
    done = Many(service)
    done._settle()
    volumes, files = set(host.docker("volume", "ls", "--quiet")), files_of(service.data_dir)
    async with decoys(host_paths=[service.data_dir]) as target:
        await asyncio.to_thread(done.run, sessions, replace(target, **LIMITS))
        if Path(target.host_paths[0]).read_text() != target.marker:
            done.failures.append("the decoy was written")
    done.failures += done.left()
    done.failures += [f"volume {name}" for name in set(host.docker("volume", "ls", "--quiet")) - volumes]
    done.failures += [f"file {name}" for name in files_of(service.data_dir) - files]
    known = sum(bool(places.groups or places.namespaces) for places in done.seen.values())
    if known < sessions // 2:
        done.failures.append(f"only {known} sandboxes were seen while they ran: the comparison says little")
    return done


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=1000)
    parser.add_argument("--driver", choices=DRIVERS, action="append", help="default: both")
    options = parser.parse_args()
    failures = 0
    for driver in options.driver or DRIVERS:
        run_tci("sandbox", "prepare", environment=clean_environment(CACHE, sandbox=driver))
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tci-many-")))
            service = stack.enter_context(serving(driver, directory / "data", **SETTINGS))
            start = time.monotonic()
            done = asyncio.run(many(service, options.sessions))
            seconds = time.monotonic() - start
            print(f"{driver}: {options.sessions} sessions in {seconds:.0f} s; {len(done.seen)} sandboxes seen")
            print(json.dumps(dict(sorted(done.verdicts.items())), indent=1))
            print("\n".join(done.failures) or "Nothing is left on this host.")
            failures += len(done.failures)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
