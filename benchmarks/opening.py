"""New sessions, one at a time: from the pool, without it, and what others take."""

from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TypeVar

from benchmarks.bare import Bare, bare
from benchmarks.caller import Caller
from benchmarks.deployment import HAS_POOL, Deployment, deployed, opener
from benchmarks.gateway import Gateway, gateway
from benchmarks.guard import RUN_LABEL
from benchmarks.llm_sandbox_peer import LlmSandbox, llm_sandbox
from benchmarks.loop import Times
from benchmarks.plan import Plan
from benchmarks.report import Bar, Report
from benchmarks.steps import Steps
from tci.sandbox.docker_image import image_tag

GROUP = "new session"

IMPORTS = "import numpy, pandas, matplotlib.pyplot"

WARM_CALLS = 25

POOL_SIZE = 2

STEP_SECONDS = 60.0

T = TypeVar("T")


def measure(report: Report, steps: Steps, plan: Plan, programs: Path) -> None:
    """Open one session of each kind in turn, round after round, each while nothing else starts."""
    times: dict[str, Times] = defaultdict(Times)

    def start(name: str, what: AbstractContextManager[T]) -> T | None:
        return steps.take(name, lambda: stack.enter_context(what), seconds=STEP_SECONDS)

    with ExitStack() as stack:
        pooled = stack.enter_context(deployed(pool_size=POOL_SIZE)) if HAS_POOL else None
        plain = stack.enter_context(deployed())
        floor = start("container + kernel", bare())
        served = start("new kernel of the gateway", gateway(programs))
        peer = plan.has_llm_sandbox and start(
            "new session of llm-sandbox", llm_sandbox(programs, image_tag(), label=RUN_LABEL)
        )
        plain_caller = opener(plain)
        plain_caller.run()  # the first session of a service is not like the others: its connections are made
        rounds: dict[str, Callable[[], None]] = {"pool miss": lambda: times["miss"].add(plain_caller.run)}
        if pooled:
            rounds["pool hit"] = lambda: hit(pooled, times)
        if floor:
            rounds["container + kernel"] = lambda: launch(floor, times)
        if served:
            rounds["new kernel of the gateway"] = lambda: start_in_gateway(served, times)
        if peer:
            rounds["new session of llm-sandbox"] = lambda: open_in_peer(peer, times)
        try:
            for _ in range(plan.opening_rounds):
                for name, call in rounds.items():
                    steps.take("quiet", (pooled or plain).wait_until_quiet, seconds=STEP_SECONDS)
                    steps.take(name, call, seconds=STEP_SECONDS)
        finally:
            tell(report, times)


def hit(pooled: Deployment, times: dict[str, Times]) -> None:
    """Take a session from a full pool; then import in it, then look at its warm round trip, once the pool is full."""
    caller = opener(pooled)
    pooled.wait_until_quiet()
    times["hit"].add(caller.run)
    session = pooled.caller(caller.answer["session_id"])
    times["hit import"].add(lambda: session.run(IMPORTS))
    pooled.wait_until_quiet()
    warm(session, times)
    for opened in (caller, session):
        opened.close()


def warm(session: Caller, times: dict[str, Times]) -> None:
    """Call an open session a few times."""
    session.run()
    times["warm"].add(session.run, count=WARM_CALLS)


def launch(floor: Bare, times: dict[str, Times]) -> None:
    """Start a container and its kernel, with the service's preload and without any."""
    loaded = floor.launch()
    times["floor"].values.append(loaded.total_seconds * 1000)
    times["container"].values.append(loaded.container_seconds * 1000)
    cold = floor.launch(preload=())
    times["cold import"].add(lambda: cold.kernel.run(IMPORTS))
    floor.destroy(loaded, cold)


def start_in_gateway(served: Gateway, times: dict[str, Times]) -> None:
    """Start a kernel in the gateway and import in it."""
    kernels = []

    def first_answer() -> None:
        kernels.append(served.new_kernel())
        kernels[0].run()

    times["gateway"].add(first_answer)
    times["gateway import"].add(lambda: kernels[0].run(IMPORTS))
    served.end(kernels[0])


def open_in_peer(peer: LlmSandbox, times: dict[str, Times]) -> None:
    """Open a session of llm-sandbox and run code in it."""
    times["llm"].values.append((peer.seconds("open") + peer.seconds("run")) * 1000)
    peer.seconds("close")


def tell(report: Report, times: dict[str, Times]) -> None:
    """Add the lines."""
    p50 = defaultdict[str, float | None](lambda: None, {name: found.p50 for name, found in times.items()})
    none = "" if HAS_POOL else " (no pool)"
    versus_warm = {"reference": p50["warm"], "reference_name": "warm p50"}
    report.add(f"new session, pool hit, p50{none}", p50["hit"], "ms", **versus_warm, bar=Bar(4.0), group=GROUP)
    versus_floor = {"reference": p50["floor"], "reference_name": "container + kernel"}
    report.add("new session, pool miss, p50", p50["miss"], "ms", **versus_floor, bar=Bar(1.25), group=GROUP)
    versus_cold = {"reference": p50["cold import"], "reference_name": "cold kernel"}
    report.add(
        f"first import numpy, pandas, pyplot, pool hit{none}",
        p50["hit import"],
        "ms",
        **versus_cold,
        bar=Bar(1 / 20),
    )
    report.add("container + kernel with the same preload, p50", p50["floor"], "ms", group=GROUP)
    report.add("of that, container create + start", p50["container"], "ms")
    report.add("new kernel: Jupyter Kernel Gateway, no container, p50", p50["gateway"], "ms", group=GROUP)
    report.add("the same import in it", p50["gateway import"], "ms")
    if p50["llm"]:
        report.add("new session: llm-sandbox, no kernel, p50", p50["llm"], "ms", group=GROUP)
