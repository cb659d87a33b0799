"""Real PostgreSQL and Redis servers, each in a directory of its own and reached by UNIX socket."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import missing
from tests.sandbox import processes

START_SECONDS = 20


@dataclass
class Postgresql:
    """A PostgreSQL server that can be killed and started again on the same data."""

    directory: Path
    programs: Path
    is_durable: bool
    """Whether a crash keeps what was committed; costs an fsync a commit."""
    _as_user: list[str] = field(default_factory=list)
    _process: subprocess.Popen[bytes] | None = None
    _count: int = 0

    @property
    def data(self) -> Path:
        """Where it keeps its files."""
        return self.directory / "data"

    def create(self) -> None:
        """Make its files."""
        self._as_user = _as_postgres(self.directory)
        self._run("initdb", "--no-sync", "--auth=trust", "--username=tci", "--pgdata", str(self.data))
        sockets = f"listen_addresses=''\nunix_socket_directories='{self.directory}'\n"
        durable = "" if self.is_durable else "fsync=off\n"
        with (self.data / "postgresql.conf").open("a") as config:
            config.write(sockets + durable)

    def start(self) -> None:
        """Start it and wait until it answers, after its recovery if it was killed."""
        give_up = time.monotonic() + START_SECONDS
        while not self.answers():
            if self._process is None or self._process.poll() is not None:
                # It refuses to start while an orphan of a killed one still holds the shared memory.
                self._process = _spawn([*self._as_user, str(self.programs / "postgres"), "-D", str(self.data)])
            assert time.monotonic() < give_up, "PostgreSQL did not start"
            time.sleep(0.05)

    def kill(self) -> None:
        """End it and all of its processes as a power cut does."""
        pid = int((self.data / "postmaster.pid").read_text().split()[0])
        for each in (pid, *processes.children(pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        if self._process is not None:
            self._process.wait(timeout=START_SECONDS)

    def restart_at_once(self) -> None:
        """Restart it without a word to its clients: `pg_ctl restart -m immediate`."""
        log = str(self.directory / "log")
        self._run("pg_ctl", "restart", "-m", "immediate", "-w", "-D", str(self.data), "-l", log)
        self.start()

    def stop(self) -> None:
        """Stop it; a server that pg_ctl started is not our child, and one that was killed has left its file."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().split()[0])
            os.kill(pid, signal.SIGINT)
        except (FileNotFoundError, ProcessLookupError):
            return
        if self._process is not None:
            self._process.wait(timeout=START_SECONDS)
        assert processes.eventually(lambda: not (self.data / "postmaster.pid").exists(), START_SECONDS)

    def answers(self) -> bool:
        """Whether it takes a query."""
        return subprocess.run([*self._psql, "SELECT 1"], capture_output=True, check=False).returncode == 0

    def new_database(self) -> str:
        """Make a database and return its URL."""
        self._count += 1
        _run([*self._psql, f"CREATE DATABASE tci{self._count}"])
        return f"postgresql://tci@/tci{self._count}?host={self.directory}"

    @property
    def _psql(self) -> list[str]:
        where = ["--host", str(self.directory), "--username", "tci", "--dbname", "postgres"]
        return ["psql", *where, "--quiet", "--command"]

    def _run(self, program: str, *arguments: str) -> None:
        _run([*self._as_user, str(self.programs / program), *arguments])


@dataclass
class Redis:
    """A redis-server that keeps nothing: killed and started again, it is empty."""

    directory: Path
    _process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.directory / "r.sock"

    @property
    def url(self) -> str:
        """How it is reached."""
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.socket.unlink(missing_ok=True)
        command = ["redis-server", "--port", "0", "--unixsocket", str(self.socket), "--save", ""]
        self._process = _spawn(command, cwd=self.directory)
        _wait(lambda: _succeeds([*self._cli, "PING"]))

    def kill(self) -> None:
        """End it as a crash does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(timeout=START_SECONDS)

    def flush(self) -> None:
        """Take everything out of it."""
        _run([*self._cli, "FLUSHALL"])

    def stop(self) -> None:
        """Stop it; does nothing where it does not run."""
        assert self._process is not None
        if self._process.poll() is None:
            _stop(self._process, signal.SIGTERM)

    @property
    def _cli(self) -> list[str]:
        return ["redis-cli", "-s", str(self.socket)]


@contextmanager
def short_directory() -> Iterator[Path]:
    """Give a directory whose name leaves room for a socket's."""
    directory = Path(tempfile.mkdtemp(prefix="tci-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def postgresql_server(*, is_durable: bool = False) -> Iterator[Postgresql]:
    """Run a PostgreSQL server of one's own."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        missing("no PostgreSQL server is installed")
    with short_directory() as directory:
        server = Postgresql(directory, programs[-1], is_durable)
        server.create()
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def postgresql() -> Iterator[Callable[[], str]]:
    """Run a PostgreSQL server; calling the value makes a database and returns its URL."""
    with postgresql_server() as server:
        yield server.new_database


@contextmanager
def redis_server() -> Iterator[Redis]:
    """Run a redis-server of one's own."""
    if shutil.which("redis-server") is None:
        missing("no redis-server is installed")
    with short_directory() as directory:
        server = Redis(directory)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def redis() -> Iterator[str]:
    """Run a redis-server and give its URL."""
    with redis_server() as server:
        yield server.url


def _as_postgres(directory: Path) -> list[str]:
    """Give the directory to the user that the server must run as: it refuses root."""
    if os.geteuid() != 0:
        return []
    user = pwd.getpwnam("postgres")
    os.chown(directory, user.pw_uid, user.pw_gid)
    directory.chmod(0o755)
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


def _spawn(command: list[str], cwd: Path | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _run(command: list[str]) -> None:
    # Not by pipes: a server that pg_ctl starts would keep them open for ever.
    with tempfile.TemporaryFile("w+") as said:
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, check=False, timeout=120, cwd="/"
        )
        said.seek(0)
        assert result.returncode == 0, said.read()


def _wait(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < give_up, "the server did not start"
        time.sleep(0.05)


def _stop(server: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        server.send_signal(number)
    server.wait(timeout=20)
