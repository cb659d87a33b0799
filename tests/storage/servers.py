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
from pathlib import Path

from tests.conftest import missing

START_SECONDS = 20


@contextmanager
def short_directory() -> Iterator[Path]:
    """Give a directory whose name leaves room for a socket's."""
    directory = Path(tempfile.mkdtemp(prefix="tci-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def postgresql() -> Iterator[Callable[[], str]]:
    """Run a PostgreSQL server; calling the value makes a database and returns its URL."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        missing("no PostgreSQL server is installed")
    bin_directory = programs[-1]
    with short_directory() as directory:
        as_user = _as_postgres(directory)
        data = directory / "data"
        initdb = [bin_directory / "initdb", "--no-sync", "--auth=trust", "--username=tci", "--pgdata", data]
        _run([*as_user, *map(str, initdb)])
        options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={directory}", "-c", "fsync=off"]
        server = subprocess.Popen(
            [*as_user, str(bin_directory / "postgres"), "-D", str(data), *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        psql = [
            "psql",
            "--host",
            str(directory),
            "--username",
            "tci",
            "--dbname",
            "postgres",
            "--quiet",
            "--command",
        ]
        count = 0

        def new_database() -> str:
            nonlocal count
            count += 1
            _run([*psql, f"CREATE DATABASE tci{count}"])
            return f"postgresql://tci@/tci{count}?host={directory}"

        try:
            _wait(lambda: subprocess.run([*psql, "SELECT 1"], capture_output=True, check=False).returncode == 0)
            yield new_database
        finally:
            _stop(server, signal.SIGINT)


@contextmanager
def redis() -> Iterator[str]:
    """Run a redis-server and give its URL."""
    if shutil.which("redis-server") is None:
        missing("no redis-server is installed")
    with short_directory() as directory:
        server = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", str(directory / "r.sock"), "--save", ""],
            cwd=directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            _wait((directory / "r.sock").exists)
            yield f"unix://{directory}/r.sock"
        finally:
            _stop(server, signal.SIGTERM)


def _as_postgres(directory: Path) -> list[str]:
    """Give the directory to the user that the server must run as: it refuses root."""
    if os.geteuid() != 0:
        return []
    user = pwd.getpwnam("postgres")
    os.chown(directory, user.pw_uid, user.pw_gid)
    directory.chmod(0o755)
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def _wait(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < give_up, "the server did not start"
        time.sleep(0.05)


def _stop(server: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        server.send_signal(number)
    server.wait(timeout=20)
