"""Serves the application: one process, or several that share a listening socket and are started again when they die."""

import asyncio
import ctypes
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI
from typing_extensions import override

from tci import metrics
from tci.api.protocol import BoundedHttp
from tci.app import create_app, open_parts
from tci.errors import SetupError
from tci.locks import try_lock
from tci.paths import make_private
from tci.settings import Settings

log = structlog.get_logger()

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that a process gets when the one that made it dies."""

RESTART_SECONDS = 0.2, 5.0
"""Pause before a dead worker is started again: the first, and the longest."""

STEADY_SECONDS = 30.0
"""A worker that lived so long was well; the next pause is the first again."""

WELL_ENDED = frozenset({0, -signal.SIGTERM})
"""Exit statuses of workers at a stop; one that was just being started dies of the signal."""

CLOSE_SECONDS = 30.0
"""How long a worker may take, once no request runs, to close what it has open."""


class Server(uvicorn.Server):
    """A server that goes on serving for a while after it was told to stop, and says so at /ready."""

    def __init__(self, config: uvicorn.Config, *, api: FastAPI, drain_seconds: float) -> None:
        super().__init__(config)
        self._api = api
        self._drain_seconds = drain_seconds

    @override
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        is_first = not self._api.state.is_stopping
        self._api.state.is_stopping = True
        if is_first and self._drain_seconds and self.started:
            asyncio.get_event_loop().call_later(self._drain_seconds, super().handle_exit, sig, None)
            return
        super().handle_exit(sig, frame)


def serve(settings: Settings, *, workers: int) -> int:
    """Serve until SIGINT or SIGTERM, and return the exit status."""
    with _listening(settings) as listener, _only_one(settings):
        if workers == 1:
            return _run_worker(settings, listener, ends_sessions=not settings.keeps_sessions)
        with _counting_together(settings, listener) as directory:
            status = _supervise(settings, listener, workers, directory)
        if not settings.keeps_sessions:  # what the last worker can't know that it is to do
            asyncio.run(_end_all(settings))
        return status


def _run_worker(settings: Settings, listener: socket.socket, *, ends_sessions: bool) -> int:
    """Serve in this process and return the exit status."""
    # Each session takes a few descriptors, and its way out up to 64 more; the usual 1,024 are for programs that poll.
    _soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    api = create_app(settings, ends_sessions=ends_sessions)
    config = uvicorn.Config(
        api,
        log_config=None,
        access_log=False,
        server_header=False,
        # An integer in uvicorn's own types; it is handed to asyncio as it is.
        timeout_graceful_shutdown=settings.stop_seconds,  # type: ignore[arg-type]
        http=BoundedHttp,
        ws="none",
    )
    server = Server(config, api=api, drain_seconds=settings.drain_seconds)

    def on_signal(*_: object) -> None:
        # uvicorn raises the signal that stopped it once more at its end; by then all is closed.
        if not server.started:
            sys.exit(0)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    server.run(sockets=[listener])
    return 0 if server.started and api.state.is_clean else 1


def run_child(settings: Settings, *, descriptor: int, supervisor: int) -> int:
    """Serve as one of several workers, on the socket that the supervisor opened; end when it dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != supervisor:  # it died before the line above
        return 1
    with socket.socket(fileno=descriptor) as listener:
        return _run_worker(settings, listener, ends_sessions=False)


def _supervise(settings: Settings, listener: socket.socket, count: int, counts: Path) -> int:
    """Keep workers running until a signal; then end them, and return 0 if each of them ended well."""
    stopping = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    pause = RESTART_SECONDS[0]
    workers = [_start_worker(listener, place, counts) for place in range(count)]
    started = time.monotonic()
    while not stopping:
        time.sleep(0.1)
        for index, worker in enumerate(workers):
            if (code := worker.poll()) is None or stopping:
                continue
            pause = RESTART_SECONDS[0] if time.monotonic() - started > STEADY_SECONDS else pause
            log.error("A worker ended and is started again", exit_status=code)
            time.sleep(pause)
            pause, started = min(2 * pause, RESTART_SECONDS[1]), time.monotonic()
            workers[index] = _start_worker(listener, index, counts)
    listener.close()  # or connections would go on being taken that nobody serves
    for worker in workers:
        with suppress(ProcessLookupError):
            worker.send_signal(signal.SIGTERM)
    give_up = time.monotonic() + settings.drain_seconds + settings.stop_seconds + CLOSE_SECONDS
    return max(_wait(worker, give_up) for worker in workers)


def _start_worker(listener: socket.socket, place: int, counts: Path) -> subprocess.Popen[bytes]:
    descriptor = listener.fileno()
    inherited = ["--descriptor", str(descriptor), "--supervisor", str(os.getpid())]
    command = [sys.executable, "-m", "tci", "serve", *inherited]
    environment = os.environ | {metrics.DIRECTORY: str(counts), metrics.PLACE: str(place)}
    # Ctrl-C in a terminal reaches the whole foreground group; workers are told by their supervisor.
    return subprocess.Popen(command, pass_fds=[descriptor], start_new_session=True, env=environment)


def _wait(worker: subprocess.Popen[bytes], give_up: float) -> int:
    try:
        status = worker.wait(timeout=max(0, give_up - time.monotonic()))
    except subprocess.TimeoutExpired:
        worker.kill()
        status = worker.wait()
    return 0 if status in WELL_ENDED else 1


async def _end_all(settings: Settings) -> None:
    """End every session, once no process serves any more."""
    async with open_parts(settings) as parts:
        await parts.reaper.end_all()


@contextmanager
def _counting_together(settings: Settings, listener: socket.socket) -> Iterator[Path]:
    """Make an empty directory for the workers' counts.

    Its name is the address, which this service alone has: what a killed one left there is of nobody.
    """
    host, port = listener.getsockname()[:2]
    directory = settings.data_dir / "metrics" / f"{socket.gethostname()}-{host}-{port}"
    shutil.rmtree(directory, ignore_errors=True)
    make_private(directory)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@contextmanager
def _only_one(settings: Settings) -> Iterator[None]:
    """Hold the data directory's lock: two services on one embedded database would end each other's sessions."""
    if not settings.is_embedded:
        yield
        return
    with (settings.data_dir / "serve.lock").open("w") as lock:
        if not try_lock(lock):
            raise SetupError(f"Another 'tci serve' uses {settings.data_dir}. Set TCI_DATA_DIR to another one.")
        yield


@contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    """Take the address before anything else is opened: a service that can't serve must not touch the sessions."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        address = f"{settings.host}:{settings.port}"
        raise SetupError(f"Can't listen on {address}: {error.strerror}. Set TCI_HOST or TCI_PORT.") from error
    with listener:
        yield listener
