"""One run: a load, a fault every few seconds, a calm, and the books."""

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from tci.storage.tables import ledger, sessions
from tests.chaos import faults
from tests.chaos.books import Books, complaints
from tests.chaos.call import Call, Outcome
from tests.chaos.faults import Fault
from tests.chaos.load import Client, Load, Slot
from tests.conftest import KEY
from tests.stack import Kind, Stack, stack

PAUSE_SECONDS = 1.0, 4.0
"""Between a fault and the next, at least and at most."""

BALANCE_SECONDS = 25.0
"""How long the books may take to balance once all is calm: some passes of whoever reconciles, less than a session."""

TTL_SECONDS = 50
MARGIN_SECONDS = 8
"""A session that has less than this to live is not asked for its history at the end."""

SETTINGS = {
    "reap_interval_seconds": 0.5,
    "reconcile_interval_seconds": 4,
    "max_sessions_per_account": 1000,
    "max_sandboxes": 40,
    "launch_timeout_seconds": 20,
    "preload": "json",
    "pool_size": 2,
    "sandbox_memory_bytes": 512 * 1024**2,
}

SHOWN = 5
"""So many complaints of one kind are printed."""

WORKERS = {Kind.SERVERS: (1, 2), Kind.EMBEDDED: (2,)}
"""Worker processes of each service."""


@dataclass
class Chaos:
    """One run and what came of it."""

    stack: Stack
    seed: int
    keys: list[str]
    load: Load = field(init=False)
    _chance: random.Random = field(init=False)
    faults: list[Fault] = field(default_factory=list)
    looks: list[Call] = field(default_factory=list)
    books: Books | None = None
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)  # noqa: S311 (a repeatable mixture)
        self.load = Load([instance.url for instance in self.stack.instances], self.keys, self.seed)

    def run(self, seconds: float) -> None:
        """Break parts under load for some time, then balance the books."""
        with self._loaded():
            self._break(seconds)

    def break_once(self, name: str, *, before: float, after: float) -> None:
        """Break one part under load, then balance the books."""
        with self._loaded():
            time.sleep(before)
            self._inflict(name)
            time.sleep(after)

    @contextmanager
    def _loaded(self) -> Iterator[None]:
        """Keep a load while the block lasts; then wait until all is well, and balance the books."""
        self.load.start()
        try:
            yield
        except AssertionError as error:
            self.complaints.append(f"a part did not end or come back as it should: {str(error)[-1000:]}")
        finally:
            self.load.stop()
        self.complaints += [f"a client crashed: {crash!r}" for crash in self.load.crashes]
        for instance in self.stack.instances:
            if instance.process.poll() is not None:  # it is among the complaints
                instance.launch()
            instance.wait_until_ready()
        self._look()
        self._balance()

    def _break(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        names = self._names()
        while time.monotonic() < end:
            time.sleep(self._chance.uniform(*PAUSE_SECONDS))
            self._inflict(next(names))

    def _inflict(self, name: str) -> None:
        fault = faults.inflict(name, self.stack, self._chance)
        self.faults.append(fault)
        print(f"  {fault.name} ({fault.ended - fault.began:.1f} s) {fault.sandbox_id or ''}", flush=True)

    def _names(self) -> Iterator[str]:
        """Give the faults in random order, each once before any comes again."""
        names = faults.names(self.stack)
        while True:
            yield from self._chance.sample(names, len(names))

    def _look(self) -> None:
        """Ask every session that lives, by every replica, for its history."""
        before = len(self.load.calls)
        owners = dict(zip(self._accounts(), self.keys, strict=True))
        for number, row in enumerate(self._live()):
            asker = Client(self.load, -1 - number, Slot(), owners[row["key_id"]])
            for _ in range(2):
                asker.call(row["id"], seconds=0, fails=False, patience=None)
            asker.close()
        self.looks = self.load.calls[before:]
        self.complaints += [f"at the end: {look}" for look in self.looks if look.outcome is not Outcome.ANSWERED]

    def _live(self) -> list[dict[str, Any]]:
        soon = time.time() + MARGIN_SECONDS
        query = select(sessions).where(sessions.c.ended_at.is_(None), sessions.c.answered_at.is_not(None))
        return [row for row in self.stack.rows(query) if row["expires_at"].timestamp() > soon]

    def _accounts(self) -> list[int]:
        """Return the ids of the keys, in the order in which they were made."""
        return list(range(1, len(self.keys) + 1))

    def _balance(self) -> None:
        """Take the books until they balance."""
        give_up = time.monotonic() + BALANCE_SECONDS
        while True:
            self.books = self._take()
            found = complaints(self.books)
            if not found or time.monotonic() > give_up:
                self.complaints += found
                return
            time.sleep(0.5)

    def _take(self) -> Books:
        live, counters, opening = self._redis()
        traces = self.stack.traces()
        return Books(
            calls=list(self.load.calls),
            faults=self.faults,
            sessions=self.stack.rows(select(sessions)),
            ledger=self.stack.rows(select(ledger)),
            live=live,
            counters=counters,
            opening=opening,
            taken=time.time(),
            traces=traces,
            pooled=self._pooled(),
        )

    def _pooled(self) -> set[str]:
        with self.stack.redis_client() as client:
            return {json.loads(member)[0] for member in client.zrange(f"tci:{self.stack.deployment}:pool", 0, -1)}

    def _redis(self) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, str]], dict[str, str]]:
        """Return the sets of live sessions, the counters and the reservations."""
        prefix = f"tci:{self.stack.deployment}:"
        live, counters = {}, {}
        with self.stack.redis_client() as client:
            for key in client.scan_iter(match=f"{prefix}*"):
                name = key.removeprefix(prefix)
                if name == "sessions" or name.endswith(":sessions"):
                    live[name] = dict(client.zrange(key, 0, -1, withscores=True))
                elif name.startswith(("account:", "key:")) and client.type(key) == "hash":
                    counters[name] = client.hgetall(key)
            return live, counters, client.hgetall(f"{prefix}opening")


@contextmanager
def chaos(driver: str, kind: Kind, *, seed: int, ttl_seconds: int = TTL_SECONDS) -> Iterator[Chaos]:
    """Give a stack to break, with keys of three accounts."""
    settings = {**SETTINGS, "session_ttl_seconds": ttl_seconds}
    with stack(driver, kind, workers=WORKERS[kind], is_durable=True, **settings) as built:
        others = [built.instances[0].new_key(account) for account in ("second", "third")]
        yield Chaos(built, seed, [KEY, *others])


def show(run: Chaos) -> None:
    """Print what was broken, what clients saw, and what does not balance."""
    print("\nBroken:")
    for name, count in Counter(fault.name for fault in run.faults).most_common():
        print(f"{count:>6}  {name}")
    print("Seen by clients:")
    for what, count in Counter(map(_seen, run.load.calls)).most_common():
        print(f"{count:>6}  {what}")
    if run.books is not None:
        print("Sessions:")
        for reason, count in Counter(str(row["end_reason"] or "live") for row in run.books.sessions).most_common():
            print(f"{count:>6}  {reason}")
        waived = sum(bill["waived_at"] is not None for bill in run.books.ledger)
        print(f"{len(run.books.ledger) - waived:>6}  billed\n{waived:>6}  waived")
    print(f"{len(run.looks):>6}  histories asked for at the end")
    print(f"\nSeed {run.seed}: {len(run.complaints)} complaints")
    shown: Counter[str] = Counter()
    for complaint in run.complaints:
        shown[kind := complaint.partition(":")[0]] += 1
        if shown[kind] <= SHOWN:
            print(f"  {complaint}")
    print("".join(f"  {kind}: {count} in all\n" for kind, count in shown.items() if count > SHOWN), end="")


def _seen(call: Call) -> str:
    if call.outcome is Outcome.ANSWERED:
        return f"answered: {call.verdict}"
    return f"{call.status} {call.code}" if call.outcome is Outcome.FAILED else call.outcome.value
