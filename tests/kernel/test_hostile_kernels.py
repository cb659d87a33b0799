"""The real client against kernels that lie: it says what happened or waits, and never believes what it can check."""

import asyncio
import gc
import resource
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

from tci.errors import InvalidFile, KernelFailed
from tci.kernel import client as client_module
from tci.kernel.client import KernelClient, MessageLost, OutputTooLarge
from tci.kernel.output_buffer import OutputBuffer
from tci.kernel.outputs import Output, OutputType
from tci.kernel.zmtp import ConnectionLost
from tests.kernel import hostile
from tests.kernel.hostile import FORGED, MIB, HonestKernel

KEY = "the kernel's key"
CODE = "print('honest')"
SAID = (Output(OutputType.STDOUT, CODE),)
LIMIT = MIB
"""Of an execution's output."""

MESSAGE_LIMIT = LIMIT + 4096

DEADLINE = 0.4
"""The test's own, for kernels that make the client wait for ever."""

FLOOD_SECONDS = 0.7

LONGEST_PAUSE = 3.0
"""How long a hostile kernel may keep the service from everything else."""


@dataclass(frozen=True)
class End:
    """How an execution ended."""

    is_ok: bool | None
    raised: type[BaseException] | None
    outputs: tuple[Output, ...]


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "LATE_OUTPUT_SECONDS", 0.3)
    monkeypatch.setattr(client_module, "CONTROL_REPLY_SECONDS", 0.3)


@pytest.fixture
def fresh_directory(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    return lambda: tmp_path_factory.mktemp("k")


@contextmanager
def connected(directory: Path) -> Iterator[KernelClient]:
    client = KernelClient(directory=str(directory), key=KEY, max_message_bytes=MESSAGE_LIMIT)
    try:
        yield client
    finally:
        client.close()


async def end_of(client: KernelClient, code: str = CODE, *, deadline: float = 5) -> End:
    """Run code and return how that ended; anything but the expected exceptions fails the test."""
    outputs = OutputBuffer(limit=LIMIT)
    is_ok, raised = None, None
    try:
        async with asyncio.timeout(deadline):
            is_ok = await client.execute(code, outputs)
    except (MessageLost, ConnectionLost, TimeoutError, KernelFailed) as error:
        raised = type(error)
    kept = outputs.outputs().items()
    assert FORGED not in orjson.dumps([output.data for output in kept]).decode()
    return End(is_ok, raised, kept)


async def assert_fresh_kernel_answers(directory: Path) -> None:
    with HonestKernel(directory, KEY), connected(directory) as client:
        assert await end_of(client) == End(is_ok=True, raised=None, outputs=SAID)


async def longest_pause(ended: asyncio.Event) -> float:
    """Return the longest time for which the event loop did nothing else."""
    longest = 0.0
    while not ended.is_set():
        began = time.perf_counter()
        await asyncio.sleep(0.005)
        longest = max(longest, time.perf_counter() - began)
    return longest


async def watched(work: Awaitable[End]) -> tuple[End, float]:
    """Return how a run ended and the longest pause that it made in the loop."""
    ended = asyncio.Event()
    pause = asyncio.create_task(longest_pause(ended))
    await asyncio.sleep(0)
    end = await work
    ended.set()
    return end, await pause


@pytest.mark.parametrize(
    "kind",
    [
        HonestKernel,
        hostile.FakeReplyKernel,
        hostile.ReplyForAnotherRequestKernel,
        hostile.ReplyForEarlierRequestKernel,
        hostile.TwiceKernel,
        hostile.UnaskedReplyKernel,
        hostile.WrongHmacKernel,
        hostile.HalfFramesKernel,
        hostile.TwoWelcomesKernel,
    ],
    ids=lambda kind: kind.__name__,
)
async def test_noise_around_honest_answers_changes_none_of_them(
    fresh_directory: Callable[[], Path], kind: type[HonestKernel]
) -> None:
    directory = fresh_directory()
    with kind(directory, KEY) as kernel, connected(directory) as client:
        for number in range(3):
            code = f"print({number})"
            end = await end_of(client, code)
            assert end == End(is_ok=True, raised=None, outputs=(Output(OutputType.STDOUT, code),))
        assert kernel.requests == 3
    await assert_fresh_kernel_answers(fresh_directory())


async def test_process_that_stood_still_loses_no_answer(fresh_directory: Callable[[], Path]) -> None:
    """Its clocks have all run out, and yet the kernel has said everything in time."""
    directory, loop = fresh_directory(), asyncio.get_running_loop()

    def stall() -> None:
        loop.call_soon_threadsafe(time.sleep, 3 * client_module.LATE_OUTPUT_SECONDS)

    with hostile.StallingKernel(directory, KEY, stall), connected(directory) as client:
        assert await end_of(client) == End(is_ok=True, raised=None, outputs=SAID)


@pytest.mark.parametrize(
    ("kind", "raised"),
    [
        (hostile.IdleWithoutReplyKernel, MessageLost),
        (hostile.ReplyWithoutIdleKernel, MessageLost),
        (hostile.ReopeningKernel, ConnectionLost),
        (hostile.GiantMessageKernel, OutputTooLarge),
        (hostile.ManyFramesKernel, OutputTooLarge),
        (hostile.RawCommandFloodKernel, ConnectionLost),
        (hostile.GiantReplyKernel, MessageLost),
        (hostile.SilentKernel, TimeoutError),
        (hostile.SilentAfterWelcomeKernel, TimeoutError),
        (hostile.FakeWelcomeKernel, TimeoutError),
        (hostile.ClosingKernel, ConnectionLost),
        (hostile.RawKernel, TimeoutError),
        (hostile.RawGarbageKernel, ConnectionLost),
        (hostile.RawWrongSocketKernel, TimeoutError),
        (hostile.RawHangingUpKernel, ConnectionLost),
        (hostile.RawHalfFrameKernel, TimeoutError),
        (hostile.RawHugeLengthKernel, OutputTooLarge),
    ],
    ids=lambda value: value.__name__,
)
async def test_kernel_that_breaks_its_promise_is_reported(
    fresh_directory: Callable[[], Path],
    kind: type[HonestKernel],
    raised: type[BaseException],
) -> None:
    directory = fresh_directory()
    with kind(directory, KEY), connected(directory) as client:
        end = await end_of(client, deadline=DEADLINE if raised is TimeoutError else 5)
        assert end.is_ok is None
        assert end.raised is raised
    await assert_fresh_kernel_answers(fresh_directory())


async def test_fake_idle_shortens_only_its_own_answer(fresh_directory: Callable[[], Path]) -> None:
    directory = fresh_directory()
    with hostile.FakeIdleKernel(directory, KEY), connected(directory) as client:
        for number in range(3):
            assert await end_of(client, f"print({number})") == End(is_ok=True, raised=None, outputs=())
    await assert_fresh_kernel_answers(fresh_directory())


@pytest.mark.parametrize("kind", [hostile.WrongTypesKernel, hostile.DeepJsonKernel], ids=lambda kind: kind.__name__)
async def test_odd_contents_are_left_out_or_made_valid(
    fresh_directory: Callable[[], Path], kind: type[HonestKernel]
) -> None:
    directory = fresh_directory()
    with kind(directory, KEY), connected(directory) as client:
        for _ in range(2):
            end = await end_of(client)
            assert end.is_ok
            shown = "".join(str(output.data) for output in end.outputs if output.type is OutputType.STDOUT)
            assert shown.endswith(CODE), "after a line, maybe, of what was left out"
    await assert_fresh_kernel_answers(fresh_directory())


@pytest.mark.parametrize(
    "kind",
    [
        hostile.WrongTypesReplyKernel,
        hostile.DeepReplyKernel,
    ],
    ids=lambda kind: kind.__name__,
)
async def test_odd_reply_is_one_error(fresh_directory: Callable[[], Path], kind: type[HonestKernel]) -> None:
    directory = fresh_directory()
    with kind(directory, KEY), connected(directory) as client:
        end = await end_of(client)
        assert end == End(is_ok=False, raised=None, outputs=(Output(OutputType.ERROR, "Error"),))
        with pytest.raises(InvalidFile):
            await client.put({"f": b"x"})
    await assert_fresh_kernel_answers(fresh_directory())


@pytest.mark.parametrize(
    "kind",
    [hostile.SilentKernel, hostile.RawKernel, hostile.RawGarbageKernel, hostile.RawHangingUpKernel],
    ids=lambda kind: kind.__name__,
)
async def test_control_without_an_answer_is_a_failed_kernel(
    fresh_directory: Callable[[], Path], kind: type[HonestKernel]
) -> None:
    directory = fresh_directory()
    with kind(directory, KEY), connected(directory) as client:
        with pytest.raises(KernelFailed):
            await client.put({"f": b"x"})
        with pytest.raises(KernelFailed):
            await client.interrupt()


@pytest.mark.parametrize(
    "kind",
    [
        hostile.FloodingKernel,
        hostile.TinyFloodingKernel,
        hostile.DisplayFloodingKernel,
        hostile.NameFloodingKernel,
        hostile.EmptyListsFloodingKernel,
        hostile.ForeignFloodingKernel,
        hostile.ReplyFloodingKernel,
        hostile.RawFloodingKernel,
    ],
    ids=lambda kind: kind.__name__,
)
async def test_flood_takes_neither_memory_nor_the_loop(
    fresh_directory: Callable[[], Path], kind: type[hostile.HonestKernel]
) -> None:
    directory = fresh_directory()
    with kind(directory, KEY), connected(directory) as client:
        before = resident_bytes()
        end, pause = await watched(end_of(client, deadline=FLOOD_SECONDS))
        grown = resident_bytes() - before
    assert end.raised is TimeoutError
    assert pause < LONGEST_PAUSE
    # The kernel's own share is in this process as well.
    assert grown < 3 * LIMIT + 24 * MIB, f"{grown / MIB:.0f} MiB"
    await assert_fresh_kernel_answers(fresh_directory())


@pytest.mark.parametrize(
    "kind",
    [
        hostile.FloodingKernel,
        hostile.NameFloodingKernel,
        hostile.EmptyListsFloodingKernel,
    ],
    ids=lambda kind: kind.__name__,
)
async def test_kept_outputs_of_a_flood_are_within_three_limits(
    fresh_directory: Callable[[], Path], kind: type[hostile.HonestKernel]
) -> None:
    directory = fresh_directory()
    outputs = OutputBuffer(limit=LIMIT)
    tracemalloc.start()
    try:
        with kind(directory, KEY), connected(directory) as client, pytest.raises(TimeoutError):
            async with asyncio.timeout(FLOOD_SECONDS):
                await client.execute(CODE, outputs)
        gc.collect()
        kept, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 3 * LIMIT, f"{kept / MIB:.1f} MiB"


async def test_message_without_end_takes_no_memory(fresh_directory: Callable[[], Path]) -> None:
    directory = fresh_directory()
    with hostile.RawEndlessMessageKernel(directory, KEY) as kernel, connected(directory) as client:
        before = resident_bytes()
        end = await end_of(client, deadline=1)
        grown = resident_bytes() - before
        assert grown < 3 * LIMIT + 24 * MIB, f"{grown / MIB:.0f} MiB of {kernel.sent / MIB:.0f} MiB sent"
    assert end.is_ok is None
    await assert_fresh_kernel_answers(fresh_directory())


async def test_hostile_kernel_does_not_disturb_another(fresh_directory: Callable[[], Path]) -> None:
    bad, good = fresh_directory(), fresh_directory()
    with (
        hostile.FloodingKernel(bad, KEY),
        HonestKernel(good, KEY),
        connected(bad) as hostile_client,
        connected(good) as client,
    ):
        flood = asyncio.create_task(end_of(hostile_client, deadline=FLOOD_SECONDS))
        await asyncio.sleep(0.2)
        for _ in range(20):
            assert await end_of(client, deadline=1) == End(is_ok=True, raised=None, outputs=SAID)
        assert (await flood).raised is TimeoutError


def resident_bytes() -> int:
    """Return this process's resident memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
