"""What one process, and one jail, may take: seen from inside when it is asked for more."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tci.kernel.launcher import privileges
from tests.sandbox.conftest import Bench

MIB = 1024**2

ATTEMPT = """
import ctypes, os

libc = ctypes.CDLL(None, use_errno=True)

def attempt(action):
    ctypes.set_errno(0)
    try:
        return 'worked' if action() >= 0 else os.strerror(ctypes.get_errno())
    except OSError as error:
        return error.strerror
"""

FORKS = """
import signal, time

limit_process(open_files=64, file_bytes=1024, data_bytes=None, processes=PROCESSES)
children = []
try:
    while len(children) < 30:
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
        children.append(child)
except BlockingIOError:
    pass
for child in children:
    os.kill(child, signal.SIGKILL)
print(len(children))
"""


async def test_file_larger_than_the_disk_is_refused(bench: Bench) -> None:
    """A memfd is in no file system with a size."""
    code = "print(attempt(lambda: os.truncate(os.memfd_create('x'), SIZE) or 0))"
    async with bench.sandbox() as sandbox:
        assert sandbox.spec.limits.disk_bytes == MIB
        assert await sandbox.run(ATTEMPT + code.replace("SIZE", str(MIB))) == "worked\n"
        assert await sandbox.run(code.replace("SIZE", str(MIB + 1))) == "File too large\n"


async def test_message_queue_is_refused(bench: Bench) -> None:
    code = "print(attempt(lambda: libc.mq_open(b'/x', os.O_CREAT | os.O_RDWR, 0o600, None)))"
    async with bench.sandbox() as sandbox:
        assert await sandbox.run(ATTEMPT + code) == "Too many open files\n"


async def test_memory_is_locked_in_small_amounts_only(bench: Bench) -> None:
    code = "print(attempt(lambda: libc.mlock(ctypes.create_string_buffer(SIZE), SIZE)))"
    async with bench.sandbox() as sandbox:
        assert await sandbox.run(ATTEMPT + code.replace("SIZE", "1000")) == "worked\n"
        assert await sandbox.run(code.replace("SIZE", str(MIB))) == "Cannot allocate memory\n"


async def test_number_of_files_is_bounded(driver: str, bench: Bench) -> None:
    if driver != "docker":
        pytest.skip("bwrap can't; the memory limit bounds it")
    code = """
import tempfile
for directory in ("/tmp", "/dev/shm", "/home/user"):
    with tempfile.TemporaryDirectory(dir=directory) as parent:  # /tmp holds links to caches as well
        for number in range(1001):
            answer = attempt(lambda: os.mkdir(f"{parent}/{number}") or 0)
            if answer != "worked":
                break
        print(number > 500, answer)
"""
    async with bench.sandbox() as sandbox:
        assert sandbox.spec.limits.inodes == 1000
        assert await sandbox.run(ATTEMPT + code) == "True No space left on device\n" * 3


@pytest.mark.parametrize(("processes", "expected"), [(20, range(10, 20)), (None, [30])])
def test_processes_of_a_jail_without_control_groups_are_bounded(processes: int | None, expected: list[int]) -> None:
    """In a user namespace of an unprivileged user, as the bubblewrap driver has it where it is not root."""
    python, bwrap, setpriv = "/usr/bin/python3", shutil.which("bwrap"), shutil.which("setpriv")
    if not (Path(python).exists() and bwrap and setpriv):
        pytest.skip("needs Debian's python3, bwrap and setpriv")
    # Root is never bounded; other tests' processes may belong to the usual user for nobody.
    become = [setpriv, "--reuid=42042", "--regid=42042", "--clear-groups"] if os.geteuid() == 0 else []
    jail = [bwrap, "--unshare-user", "--unshare-pid", "--ro-bind", "/", "/", "--proc", "/proc"]
    program = Path(privileges.__file__).read_text() + FORKS.replace("PROCESSES", str(processes))
    answer = subprocess.run(
        [*become, *jail, python, "-c", program], capture_output=True, text=True, check=False, cwd="/"
    )
    assert int(answer.stdout or -1) in expected, answer.stderr
