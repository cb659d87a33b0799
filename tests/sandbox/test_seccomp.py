"""What the filter of system calls refuses and allows, in real sandboxes on each driver."""

import errno
import json
import platform
import signal
from typing import Any

import pytest

from tests.sandbox.calls import AF_NETLINK, REFUSALS, REFUSED, program
from tests.sandbox.conftest import Bench, Sandbox

needs_x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are x86_64's")

ALLOWED = """
import asyncio, ctypes, mmap, multiprocessing, os, resource, select, signal, socket, subprocess, sys, tempfile
import threading, time
from multiprocessing import shared_memory

libc = ctypes.CDLL(None, use_errno=True)
directory = tempfile.mkdtemp()

def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def threads():
    found = []
    thread = threading.Thread(target=found.append, args=(1,))
    thread.start()
    thread.join()
    assert found == [1]

def subprocesses():
    assert subprocess.check_output("echo $((1 + 1)) | cat", shell=True) == b"2\\n"
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as child:
        child.send_signal(signal.SIGTERM)

def forks():
    pid = os.fork()
    if not pid:
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3

def processes():
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:  # locks are sem_open's, in /dev/shm
        assert pool.map(abs, [-1, -2]) == [1, 2]
    block = shared_memory.SharedMemory(create=True, size=1000)
    block.close()
    block.unlink()

def loops():
    async def main():
        process = await asyncio.create_subprocess_exec("true")  # waited for by a pidfd
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await reader.read() == b""
        writer.close()
        server.close()
        return await process.wait()
    thread = threading.Thread(target=lambda: results.append(asyncio.run(main())))
    results = []
    thread.start()
    thread.join()
    assert results == [0]

def sockets():
    left, right = socket.socketpair()
    left.send(b"1")
    assert right.recv(1) == b"1"
    for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        socket.socket(family).close()
    socket.getaddrinfo("127.0.0.1", 80)

def events():
    os.close(check(libc.inotify_init1(0)))
    with select.epoll() as poll:
        poll.register(os.eventfd(1))
        assert poll.poll(1)
    os.close(libc.timerfd_create(time.CLOCK_MONOTONIC, 0))
    os.pidfd_open(os.getpid())

def files():
    path = os.path.join(directory, "file")
    with open(path, "w+b") as file:
        file.truncate(4096)
        mmap.mmap(file.fileno(), 4096).close()
        os.posix_fallocate(file.fileno(), 0, 8192)
        os.sendfile(os.memfd_create("x"), file.fileno(), 0, 100)
        with open(path + ".copy", "wb") as copy:
            assert os.copy_file_range(file.fileno(), copy.fileno(), 100) == 100
    os.mkfifo(path + ".pipe")
    os.listxattr(path)
    os.chmod(path, 0o600)
    os.utime(path)

def scheduling():
    os.sched_setaffinity(0, os.sched_getaffinity(0))
    os.nice(1)
    os.sched_yield()
    resource.getrusage(resource.RUSAGE_SELF)

def memory():
    check(libc.mlock(ctypes.create_string_buffer(100), 100))
    check(libc.syscall(324, 0, 0, 0))  # membarrier: which are there?
    assert len(os.getrandom(8)) == 8
    check(libc.personality(ctypes.c_ulong(0xffffffff)))

def limits_of_its_own():
    assert ctypes.c_int(libc.prctl(39, 0, 0, 0, 0)).value == 1  # PR_GET_NO_NEW_PRIVS
    assert libc.syscall(449, 0, 0, 0, 0, 0) < 0 and ctypes.get_errno() == 22  # futex_waitv: no waiters
    assert libc.syscall(444, 0, 0, 1) > 0 or ctypes.get_errno() in (38, 95)  # landlock: the version, if built in

tried = (threads, subprocesses, forks, processes, loops, sockets, events, files, scheduling, memory, limits_of_its_own)
for attempt in tried:
    try:
        attempt()
    except Exception as error:
        print(attempt.__name__, repr(error))
print("done")
"""

OTHER_ARCHITECTURE = """
import ctypes, mmap, os

code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid of i386); int 0x80; ret
getpid = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
read, write = os.pipe()
if not os.fork():
    os.write(write, str(getpid()).encode())
    os._exit(0)
os.close(write)
status = os.wait()[1]
print([os.read(read, 20).decode(), os.WTERMSIG(status)])
"""


async def apart(sandbox: Sandbox, program_text: str) -> str:
    """Run a program in the sandbox as a process of its own: without threads, and the kernel survives it."""
    return await sandbox.run(
        "import subprocess, sys\n"
        f"found = subprocess.run([sys.executable, '-c', {program_text!r}], capture_output=True, text=True)\n"
        "print(found.stdout + found.stderr, end='')"
    )


@needs_x86_64
async def test_harmful_call_is_refused_and_the_process_lives(bench: Bench) -> None:
    async with bench.sandbox() as sandbox:
        found: dict[str, Any] = json.loads(await apart(sandbox, program(REFUSED)))
    assert found.keys() == REFUSED.keys()
    assert {name: answer for name, answer in found.items() if answer not in REFUSALS} == {}


@needs_x86_64
async def test_call_newer_than_the_filter_is_unknown_not_forbidden(bench: Bench) -> None:
    newer = {"clone3": (435, 0, 0), "not there yet": (999,)}
    async with bench.sandbox() as sandbox:
        found = json.loads(await apart(sandbox, program(newer)))
    assert found == dict.fromkeys(newer, errno.ENOSYS)


@needs_x86_64
async def test_netlink_is_refused_in_a_way_that_zmq_survives(bench: Bench) -> None:
    bind = "import zmq; print(zmq.Context().socket(zmq.PULL).bind_to_random_port('tcp://127.0.0.1') > 0)"
    async with bench.sandbox() as sandbox:
        found = json.loads(await apart(sandbox, program({"netlink": (41, AF_NETLINK, 3, 0)})))
        assert found == {"netlink": errno.EOPNOTSUPP}
        assert await apart(sandbox, bind) == "True\n"


@needs_x86_64
async def test_call_in_the_manner_of_i386_is_refused(bench: Bench) -> None:
    """By bubblewrap's filter with ENOSYS; an engine's ends the thread."""
    async with bench.sandbox() as sandbox:
        answer, killed_by = json.loads((await apart(sandbox, OTHER_ARCHITECTURE)).replace("'", '"'))
        assert (answer, killed_by) in ((str(-errno.ENOSYS), 0), ("", signal.SIGSYS))
        assert await sandbox.run("print(1)") == "1\n"


@needs_x86_64
async def test_what_programs_need_is_allowed(bench: Bench) -> None:
    async with bench.sandbox() as sandbox:
        assert await apart(sandbox, ALLOWED) == "done\n"


async def test_every_process_has_the_filter(bench: Bench) -> None:
    code = """
import glob, subprocess
found = set()
for path in glob.glob("/proc/[0-9]*/task/*/status"):
    found.update(line.split(":")[0] + line.split()[1] for line in open(path) if line.startswith("Seccomp:"))
found.add(subprocess.check_output("grep Seccomp: /proc/self/status | tr -d ':\\t'", shell=True, text=True).strip())
print(found)
"""
    async with bench.sandbox() as sandbox:
        assert await sandbox.run(code) == "{'Seccomp2'}\n"
