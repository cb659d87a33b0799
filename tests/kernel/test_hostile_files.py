"""The real client against kernels that lie about files: what they say is checked, bounded, and told as a failure."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tci.errors import DiskFull, FileNotFound, InvalidRequest, KernelFailed
from tci.kernel import client as client_module
from tci.kernel.client import KernelClient
from tci.kernel.files import CHUNK_BYTES, FileType, KernelFiles
from tests.kernel import hostile
from tests.kernel.hostile import MIB, HonestKernel
from tests.kernel.hostile_files import CONTENTS, LISTS, FilesKernel, entry, found

KEY = "the kernel's key"
DISK = 3 * MIB


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "CONTROL_REPLY_SECONDS", 1.0)


@asynccontextmanager
async def reached(directory: Path) -> AsyncIterator[KernelFiles]:
    client = KernelClient(directory=str(directory), key=KEY, max_message_bytes=MIB)
    async with client.control() as ask:
        yield KernelFiles(ask, disk_bytes=DISK)


async def pieces(*given: bytes) -> AsyncIterator[bytes]:
    for piece in given:
        yield piece


@pytest.mark.parametrize("buffers", LISTS.values(), ids=LISTS)
async def test_list_that_is_none_is_a_failure(tmp_path: Path, buffers: list[bytes]) -> None:
    content = {"status": "ok", "is_complete": True}
    with FilesKernel(tmp_path, KEY, content, buffers):
        async with reached(tmp_path) as files:
            with pytest.raises(KernelFailed):
                await files.list()


async def test_names_that_no_file_can_have_are_left_out_of_a_list(tmp_path: Path) -> None:
    names = ["good", "../x", "/etc/passwd", "", "a//b", "a\0b", ".", "x" * 300, "also/good"]
    listed = hostile.as_bytes([entry(name=name, modified=-(2**60)) for name in names])
    with FilesKernel(tmp_path, KEY, {"status": "ok", "is_complete": True}, [listed]):
        async with reached(tmp_path) as files:
            listing = await files.list()
    assert ([file.name for file in listing.files], listing.is_complete) == (["also/good", "good"], False)


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
async def test_answer_about_a_file_that_is_none_is_a_failure(tmp_path: Path, content: Any) -> None:
    with FilesKernel(tmp_path, KEY, content, [b""]):
        async with reached(tmp_path) as files:
            with pytest.raises(KernelFailed):
                await files.find("f")


@pytest.mark.parametrize(
    ("number", "raised"), [(2, FileNotFound), (28, InvalidRequest), (21, InvalidRequest), (-5, InvalidRequest)]
)
async def test_error_of_the_kernel_is_a_refusal(tmp_path: Path, number: int, raised: type[Exception]) -> None:
    with FilesKernel(tmp_path, KEY, {"status": "error", "errno": number, "evalue": "r" * 5000}, []):
        async with reached(tmp_path) as files:
            with pytest.raises(raised) as refused:
                await files.find("f")
    assert len(str(refused.value)) < 300


async def test_file_larger_than_any_disk_is_refused(tmp_path: Path) -> None:
    with FilesKernel(tmp_path, KEY, found(size=DISK + 1), [b""]):
        async with reached(tmp_path) as files:
            with pytest.raises(InvalidRequest):
                await files.find("f")


async def test_name_that_the_kernel_says_is_not_believed(tmp_path: Path) -> None:
    with FilesKernel(tmp_path, KEY, found(name="../../other"), [b""]):
        async with reached(tmp_path) as files:
            assert (await files.find("f")).info.name == "f"


@pytest.mark.parametrize(
    ("buffers", "raised"),
    [
        ([b"x" * 6], KernelFailed),
        ([b"x" * (MIB - 4096)], KernelFailed),
        ([b"x" * 2 * MIB], KernelFailed),
        ([b""] * 70, KernelFailed),
        ([b"x" * 4], InvalidRequest),
        ([], InvalidRequest),
        ([b"xx", b"yyy"], InvalidRequest),
    ],
    ids=["one_more", "much_more", "far_too_much", "many", "one_less", "none", "two"],
)
async def test_piece_that_is_not_as_long_as_announced_is_refused(
    tmp_path: Path, buffers: list[bytes], raised: type[Exception]
) -> None:
    with FilesKernel(tmp_path, KEY, found(), [b""]) as kernel:
        async with reached(tmp_path) as files:
            file = await files.find("f")
            kernel.buffers = buffers
            with pytest.raises(raised):
                await files.read(file, start=0, length=5)


@pytest.mark.parametrize("content", [{}, {"status": "ok"}, {"status": "ok", "file": None}, {"status": "ok", "file": 5}])
async def test_write_that_the_kernel_does_not_confirm_is_a_failure_and_is_dropped(tmp_path: Path, content: Any) -> None:
    with FilesKernel(tmp_path, KEY, content, []) as kernel:
        async with reached(tmp_path) as files:
            with pytest.raises(KernelFailed):
                await files.write("f", pieces(b"x"))
    assert kernel.asked == ["put_part_request", "drop_request"]


async def test_write_that_no_disk_holds_ends_whatever_the_kernel_says(tmp_path: Path) -> None:
    with FilesKernel(tmp_path, KEY, {"status": "ok", "file": entry()}, []) as kernel:
        async with reached(tmp_path) as files:
            with pytest.raises(DiskFull):
                await files.write("f", pieces(*[b"x" * MIB] * 4))
    assert kernel.asked[-1] == "drop_request"
    assert kernel.asked.count("put_part_request") == DISK // CHUNK_BYTES


async def test_write_tells_what_was_sent_not_what_the_kernel_says(tmp_path: Path) -> None:
    with FilesKernel(tmp_path, KEY, {"status": "ok", "file": entry(size=7, type="link", name="x")}, []):
        async with reached(tmp_path) as files:
            info = await files.write("f", pieces(b"123", b"", b"45"))
    assert (info.name, info.size, info.type) == ("f", 5, FileType.FILE)


async def test_full_disk_is_told(tmp_path: Path) -> None:
    with FilesKernel(tmp_path, KEY, {"status": "error", "errno": 28, "evalue": "No space left on device"}, []):
        async with reached(tmp_path) as files:
            with pytest.raises(DiskFull):
                await files.write("f", pieces(b"x"))


CALLS: dict[str, Callable[[KernelFiles], Awaitable[object]]] = {
    "list": lambda files: files.list(),
    "find": lambda files: files.find("f"),
    "write": lambda files: files.write("f", pieces(b"x")),
    "delete": lambda files: files.delete("f"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(
    "kind",
    [hostile.SilentKernel, hostile.RawKernel, hostile.RawGarbageKernel, hostile.RawHangingUpKernel],
    ids=lambda kind: kind.__name__,
)
async def test_kernel_that_says_nothing_of_use_is_a_failure(
    tmp_path: Path, kind: type[HonestKernel], call: Callable[[KernelFiles], Awaitable[object]]
) -> None:
    with kind(tmp_path, KEY):
        async with asyncio.timeout(20), reached(tmp_path) as files:
            with pytest.raises(KernelFailed):
                await call(files)
