"""A session that is open: round trips of `print(1)`, and the processor time that they take."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks.bare import bare
from benchmarks.deployment import Deployment, cpu_milliseconds, deployed, memory_mebibytes
from benchmarks.gateway import gateway
from benchmarks.llm_sandbox_peer import llm_sandbox
from benchmarks.loop import Times
from benchmarks.plan import Plan
from benchmarks.raw_async import RawAsync
from benchmarks.report import Bar, Report
from tci.sandbox.docker_image import image_tag
from tests.stack import Kind

GROUP = "warm round trip"

GATEWAY_CALLS, LLM_CALLS = 8, 1
"""Calls of each round: these take so long that a few are enough."""


def measure(report: Report, plan: Plan, programs: Path) -> None:
    """Call each in turn, a block each, round after round."""
    with ExitStack() as stack:
        ours = stack.enter_context(deployed())
        embedded = stack.enter_context(deployed(Kind.EMBEDDED))
        floor = stack.enter_context(bare())
        twin, other = floor.launch(), floor.launch()
        kernel = stack.enter_context(gateway(programs)).new_kernel()
        [session_id], [embedded_id] = ours.open(), embedded.open()
        caller, embedded_caller = ours.caller(session_id), embedded.caller(embedded_id)
        raw_async = stack.enter_context(RawAsync(other.directory, other.key))
        calls: dict[str, tuple[Callable[[], object], int]] = {
            "ours": (caller.run, plan.warm_block),
            "raw": (twin.kernel.run, plan.warm_block),
            "embedded": (embedded_caller.run, plan.warm_block),
            "gateway": (kernel.run, GATEWAY_CALLS),
        }
        if plan.has_llm_sandbox:
            peer = stack.enter_context(llm_sandbox(programs, image_tag()))
            peer.seconds("open")
            calls["llm"] = (lambda: peer.seconds("run"), LLM_CALLS)
        for call, count in calls.values():
            Times().add(call, count=count)
        times = {name: Times() for name in calls}
        cpu = Processor(ours, calls=plan.warm_block * plan.warm_rounds)
        for _ in range(plan.warm_rounds):
            for name, (call, count) in calls.items():
                with cpu.of(name):
                    times[name].add(call, count=count)
            with cpu.of("raw asyncio"):
                raw_async.run(plan.warm_block)
        tell(report, times, cpu)
        ours.wait_until_quiet()
        [group] = ours.cgroups()[:1]
        report.add("memory of an idle session, default preload", memory_mebibytes(group), "MiB")


class Processor:
    """Adds up what each kind of call costs; of the service and its servers while ours is called, else of this process.

    This process is the raw client: pyzmq's own thread is in it.
    """

    def __init__(self, ours: Deployment, *, calls: int) -> None:
        self._processes = ours.processes()
        self._servers = ours.server_processes()
        self._calls = calls
        self.spent: dict[str, float] = {}
        self._name = ""
        self._before: dict[str, float] = {}

    def of(self, name: str) -> "Processor":
        """Count what follows for a name."""
        self._name = name
        return self

    def each(self, name: str) -> float:
        """Return the milliseconds of one call."""
        return self.spent[name] / self._calls

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
    if "llm" in times:
        report.add("warm print(1), p50: llm-sandbox", times["llm"].p50, "ms", group=GROUP)
    raw_cpu = {"reference": cpu.each("raw asyncio"), "reference_name": "raw, zmq.asyncio"}
    report.add("CPU of the service, one warm execution", cpu.each("ours"), "ms", **raw_cpu, bar=Bar(2.0))
    report.add("CPU of the raw client, blocking", cpu.each("raw"), "ms", **raw_cpu)
    report.add("CPU of PostgreSQL and Redis, one warm execution", cpu.each("servers"), "ms")
