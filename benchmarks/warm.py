"""A session that is open: round trips of `print(1)`, and the processor time that they take."""

import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from benchmarks.bare import Bare, bare
from benchmarks.deployment import Deployment, cpu_milliseconds, deployed, memory_mebibytes
from benchmarks.gateway import gateway
from benchmarks.guard import RUN_LABEL
from benchmarks.llm_sandbox_peer import llm_sandbox
from benchmarks.loop import Times
from benchmarks.plan import Plan
from benchmarks.raw_async import RawAsync
from benchmarks.report import Bar, Report
from benchmarks.steps import Steps
from tci.sandbox.docker_image import image_tag
from tests.stack import Kind

GROUP = "warm round trip"

GATEWAY_CALLS, LLM_CALLS = 8, 1
"""Calls of each round: these take so long that a few are enough."""

STEP_SECONDS = 60.0
"""How long any of them may take to start, or for the calls of one round."""

T = TypeVar("T")

Call = Callable[[], object]

Calls = dict[str, tuple[Call, int]]
"""What is called, and how often in a round, by name."""


def measure(report: Report, steps: Steps, plan: Plan, programs: Path) -> None:
    """Call each in turn, a block each, round after round."""
    with ExitStack() as stack:
        ours = stack.enter_context(deployed())
        others = Others(steps, stack)
        others.start(plan, programs)
        [session_id] = ours.open()
        calls = {"ours": (ours.caller(session_id).run, plan.warm_block)} | others.calls
        cpu = Processor(ours)
        times: dict[str, Times] = defaultdict(Times)
        try:
            call_in_turn(steps, calls, times, cpu, rounds=plan.warm_rounds, block=plan.warm_block)
        finally:
            tell(report, times, cpu)
        steps.take("memory of an idle session", lambda: tell_memory(report, ours), seconds=STEP_SECONDS)


class Others:
    """Whom ours is compared with: each is left out if it does not start."""

    def __init__(self, steps: Steps, stack: ExitStack) -> None:
        self._steps = steps
        self._stack = stack
        self.calls: Calls = {}

    def start(self, plan: Plan, programs: Path) -> None:
        """Start all of them."""
        enter = self._stack.enter_context
        if floor := self._try("raw", lambda: enter(bare())):
            self._add("raw", lambda: floor.launch().kernel.run, plan.warm_block)
            self._add("raw asyncio", lambda: self._raw_async(floor, plan.warm_block), 1)
        self._add("embedded", self._embedded, plan.warm_block)
        if kernel := self._try("gateway", lambda: enter(gateway(programs)).new_kernel()):
            self._add("gateway", lambda: kernel.run, GATEWAY_CALLS)
            self._add("gateway acknowledged", lambda: lambda: kernel.run(acknowledges=True), GATEWAY_CALLS)
        if plan.has_llm_sandbox:
            self._add("llm", lambda: self._llm_sandbox(programs), LLM_CALLS)

    def _raw_async(self, floor: Bare, count: int) -> Call:
        sandbox = floor.launch()
        client = self._stack.enter_context(RawAsync(sandbox.directory, sandbox.key))
        return lambda: client.run(count)

    def _embedded(self) -> Call:
        deployment = self._stack.enter_context(deployed(Kind.EMBEDDED))
        [session_id] = deployment.open()
        return deployment.caller(session_id).run

    def _llm_sandbox(self, programs: Path) -> Call:
        peer = self._stack.enter_context(llm_sandbox(programs, image_tag(), label=RUN_LABEL))
        peer.seconds("open")
        return lambda: peer.seconds("run")

    def _add(self, name: str, start: Callable[[], Call], count: int) -> None:
        if call := self._try(name, start):
            self.calls[name] = call, count

    def _try(self, name: str, start: Callable[[], T]) -> T | None:
        return self._steps.take(step_name(name), start, seconds=STEP_SECONDS)


def call_in_turn(
    steps: Steps, calls: Calls, times: dict[str, Times], cpu: "Processor", *, rounds: int, block: int
) -> None:
    """Take the times of each; one that fails, or hangs, is not called again."""
    for name, (call, count) in calls.items():
        steps.take(step_name(name), lambda: Times().add(call, count=count), seconds=STEP_SECONDS)  # noqa: B023 (called here)
    for _ in range(rounds):
        for name, (call, count) in calls.items():
            with cpu.of(name, calls=block if name == "raw asyncio" else count):
                steps.take(step_name(name), lambda: times[name].add(call, count=count), seconds=STEP_SECONDS)  # noqa: B023


def step_name(name: str) -> str:
    """Return what a failure is told of."""
    return f"warm round trip, {name}"


def tell_memory(report: Report, ours: Deployment) -> None:
    """Add what an idle session uses."""
    ours.wait_until_quiet()
    [group] = ours.cgroups()[:1]
    report.add("memory of an idle session, default preload", memory_mebibytes(group), "MiB")


class Processor:
    """Adds up what each kind of call costs; of the service and its servers while ours is called, else of this process.

    This process is the raw client: pyzmq's own thread is in it.
    """

    def __init__(self, ours: Deployment) -> None:
        self._processes = ours.processes()
        self._servers = ours.server_processes()
        self._calls: dict[str, int] = defaultdict(int)
        self.spent: dict[str, float] = {}
        self._name = ""
        self._before: dict[str, float] = {}

    def of(self, name: str, *, calls: int) -> "Processor":
        """Count what follows, so many calls, for a name."""
        self._name = name
        for counted in ("ours", "servers") if name == "ours" else (name,):
            self._calls[counted] += calls
        return self

    def each(self, name: str) -> float | None:
        """Return the milliseconds of one call, or None where nothing was called."""
        return self.spent[name] / self._calls[name] if self._calls[name] else None

    def __enter__(self) -> None:
        self._before = self._now()

    def __exit__(self, *_: object) -> None:
        for name, value in self._now().items():
            self.spent[name] = self.spent.get(name, 0.0) + value - self._before[name]

    def _now(self) -> dict[str, float]:
        if self._name == "ours":
            return {"ours": cpu_milliseconds(self._processes), "servers": cpu_milliseconds(self._servers)}
        return {self._name: time.process_time() * 1000}


def tell(report: Report, times: dict[str, Times], cpu: Processor) -> None:
    """Add the lines."""
    ours, raw, gateway_p50 = times["ours"].p50, times["raw"].p50, times["gateway"].p50
    versus_raw = {"reference": raw, "reference_name": "raw ZeroMQ"}
    report.add("warm print(1), p50: ours", ours, "ms", **versus_raw, bar=Bar(1.7), group=GROUP)
    versus_gateway = {"reference": gateway_p50, "reference_name": "Kernel Gateway"}
    report.add("warm print(1), p50: ours against Jupyter Kernel Gateway", ours, "ms", **versus_gateway, bar=Bar(1 / 8))
    versus_itself = {"reference": ours, "reference_name": "its p50"}
    report.add("warm print(1), p99: ours", times["ours"].p99, "ms", **versus_itself, bar=Bar(3.0))
    report.add("warm print(1), p50: ours, SQLite and embedded Valkey", times["embedded"].p50, "ms", **versus_raw)
    report.add("warm print(1), p99: raw ZeroMQ", times["raw"].p99, "ms", reference=raw, reference_name="its p50")
    report.add("warm print(1), p50: raw ZeroMQ", raw, "ms", group=GROUP)
    report.add("warm print(1), p50: Jupyter Kernel Gateway", gateway_p50, "ms", group=GROUP)
    acknowledged = "warm print(1), p50: Jupyter Kernel Gateway, to a client that acknowledges at once"
    report.add(acknowledged, times["gateway acknowledged"].p50, "ms", reference=gateway_p50, reference_name="usual")
    if times["llm"].values:
        report.add("warm print(1), p50: llm-sandbox", times["llm"].p50, "ms", group=GROUP)
    raw_cpu = {"reference": cpu.each("raw asyncio"), "reference_name": "raw, zmq.asyncio"}
    report.add("CPU of the service, one warm execution", cpu.each("ours"), "ms", **raw_cpu, bar=Bar(2.0))
    report.add("CPU of the raw client, blocking", cpu.each("raw"), "ms", **raw_cpu)
    report.add("CPU of PostgreSQL and Redis, one warm execution", cpu.each("servers"), "ms")
