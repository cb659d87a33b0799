"""Runs Squid and starts it again when it ends: the proxy of all services on one data directory.

One of their processes runs it, the one that holds a lock; where it listens stands in a file for all of them.
"""

import asyncio
import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
from collections import deque
from pathlib import Path

import structlog

from tci.egress.gate import Proxy
from tci.egress.squid_config import SquidConfig
from tci.locks import try_lock
from tci.settings import EgressPolicy

log = structlog.get_logger()

RESTART_SECONDS = 0.2, 5.0
"""Pause before a start after an end: the first, and the longest."""

STEADY_SECONDS = 10.0
"""A Squid that ran so long was well; the next pause is the first again."""

STOP_SECONDS = 5.0

LOCK_SECONDS = 0.5
"""How often another process looks whether Squid has lost its owner."""

ADDRESS_FILE = "address.json"

LOCAL = "127.0.0.1"

UNPRIVILEGED_USERS = ("proxy", "squid", "nobody")
"""Whom Squid is made, where root starts it: the first that the machine has."""


def find_squid() -> Path | None:
    """Return the program, or None where it is not installed."""
    found = shutil.which("squid") or shutil.which("squid", path="/usr/sbin:/usr/local/sbin:/sbin")
    return Path(found) if found else None


class Squid:
    """One Squid process and the loop that keeps it running."""

    def __init__(
        self,
        program: Path,
        *,
        directory: Path,
        hosts: tuple[str, ...],
        ports: frozenset[int],
        listen: tuple[str, int] | None = None,
    ) -> None:
        self._program = program
        self._directory = directory
        self._hosts = hosts
        self._web_ports = ports
        self._listen = listen
        """Address and first port, where others are to find it; None: the loopback, and ports that are free."""
        self._said: deque[str] = deque(maxlen=20)

    async def run(self) -> None:
        """Keep Squid running for ever, once no other process does; ends it when cancelled."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self._directory / "lock").open("w") as lock:
            while not try_lock(lock):  # noqa: ASYNC110 (the lock of another process sets no event)
                await asyncio.sleep(LOCK_SECONDS)
            self._kill_stale()
            await self._run()

    async def _run(self) -> None:
        pause = RESTART_SECONDS[0]
        while True:
            started = asyncio.get_running_loop().time()
            try:
                await self._run_once()
            except OSError as error:
                self._said.append(str(error))
            if asyncio.get_running_loop().time() - started > STEADY_SECONDS:
                pause = RESTART_SECONDS[0]
            log.warning("Squid ended and is started again", said=list(self._said)[-3:])
            await asyncio.sleep(pause)
            pause = min(2 * pause, RESTART_SECONDS[1])

    async def _run_once(self) -> None:
        config = self._config()
        path = self._directory / "squid.conf"
        path.write_text(config.text())
        process = await asyncio.create_subprocess_exec(
            *(str(self._program), "-N", "-f", str(path), "-d", "1"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")},
            # Ctrl-C in a terminal reaches the whole foreground group; Squid is ended by us, after the sessions.
            start_new_session=True,
        )
        _publish(self._directory, config)
        try:
            assert process.stderr is not None  # noqa: S101 (it is a pipe)
            async for line in process.stderr:
                self._said.append(line.decode(errors="replace").rstrip())
            await process.wait()
        finally:
            await _end(process)

    def _config(self) -> SquidConfig:
        address, first = self._listen or (LOCAL, 0)
        packages_port, open_port = (first, first + 1) if first else _free_ports(2)
        user = None
        if os.geteuid() == 0:
            known = {entry.pw_name for entry in pwd.getpwall()}
            user = next((name for name in UNPRIVILEGED_USERS if name in known), None)
        return SquidConfig(
            directory=self._directory,
            address=address,
            packages_port=packages_port,
            open_port=open_port,
            hosts=self._hosts,
            ports=self._web_ports,
            user=user,
        )

    def _kill_stale(self) -> None:
        """End the Squid that a killed service left behind."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self._directory / "squid.pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if str(self._directory / "squid.conf").encode() in command.split(b"\0"):
                os.kill(pid, signal.SIGKILL)
        (self._directory / "squid.pid").unlink(missing_ok=True)


def published_proxy(directory: Path) -> Proxy | None:
    """Return where the Squid of a directory listens, or None where none has been started."""
    try:
        host, packages_port, open_port = json.loads((directory / ADDRESS_FILE).read_text())
    except (OSError, ValueError):
        return None
    return Proxy(host, {EgressPolicy.PACKAGES: packages_port, EgressPolicy.OPEN: open_port})


def _publish(directory: Path, config: SquidConfig) -> None:
    part = directory / f"{ADDRESS_FILE}.part"
    part.write_text(json.dumps([config.address, config.packages_port, config.open_port]))
    part.rename(directory / ADDRESS_FILE)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now. If one is taken in the next moment, Squid ends and gets others."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((LOCAL, 0))
        return [probe.getsockname()[1] for probe in probes]
