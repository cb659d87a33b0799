"""The directory that the engine mounts: once the door has it, nobody but the door can put another in its place."""

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tci.door import directory
from tci.door.directory import open_run_directory, remove, take_over
from tci.door.request import Refused
from tci.sandbox.socket_directory import HOSTS, make_socket_directory

SERVICE_UID = 42001

ROUNDS = 100


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run directory as the door makes it, which a service of another user and the same group may write."""
    if os.geteuid() != 0:
        pytest.skip("only root can be two users")
    for above in (tmp_path, *tmp_path.parents):
        if above == Path(tempfile.gettempdir()):
            break
        above.chmod(0o755)  # the service's user has to come to it
    found = tmp_path / "run"
    open_run_directory(found)
    return found


@contextmanager
def a_service_that_exchanges(place: Path) -> Iterator[None]:
    """Put a link to the host's root in place of a directory, again and again, as the service's user would."""
    child = os.fork()
    if child == 0:
        os.setuid(SERVICE_UID)
        aside = place.with_name("aside")
        while True:
            with suppress(OSError):
                place.rename(aside)
                place.symlink_to("/")
            with suppress(OSError):
                place.unlink()
            with suppress(OSError):
                aside.rename(place)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_directory_that_is_exchanged_meanwhile_is_taken_in_its_place_or_refused(run_dir: Path) -> None:
    """Whatever was refused, what was taken is a directory, and stays one."""
    refused = 0
    for number in range(ROUNDS):
        place = run_dir / f"sandbox{number}"
        make_socket_directory(place)
        os.chown(place, SERVICE_UID, -1)
        with a_service_that_exchanges(place):
            time.sleep(0.002 * (number % 5))
            try:
                take_over(place)
            except Refused:
                refused += 1
                continue
            for _ in range(200):  # the engine looks later
                assert place.is_dir()
                assert not place.is_symlink()
    assert refused, "nothing was exchanged"


def test_directory_that_was_taken_can_be_exchanged_by_nobody(run_dir: Path) -> None:
    assert exchange(run_dir / "sandbox") == "PermissionError"
    assert not (run_dir / "sandbox").is_symlink()


def test_directory_is_exchanged_where_the_run_directory_is_not_sticky(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the above."""
    monkeypatch.setattr(directory, "RUN_MODE", 0o770)
    open_run_directory(run_dir)
    assert exchange(run_dir / "sandbox") == ""
    assert (run_dir / "sandbox").is_symlink()


def exchange(place: Path) -> str:
    """Take a directory over, then put a link in its place as the service's user; return the name of the error."""
    make_socket_directory(place)
    os.chown(place, SERVICE_UID, -1)
    take_over(place)

    def act() -> None:
        place.rename(place.with_name("aside"))
        place.symlink_to("/")

    return as_service(act)


def test_hosts_file_can_be_exchanged_by_nobody_but_the_door(run_dir: Path) -> None:
    place = run_dir / "sandbox"
    make_socket_directory(place)
    os.chown(place, SERVICE_UID, -1)
    take_over(place)
    assert as_service((place / HOSTS).unlink) == "PermissionError"
    assert as_service(lambda: (place / HOSTS).rename(place / "other")) == "PermissionError"
    assert as_service(lambda: (place / HOSTS).write_text("x")) == "PermissionError"
    assert as_service(lambda: (place / "proxy").write_text("the service's own things are its own")) == ""
    assert as_service((place / "proxy").unlink) == ""


def test_removal_follows_no_link(run_dir: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    (kept / "inner").mkdir(parents=True)
    place = run_dir / "sandbox"
    place.mkdir()
    (place / "link").symlink_to(kept)
    remove(place)
    assert not place.exists()
    (run_dir / "other").symlink_to(kept)
    remove(run_dir / "other")
    assert (kept / "inner").is_dir()


def as_service(act: Callable[[], object]) -> str:
    """Do something as the service's user, in the door's group; return the name of the error."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setuid(SERVICE_UID)
        try:
            act()
            name = ""
        except OSError as error:
            name = type(error).__name__
        os.write(writing, name.encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        return answer.read()
