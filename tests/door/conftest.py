"""A door started as its users start it, and the driver's tests on the far side of it."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tci.ids import random_text
from tci.paths import short_path
from tci.sandbox.choose import open_driver
from tci.settings import SandboxChoice, Settings
from tests.conftest import clean_environment
from tests.sandbox.conftest import Bench, names

START_SECONDS = 30


@dataclass(frozen=True)
class Door:
    """A running `tci door`."""

    path: Path
    data_dir: Path

    @property
    def run_dir(self) -> Path:
        """Where its sandboxes have their directories."""
        return self.data_dir / "run"

    @property
    def url(self) -> str:
        """What a service sets as TCI_DOCKER_HOST."""
        return f"unix://{self.path}"

    def ask(self, method: str, target: str, body: bytes | None = None, **headers: str) -> tuple[int, str]:
        """Send a request whose target goes out as it is."""
        connection = UnixConnection(self.path)
        connection.request(method, target, body=body, headers=headers)
        answer = connection.getresponse()
        told = answer.read().decode()
        connection.close()
        return answer.status, told

    def ask_raw(self, request: bytes) -> int:
        """Send bytes and return the status of the first answer."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(str(self.path))
            connection.sendall(request)
            answer = connection.recv(65536)
        return int(answer.split()[1])


class UnixConnection(HTTPConnection):
    """HTTP over a UNIX socket, targets unchanged."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket's path."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))

    def _encode_request(self, request: str) -> bytes:
        return request.encode()

    def _validate_path(self, url: str) -> None:
        """Let every target out: they are what is tried."""


@pytest.fixture(scope="session")
def door(prepared: Callable[[str], None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """A door on a data directory of its own."""
    prepared("docker")
    if os.geteuid() != 0:
        pytest.skip("the door's user is root's, as the engine's socket is")
    data_dir = tmp_path_factory.mktemp("door")
    found = Door(data_dir / "door" / "engine.sock", data_dir)
    log = data_dir / "door.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "tci", "door"], env=clean_environment(data_dir), stderr=said, cwd=data_dir
        )
    try:
        wait_for_socket(found.path, process, log)
        yield found
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 0, log.read_text()[-3000:]
        assert names(found.run_dir) == []


def wait_for_socket(path: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return once the door listens."""
    give_up = time.monotonic() + START_SECONDS
    while not path.exists():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < give_up, "the door did not open in time"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def settings(door: Door) -> Settings:
    """What a service behind the door is set to."""
    return Settings(data_dir=door.data_dir, sandbox=SandboxChoice.DOCKER, docker_host=door.url, _env_file=None)


@pytest.fixture(scope="session")
async def bench(settings: Settings) -> AsyncIterator[Bench]:
    """A driver behind the door; what is left of its sandboxes fails the run."""
    deployment = f"test{random_text(8)}"
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(open_driver(settings, deployment=deployment))
        sockets = stack.enter_context(short_path(settings.run_dir))
        yield Bench(settings, deployment, sockets, stack, opened)
        assert await opened.list_sandboxes() == set()


@dataclass(frozen=True)
class Engine:
    """The engine itself, asked without the door."""

    session: aiohttp.ClientSession

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send a request and return status and JSON."""
        async with self.session.request(method, f"http://engine/v1.41/{path}", json=body) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text else None


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    """The engine that the door stands before."""
    async with open_engine() as found:
        yield found


@asynccontextmanager
async def open_engine() -> AsyncIterator[Engine]:
    """Connect to the engine for as long as the block lasts."""
    path = next(path for path in ("/run/docker.sock", "/var/run/docker.sock") if Path(path).is_socket())
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session:
        yield Engine(session)
