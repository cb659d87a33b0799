"""Several services on one engine with servers of their own, each part of which can be killed and started again."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import httpx
from redis import Redis as RedisClient
from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import create_async_engine

from tci.sandbox.cgroup import can_make_cgroups, cgroup_named
from tci.settings import Settings
from tci.storage.tables import deployment as deployment_table
from tci.storage.tables import sessions as sessions_table
from tests.conftest import CACHE, KEY, Service, clean_environment, run_tci
from tests.sandbox import processes
from tests.storage import servers

READY_SECONDS = 60.0

END_SECONDS = 30.0
"""How long a service may take from SIGTERM to its end: the bound that it gives its executions, and its own farewell."""


class Kind(StrEnum):
    """What keeps the record and the clock."""

    SERVERS = "servers"
    EMBEDDED = "embedded"


@dataclass
class Instance(Service):
    """One `tci serve`, killed and started again on the same address."""

    arguments: tuple[str, ...] = ()

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.launch()
        self.wait_until_ready()

    def launch(self) -> None:
        """Start it."""
        self.client.close()
        self.__post_init__()
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "tci", "serve", *self.arguments]
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, cwd=self.data_dir)

    def wait_until_ready(self) -> None:
        """Return once it answers."""
        give_up = time.monotonic() + READY_SECONDS
        while not self.is_ready():
            assert self.process.poll() is None, f"the service ended: {self.said()}"
            assert time.monotonic() < give_up, f"the service did not answer in time: {self.said()}"
            time.sleep(0.05)

    def is_ready(self) -> bool:
        """Whether it answers."""
        try:
            return httpx.get(f"{self.url}/health", timeout=5).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def said(self) -> str:
        """Return the end of its log."""
        return self.log.read_text()[-5000:]

    def workers(self) -> set[int]:
        """Return its worker processes; none where it serves by itself."""
        found = set()
        for pid in processes.children(self.process.pid):
            with contextlib.suppress(OSError):
                same = Path(f"/proc/{pid}/exe").readlink() == Path(f"/proc/{self.process.pid}/exe").readlink()
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                if same and b"resource_tracker" not in command and _namespace(pid) == _namespace(os.getpid()):
                    found.add(pid)
        return found

    def kill(self) -> None:
        """End it as a crash does; its workers have to notice."""
        workers = self.workers()
        self.process.kill()
        self.process.wait()
        is_over = processes.eventually(lambda: not any(map(_runs, workers)), END_SECONDS)
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert is_over, "a worker outlived its service"

    def terminate(self) -> None:
        """Stop it as an operator does."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(timeout=END_SECONDS)
        assert status == 0, f"exit status {status}: {self.said()}"

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to it and its workers."""
        for pid in (self.process.pid, *self.workers()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


@dataclass
class Stack:
    """What makes one deployment: services, servers, and what they leave on the machine."""

    kind: Kind
    driver: str
    data_dir: Path
    instances: list[Instance] = field(default_factory=list)
    postgresql: servers.Postgresql | None = None
    redis: servers.Redis | None = None
    docker_host: str | None = None
    """The engine, where it is not the usual one."""
    settings: Settings = field(init=False)
    deployment: str = ""

    def rows(self, query: Select[Any]) -> list[dict[str, Any]]:
        """Read the database."""

        async def read() -> list[dict[str, Any]]:
            engine = create_async_engine(self.settings.sql_url)
            try:
                async with engine.connect() as db:
                    return [dict(row) for row in (await db.execute(query)).mappings()]
            finally:
                await engine.dispose()

        return asyncio.run(read())

    @contextmanager
    def redis_client(self) -> Iterator[RedisClient]:
        """Speak with Redis, whichever it is."""
        path = self.redis.socket if self.redis else self.data_dir / "redis.sock"
        with RedisClient(unix_socket_path=str(path), decode_responses=True) as client:
            yield client

    def sandboxes(self) -> dict[str, int]:
        """Return what runs of this deployment, each with its process 1; 0 where it has ended and is not removed."""
        return self._containers() if self.driver == "docker" else _jails(self.data_dir)

    def kernel(self, sandbox_id: str) -> int:
        """Return the process of a sandbox's kernel: the child of the sandbox's init."""
        init = self.sandboxes()[sandbox_id]
        return min(processes.children(init))

    def traces(self) -> dict[str, set[str]]:
        """Return, for each place where something of a sandbox could be left, the sandboxes that are found there."""
        directories = {name: self.data_dir / name for name in ("run", "keepers")}
        found = {name: {path.name for path in directory.iterdir()} for name, directory in directories.items()}
        found["sandboxes"] = set(self.sandboxes())
        if self.driver == "bubblewrap":
            jailed = {sandbox for pid in processes.jailed(self.data_dir) for sandbox in _mounted(pid, self.data_dir)}
            found["processes"] = jailed
            if can_make_cgroups():
                known = {row["sandbox_id"] for row in self.rows(select(sessions_table.c.sandbox_id))}
                found["control groups"] = {sandbox for sandbox in known if _has_group(sandbox)}
        return found

    def clean(self) -> None:
        """End what is left of the services and their sandboxes."""
        for instance in self.instances:
            instance.client.close()
            if instance.process.poll() is None:
                instance.signal_all(signal.SIGCONT)
                instance.signal_all(signal.SIGKILL)
                instance.process.wait()
        if self.driver == "docker":
            for sandbox_id in self.sandboxes():
                self.docker("rm", "--force", f"tci-{sandbox_id}")
        for pid in processes.in_directory(self.data_dir) | processes.jailed(self.data_dir) | set(self._jailers()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def docker(self, *arguments: str) -> str:
        """Run a command of the engine's client and return what it printed."""
        host = ["--host", self.docker_host] if self.docker_host else []
        # One that names what is gone says so; what else it was asked is told all the same.
        return subprocess.run(["docker", *host, *arguments], capture_output=True, text=True, check=False).stdout

    def _containers(self) -> dict[str, int]:
        ids = self.docker("ps", "--all", "--quiet", "--filter", f"label=tci.deployment={self.deployment}").split()
        form = '{{index .Config.Labels "tci.sandbox"}} {{.State.Pid}}'
        lines = self.docker("inspect", "--format", form, *ids).splitlines() if ids else []
        return {sandbox: int(pid) for sandbox, pid in (line.split() for line in lines if line)}

    def _jailers(self) -> Iterator[int]:
        if self.driver == "bubblewrap":
            yield from (pid for pid in self.sandboxes().values() if pid)
        yield from processes.with_command(str(self.data_dir))


@contextmanager
def stack(
    driver: str,
    kind: Kind = Kind.SERVERS,
    *,
    workers: tuple[int, ...] = (1, 1),
    is_durable: bool = False,
    **settings: Any,
) -> Iterator[Stack]:
    """Run as many services as `workers` has numbers, each with so many worker processes."""
    with contextlib.ExitStack() as cleanup:
        directory = cleanup.enter_context(servers.short_directory())
        built = Stack(kind, driver, directory / "data", docker_host=settings.get("docker_host"))
        if kind is Kind.SERVERS:
            built.postgresql = cleanup.enter_context(servers.postgresql_server(is_durable=is_durable))
            built.redis = cleanup.enter_context(servers.redis_server())
            settings = {"database_url": built.postgresql.new_database(), "redis_url": built.redis.url, **settings}
        cleanup.callback(built.clean)
        _prepare(built, settings)
        for number, count in enumerate(workers):
            _add(built, settings, number, count)
        yield built


def _prepare(built: Stack, settings: dict[str, Any]) -> None:
    built.data_dir.mkdir(mode=0o700)
    if (CACHE / "environments").exists():
        (built.data_dir / "environments").symlink_to(CACHE / "environments")
    (built.data_dir / "run").mkdir(mode=0o700)
    run_tci("migrate", environment=clean_environment(built.data_dir, **settings))
    kept = {name: value for name, value in settings.items() if name in {"database_url", "redis_url"}}
    built.settings = Settings(data_dir=built.data_dir, _env_file=None, **kept)
    [row] = built.rows(select(deployment_table.c.id))
    built.deployment = row["id"]


def _add(built: Stack, settings: dict[str, Any], number: int, workers: int) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {"sandbox": built.driver, "port": port, "bootstrap_api_key": KEY, "pool_size": 0, **settings}
    instance = Instance(
        url=f"http://127.0.0.1:{port}",
        key=KEY,
        driver=built.driver,
        data_dir=built.data_dir,
        environment=clean_environment(built.data_dir, **options),
        process=_nothing(),
        log=built.data_dir / f"service{number}.log",
        arguments=() if workers == 1 else ("--workers", str(workers)),
    )
    built.instances.append(instance)
    instance.start()


def _nothing() -> subprocess.Popen[bytes]:
    """Return a process that has ended: what stands for a service that was not started."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process


def _jails(data_dir: Path) -> dict[str, int]:
    found = {}
    for file in (data_dir / "run").glob("*/sandbox.json"):
        with contextlib.suppress(OSError, ValueError):
            pid = json.loads(file.read_text())["pid"]
            found[file.parent.name] = pid if _runs(pid) else 0
    return found


def _mounted(pid: int, data_dir: Path) -> set[str]:
    """Return the sandboxes whose directories a process has mounted."""
    mark = f"{data_dir}/run/"
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
        return {line.split(mark)[1].split("/")[0] for line in lines if mark in line}
    return set()


def _has_group(sandbox_id: str) -> bool:
    return any(directory.is_dir() for directory in cgroup_named(sandbox_id).directories.values())


def _runs(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def _namespace(pid: int) -> Path:
    return Path(f"/proc/{pid}/ns/pid").readlink()
