"""Twenty clients, each a thread, that find a replica that takes their calls and write down what came of each."""

import itertools
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx

from tests.chaos.call import Call, Outcome, code, of_answer

CLIENTS = 20

ANSWER_SECONDS = 90.0
"""A call without an answer for so long hangs: code takes 3 seconds at most, a sandbox's launch a minute."""

SHARED = 8
"""So many clients share their sessions, two by two."""

NEW, LEAVE, FAIL, SLEEP = 0.02, 0.05, 0.08, 0.3
"""Shares of the calls that open a session although theirs lives, whose client leaves, that raise, that take time."""


@dataclass
class Slot:
    """The session that one client, or two, use now."""

    session_id: str | None = None


@dataclass
class Load:
    """The clients, and all that they saw."""

    urls: Sequence[str]
    keys: Sequence[str]
    seed: int
    calls: list[Call] = field(default_factory=list)
    crashes: list[BaseException] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Let the clients begin."""
        slots = [Slot() for _ in range(CLIENTS - SHARED // 2)]
        for number in range(CLIENTS):
            place = number // 2 if number < SHARED else number - SHARED // 2
            client = Client(self, number, slots[place], self.keys[place % len(self.keys)])
            thread = threading.Thread(target=self._run, args=(client,), name=f"client {number}")
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Let the clients finish what they are at."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def is_over(self) -> bool:
        """Whether no client may begin another call."""
        return self._over.is_set()

    def wait(self, seconds: float) -> None:
        """Wait, at most until the end."""
        self._over.wait(seconds)

    def _run(self, client: "Client") -> None:
        try:
            client.run()
        except BaseException as error:
            self.crashes.append(error)
            raise


class Client:
    """One client."""

    def __init__(self, load: Load, number: int, slot: Slot, key: str) -> None:
        self._load = load
        self._number = number
        self._slot = slot
        self._random = random.Random(f"{load.seed} {number}")  # noqa: S311 (a repeatable mixture)
        self._count = itertools.count()
        self._headers = {"Authorization": f"Bearer {key}"}
        self._https = [httpx.Client(base_url=url, headers=self._headers) for url in load.urls]

    def run(self) -> None:
        """Call until the end."""
        while not self._load.is_over:
            self._call()
            self._load.wait(self._random.uniform(0.05, 0.6))
        self.close()

    def close(self) -> None:
        """Drop its connections."""
        for http in self._https:
            http.close()

    def _call(self) -> None:
        slot, asked = self._slot, self._slot.session_id
        is_aside = self._random.random() < NEW
        if is_aside:
            slot, asked = Slot(), None
        leaves = self._random.random() < LEAVE
        seconds = self._random.uniform(0.2, 3) if self._random.random() < SLEEP or leaves else 0
        call = self.call(
            asked,
            seconds=seconds,
            fails=self._random.random() < FAIL,
            patience=self._random.uniform(0.1, 1.0) if leaves else None,
        )
        if call.outcome is Outcome.ANSWERED and asked is None:
            slot.session_id = call.session_id
        if call.code == "session_not_found" and slot.session_id == asked:
            slot.session_id = None
        if call.outcome is Outcome.FAILED:
            self._load.wait(self._random.uniform(0.2, 1.0))

    def call(self, asked: str | None, *, seconds: float, fails: bool, patience: float | None) -> Call:
        """Call whichever replica takes the call, and write down what came of it."""
        token = f"{self._number}.{next(self._count)}"
        text = code(token, is_first=asked is None, seconds=seconds, fails=fails)
        body = {"code": text, "language": "python", "session_id": asked}
        timeout = httpx.Timeout(patience or ANSWER_SECONDS, connect=5)
        while True:
            sent = time.time()
            http = self._random.choice(self._https)
            try:
                outcome: httpx.Response | Outcome = http.post("/tci/execute", json=body, timeout=timeout)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                time.sleep(0.1)  # nothing was sent: another one, or the same in a moment
                continue
            except httpx.TimeoutException:
                outcome = Outcome.LEFT if patience else Outcome.HUNG
            except httpx.TransportError:
                outcome = Outcome.BROKEN
            break
        about = {
            "token": token,
            "asked": asked,
            "wants": "error" if fails else "ok",
            "sent": sent,
            "ended": time.time(),
        }
        call = Call(**about, outcome=outcome) if isinstance(outcome, Outcome) else of_answer(about, outcome)
        self._load.calls.append(call)
        return call
