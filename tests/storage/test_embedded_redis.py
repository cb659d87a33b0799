"""The embedded server: shared by processes, adopted after a crash, gone with its last user."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from tci.storage.embedded_redis import open_embedded_redis
from tests.sandbox import processes

USER = """
import asyncio, sys
from pathlib import Path
from tci.storage.embedded_redis import open_embedded_redis

async def main():
    async with open_embedded_redis(Path(sys.argv[1])) as redis:
        await redis.set("told", sys.argv[2])
        print(await redis.info("server"), flush=True)
        await asyncio.to_thread(sys.stdin.read)
        print(await redis.get("told"), flush=True)

asyncio.run(main())
"""
"""A process that uses the server until its standard input is closed."""


@contextmanager
def user(data_dir: Path, told: str) -> Iterator[subprocess.Popen[str]]:
    """Run another process that uses the server."""
    command = [sys.executable, "-c", USER, str(data_dir), told]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert "redis_version" in process.stdout.readline()
            yield process
        finally:
            if process.poll() is None:
                process.communicate(timeout=20)


async def test_second_process_shares_the_server(tmp_path: Path) -> None:
    async with open_embedded_redis(tmp_path) as redis:
        with user(tmp_path, "by another"):
            assert await redis.get("told") == b"by another"
            assert len(processes.in_directory(tmp_path)) == 1
        assert await redis.ping(), "the guest took the server with it"
    assert processes.in_directory(tmp_path) == set()


async def test_server_goes_with_its_owner(tmp_path: Path) -> None:
    async with open_embedded_redis(tmp_path):
        assert processes.in_directory(tmp_path)
    assert processes.in_directory(tmp_path) == set()


async def test_server_outlives_an_owner_that_ends_before_its_guest(tmp_path: Path) -> None:
    """`tci sessions list` runs, `tci serve` starts meanwhile, the first ends: the service needs its Redis."""
    with user(tmp_path, "by the owner") as owner:
        async with open_embedded_redis(tmp_path) as redis:
            assert await redis.ping()
            owner.communicate(timeout=20)
            assert await redis.get("told") == b"by the owner"
    assert processes.in_directory(tmp_path) == set()


async def test_server_of_a_killed_owner_is_adopted(tmp_path: Path) -> None:
    with user(tmp_path, "before the crash") as owner:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    before = processes.in_directory(tmp_path)
    assert len(before) == 1, "the server outlives its owner"
    async with open_embedded_redis(tmp_path) as redis:
        assert await redis.get("told") == b"before the crash"
        assert processes.in_directory(tmp_path) == before
    assert processes.in_directory(tmp_path) == set()


async def test_killed_server_and_owner_are_replaced(tmp_path: Path) -> None:
    with user(tmp_path, "lost") as owner:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    for pid in processes.in_directory(tmp_path):
        os.kill(pid, signal.SIGKILL)
    assert (tmp_path / "redis.sock").exists(), "a stale socket is what must not stop the next one"
    async with open_embedded_redis(tmp_path) as redis:
        assert await redis.get("told") is None


@pytest.mark.parametrize("length", [100, 107, 108, 240])
async def test_long_data_directory_works(tmp_path: Path, length: int) -> None:
    data_dir = tmp_path
    while len(str(data_dir)) < length - 1:
        data_dir /= "d" * min(100, length - len(str(data_dir)) - 1)
    async with open_embedded_redis(data_dir) as redis:
        assert await redis.ping()
        with user(data_dir, "far away"):
            assert await redis.get("told") == b"far away"
    assert processes.in_directory(tmp_path) == set()


async def test_data_directories_do_not_share(tmp_path: Path) -> None:
    async with open_embedded_redis(tmp_path / "a") as first, open_embedded_redis(tmp_path / "b") as second:
        await first.set("told", "a")
        assert await second.get("told") is None


async def test_server_is_closed_to_other_users_and_writes_nothing(tmp_path: Path) -> None:
    async with open_embedded_redis(tmp_path) as redis:
        await redis.set("told", "a")
        assert (tmp_path / "redis.sock").stat().st_mode & 0o077 == 0
        assert names(tmp_path) == ["redis.lock", "redis.sock", "redis.watch"]
        assert (await redis.config_get("port"))["port"] == "0"
    assert names(tmp_path) == ["redis.lock", "redis.watch"]


def names(directory: Path) -> list[str]:
    """Return the names in a directory."""
    return sorted(path.name for path in directory.iterdir())


async def test_server_that_is_killed_is_started_again_empty(tmp_path: Path) -> None:
    async with open_embedded_redis(tmp_path) as redis:
        with user(tmp_path, "by another"):
            assert await redis.get("told") == b"by another"
            [pid] = processes.in_directory(tmp_path)
            os.kill(pid, signal.SIGKILL)
            assert processes.eventually(lambda: len(processes.in_directory(tmp_path) - {pid}) == 1), "by the other user"
            while True:
                with suppress(RedisConnectionError):
                    assert await redis.get("told") is None
                    break
                await asyncio.sleep(0.05)
        await asyncio.sleep(1)
        assert len(processes.in_directory(tmp_path)) == 1, "two users, one server"
        assert await redis.ping()
    assert processes.in_directory(tmp_path) == set()
