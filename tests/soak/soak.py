"""Mixed executions by several clients at once, then a look at what is left: `python -m tests.soak.soak --help`."""

import argparse
import itertools
import json
import os
import random
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import CACHE, DRIVERS, Service, clean_environment, run_tci, serving
from tests.soak.cases import HOSTILE, ORDINARY, Case

CLIENTS = 8
HOSTILE_SHARE = 0.1
FRESH_SHARE = 0.05
"""How often a client opens a new session although its own still lives, and leaves the new one behind."""
TTL_SECONDS = 90
MARGIN_SECONDS = 45
"""A session is used no more when it has less than this to live: the longest case must not meet its expiry."""
SETTINGS = {
    "session_ttl_seconds": TTL_SECONDS,
    "max_output_bytes": 1024**2,
    "sandbox_memory_bytes": 512 * 1024**2,
    "sandbox_pids": 96,
    "max_sessions_per_account": 1000,
    "max_sandboxes": 1000,
}
MORE_DESCRIPTORS = 8
"""What a service may hold beyond what it began with: a pool's connection, a thread's event loop."""
MORE_MEMORY = 0.2


@dataclass
class Holding:
    """What a service holds at a quiet moment."""

    memory_bytes: int
    descriptors: Counter[str]
    children: int
    threads: int
    sockets: int
    """Entries of /proc/net/unix in its data directory."""

    def __str__(self) -> str:
        kinds = " ".join(f"{kind}:{count}" for kind, count in sorted(self.descriptors.items()))
        return (
            f"{self.memory_bytes / 1024**2:.1f} MiB, {self.descriptors.total()} descriptors ({kinds}),"
            f" {self.children} children, {self.threads} threads, {self.sockets} named sockets"
        )


@dataclass
class Soak:
    """A soak of one service."""

    service: Service
    random: random.Random
    failures: list[str] = field(default_factory=list)
    verdicts: Counter[tuple[str, str]] = field(default_factory=Counter)
    slowest: dict[str, float] = field(default_factory=dict)
    sandboxes: set[str] = field(default_factory=set)
    sessions: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, cases: list[Case], *, seconds: float = float("inf")) -> int:
        """Run the cases by several clients at once; return how many were run before the time was over."""
        give_up = time.monotonic() + seconds
        done = itertools.count(1)
        queue = iter(cases)
        count = 0

        def take() -> Case | None:
            nonlocal count
            with self._lock:
                if time.monotonic() > give_up or (case := next(queue, None)) is None:
                    return None
                count = next(done)
                if count % 100 == 0:
                    print(f"  {count} executions, {self.sessions} sessions, {len(self.failures)} failures", flush=True)
                return case

        threads = [threading.Thread(target=Client(self).run, args=[take]) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            self.sandboxes |= set(os.listdir(self.service.data_dir / "run"))  # noqa: PTH208 (many times a second)
            time.sleep(0.05)
        return count

    def mix(self, count: int) -> list[Case]:
        """Return so many cases at random, one in ten hostile."""
        hostile = round(count * HOSTILE_SHARE)
        cases = self.random.choices(HOSTILE, k=hostile) + self.random.choices(ORDINARY, k=count - hostile)
        self.random.shuffle(cases)
        return cases

    def fail(self, message: str) -> None:
        with self._lock:
            self.failures.append(message)
        print(f"  FAILED: {message}", flush=True)

    def settle(self) -> Holding:
        """End what lives, wait until nothing does, and return what the service then holds."""
        for session in self.service.client.get("/tci/sessions").json()["data"]["sessions"]:
            self.service.post({"code": "exit()", "session_id": session["id"]})
        give_up = time.monotonic() + 60
        while self.left():
            if time.monotonic() > give_up:
                self.fail(f"left behind: {self.left()}")
                break
            time.sleep(0.25)
        time.sleep(1)
        return self.holding()

    def left(self) -> list[str]:
        """Return what there is of sandboxes: sessions, directories, containers, processes, control groups."""
        listed = self.service.client.get("/tci/sessions").json()["data"]["sessions"]
        found = [f"session {session['id']}" for session in listed]
        found += [f"directory {path.name}" for path in (self.service.data_dir / "run").iterdir()]
        if self.service.driver == "docker":
            names = subprocess.check_output(["docker", "ps", "--all", "--format", "{{.Names}}"], text=True).split()
            found += [name for name in names if name.removeprefix("tci-") in self.sandboxes]
        groups = [*Path("/sys/fs/cgroup").glob("*/tci/*"), *Path("/sys/fs/cgroup/tci").glob("*")]
        found += [f"control group {path}" for path in groups if path.name in self.sandboxes]
        return found + self.stray_processes()

    def stray_processes(self) -> list[str]:
        """Return the processes that belong to a sandbox of this service, and zombies of the service."""
        run_dir = f"{self.service.data_dir}/run/"
        found = []
        for process in processes():
            with suppress(OSError):
                state, parent = (process / "stat").read_text().rsplit(")", 1)[1].split()[:2]
                command, groups = (process / "cmdline").read_bytes(), (process / "cgroup").read_text()
                is_ours = run_dir in (process / "mountinfo").read_text()
                is_ours |= any(line.rpartition("/")[2] in self.sandboxes for line in groups.split())
                is_ours |= state == "Z" and parent == str(self.service.process.pid)
                if is_ours:
                    found.append(f"process {process.name} {state} {command[:60]!r}")
        return found

    def holding(self) -> Holding:
        process = Path(f"/proc/{self.service.process.pid}")
        status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
        kinds: Counter[str] = Counter()
        for descriptor in (process / "fd").iterdir():
            with suppress(OSError):
                target = os.readlink(descriptor)  # noqa: PTH115 (most targets are no paths)
                kinds[target.split(":")[0] if not target.startswith("/") else "file"] += 1
        parents = [stat.rsplit(")", 1)[1].split()[1] for stat in stats()]
        named = Path("/proc/net/unix").read_text().count(str(self.service.data_dir))
        return Holding(
            memory_bytes=int(status["VmRSS"].split()[0]) * 1024,
            descriptors=kinds,
            children=parents.count(str(self.service.process.pid)),
            threads=int(status["Threads"]),
            sockets=named,
        )

    def compare(self, before: Holding, after: Holding) -> None:
        if after.memory_bytes > before.memory_bytes * (1 + MORE_MEMORY):
            self.fail(f"memory grew from {before.memory_bytes} to {after.memory_bytes} bytes")
        for name, first, last in (
            ("descriptors", before.descriptors.total(), after.descriptors.total()),
            ("sockets", before.descriptors["socket"], after.descriptors["socket"]),
            ("named sockets", before.sockets, after.sockets),
            ("threads", before.threads, after.threads),
        ):
            if last > first + MORE_DESCRIPTORS:
                self.fail(f"{name} grew from {first} to {last}")
        if after.children > before.children:
            self.fail(f"children grew from {before.children} to {after.children}")


class Client:
    """One caller, with a session of its own that it replaces when it is about to expire or has died."""

    def __init__(self, soak: Soak) -> None:
        self._soak = soak
        self._http = httpx.Client(
            base_url=soak.service.url, timeout=180, headers={"Authorization": f"Bearer {soak.service.key}"}
        )
        self._session: str | None = None
        self._expires = 0.0
        self._count = 0
        self._unsure = 0
        """How many of its runs may have been left before they began, and are not counted then."""

    def run(self, take: Any) -> None:
        with self._http:
            while case := take():
                try:
                    self._one(case)
                except (httpx.HTTPError, AssertionError, KeyError, ValueError) as error:
                    self._soak.fail(f"{case.name}: {type(error).__name__}: {str(error)[:600]}")
                    self._session = None

    def _one(self, case: Case) -> None:
        if self._expires - time.time() < MARGIN_SECONDS:
            self._session = None
        is_aside = self._session is not None and self._soak.random.random() < FRESH_SHARE
        session = None if is_aside else self._session
        if case.leaves_after is not None:
            self._leave(case)
            return
        nonce = secrets.token_hex(8)
        began = time.monotonic()
        answer = self._http.post("/tci/execute", json={**case.request(nonce), "session_id": session})
        took = time.monotonic() - began
        assert answer.status_code == 200, f"{answer.status_code} {answer.text[:300]}"
        data = answer.json()["data"]
        verdict = data["execution"]["verdict"]
        with self._soak._lock:
            self._soak.verdicts[case.name, str(verdict)] += 1
            self._soak.slowest[case.name] = max(took, self._soak.slowest.get(case.name, 0))
            self._soak.sessions += session is None
        check(case, nonce, data)
        count = data["execution"]["execute_count"]
        least = 1 if session is None else self._count + 1
        most = least if session is None else least + self._unsure
        assert least <= count <= most, f"counted {count}, not {least} to {most}"
        if case.ends_session:
            refused = self._http.post("/tci/execute", json={"code": "1", "session_id": data["session_id"]})
            assert refused.status_code == 404, f"after its end: {refused.status_code} {refused.text[:300]}"
            if not is_aside:
                self._session = None
        elif not is_aside:
            self._session, self._count, self._unsure = data["session_id"], count, 0
            self._expires = datetime.fromisoformat(data["execution"]["expires_at"]).timestamp()

    def _leave(self, case: Case) -> None:
        """Go away under the code, in a session that is there: its next call shows that it goes on."""
        if self._session is None:
            return
        body = {**case.request(""), "session_id": self._session}
        with suppress(httpx.ReadTimeout):
            answer = self._http.post("/tci/execute", json=body, timeout=httpx.Timeout(180, read=case.leaves_after))
            raise AssertionError(f"answered {answer.status_code} {answer.text[:300]}")
        self._unsure += 1
        with self._soak._lock:
            self._soak.verdicts[case.name, case.verdict] += 1


def check(case: Case, nonce: str, data: dict[str, Any]) -> None:
    """Assert that an answer is the case's own, and right."""
    said = json.dumps(data["outputs"])
    excerpt = said if len(said) < 400 else f"{said[:200]} ... {said[-200:]}"
    verdict = data["execution"]["verdict"]
    assert verdict == case.verdict, f"verdict {verdict} instead of {case.verdict}: {excerpt}"
    assert case.shows.replace("NONCE", nonce) in said, f"not shown: {case.shows}: {excerpt}"
    types = tuple(output["type"] for output in data["outputs"])
    assert case.types in (None, types), f"types {types} instead of {case.types}: {excerpt}"


def processes() -> Iterator[Path]:
    return (path for path in Path("/proc").iterdir() if path.name.isdecimal())


def stats() -> Iterator[str]:
    for process in processes():
        with suppress(OSError):
            yield (process / "stat").read_text()


def soak(service: Service, *, executions: int, seconds: float = float("inf"), seed: int = 0) -> Soak:
    """Warm the service up, run the executions, and compare what it holds before and after."""
    soaked = Soak(service, random.Random(seed))  # noqa: S311 (a repeatable mixture)
    print(f"Warming up on {service.driver}", flush=True)
    soaked.run([*ORDINARY, *HOSTILE] * 2)
    before = soaked.settle()
    print(f"Before: {before}\nRunning {executions} executions by {CLIENTS} clients", flush=True)
    began = time.monotonic()
    done = soaked.run(soaked.mix(executions), seconds=seconds)
    took = time.monotonic() - began
    print(f"{done} executions in {took:.0f} s ({done / took:.1f} a second)", flush=True)
    after = soaked.settle()
    print(f"After: {after}")
    soaked.compare(before, after)
    return soaked


def show(soaked: Soak) -> None:
    """Print a table of what came of each case."""
    print(f"\n{'case':<18}{'verdict':<14}{'count':>7}{'slowest':>10}")
    for (name, verdict), count in sorted(soaked.verdicts.items()):
        print(f"{name:<18}{verdict:<14}{count:>7}{soaked.slowest.get(name, 0):>9.1f}s")
    total = soaked.verdicts.total()
    print(f"\n{total} executions, {soaked.sessions} sessions, {len(soaked.failures)} failures")
    for failure in soaked.failures[:50]:
        print(f"  {failure}")


def main() -> int:
    """Run a soak and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--executions", type=int, default=10_000)
    parser.add_argument("--driver", choices=DRIVERS, default="docker")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop early after this time")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    run_tci("sandbox", "prepare", environment=clean_environment(CACHE, sandbox=options.driver))
    with (
        tempfile.TemporaryDirectory(prefix="tci-soak-") as directory,
        serving(options.driver, Path(directory) / "data", **SETTINGS) as service,
    ):
        soaked = soak(service, executions=options.executions, seconds=options.seconds, seed=options.seed)
        show(soaked)
        log = service.log.read_text()
        if "Traceback" in log or '"level": "error"' in log:
            print(f"\nThe service's log tells of errors:\n{log[-3000:]}")
    return 1 if soaked.failures else 0


if __name__ == "__main__":
    sys.exit(main())
