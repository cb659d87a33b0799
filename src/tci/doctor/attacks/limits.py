"""Attacks on the limits: each takes a little more than the sandbox may have, and gives it back."""

import contextlib
import errno
import mmap
import os
import resource
import signal
import threading
from collections.abc import Iterator

from tci.doctor.attacks.toolkit import CHILD_SECONDS, Attempts, Target, in_child, set_limit

MORE = 64
"""By how many processes, threads or files a limit is exceeded."""

MEBIBYTE = 1 << 20


def memory(target: Target, attempts: Attempts) -> None:
    """Use more memory than the sandbox may."""
    attempts.attempt(
        f"{target.memory_bytes + 64 * MEBIBYTE} bytes of memory",
        in_child,
        _use_memory,
        target.memory_bytes + 64 * MEBIBYTE,
    )


def shared_pages(target: Target, attempts: Attempts) -> None:
    """Use more memory than the sandbox may, as pages that processes share: no limit of a process counts them."""
    attempts.attempt(
        f"{target.memory_bytes + 64 * MEBIBYTE} bytes of shared pages",
        in_child,
        _share_pages,
        target.memory_bytes + 64 * MEBIBYTE,
    )


def fork_bomb(target: Target, attempts: Attempts) -> None:
    """Start more processes than the sandbox may."""
    wanted = target.pids + MORE
    attempts.attempt(f"{wanted} processes", in_child, _fork, wanted)


def thread_bomb(target: Target, attempts: Attempts) -> None:
    """Start more threads than the sandbox may."""
    wanted = target.pids + MORE
    attempts.attempt(f"{wanted} threads", in_child, _start_threads, wanted)


def open_files(target: Target, attempts: Attempts) -> None:
    """Open more files than a process may."""
    wanted = target.open_files + MORE
    attempts.attempt(f"{wanted} open files", in_child, _open, wanted)


def large_file(target: Target, attempts: Attempts) -> None:
    """Make a sparse file larger than any file may be."""
    for directory in _directories():
        attempts.attempt(
            f"{target.file_bytes} bytes in {directory}",
            in_child,
            _sparse,
            directory,
            target.file_bytes,
        )


def disk(target: Target, attempts: Attempts) -> None:
    """Fill home, /tmp and /dev/shm beyond their size."""
    for directory in _directories():
        size = (target.shm_bytes if directory == "/dev/shm" else target.disk_bytes) + MEBIBYTE
        attempts.attempt(f"{size} bytes in {directory}", in_child, _fill, directory, size)


def inodes(target: Target, attempts: Attempts) -> None:
    """Make more files than a file system of the sandbox may hold, in each place that it may write."""
    for directory in _directories():
        room = os.statvfs(directory).f_ffree
        if room > target.inodes or os.statvfs(directory).f_files == 0:
            attempts.reach(f"{room} files in {directory}")
        else:
            attempts.attempt(
                f"{room + MORE} files in {directory}",
                _make,
                directory,
                room + MORE,
            )


def raised_limits(target: Target, attempts: Attempts) -> None:
    """Raise a limit of the process beyond what it was given."""
    del target
    for name in ("NOFILE", "CORE", "MEMLOCK", "RTPRIO", "NICE", "MSGQUEUE"):
        number = getattr(resource, f"RLIMIT_{name}")
        _, hard = resource.getrlimit(number)
        if hard != resource.RLIM_INFINITY:
            attempts.attempt(
                f"RLIMIT_{name} above {hard}",
                in_child,
                set_limit,
                number,
                hard + 1,
            )
        elif name in ("NOFILE", "CORE"):
            attempts.reach(f"RLIMIT_{name} is unlimited")


def priority(target: Target, attempts: Attempts) -> None:
    """Run before everybody else: a better nice value, a real-time scheduler, no death for want of memory."""
    del target
    attempts.attempt("nice -5", in_child, os.nice, -5)
    attempts.attempt("SCHED_FIFO", in_child, os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1))
    attempts.attempt("oom_score_adj -1000", in_child, _never_killed)


def _directories() -> tuple[str, ...]:
    return (os.getcwd(), "/tmp", "/dev/shm")


def _never_killed() -> None:
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("-1000")


def _use_memory(size: int) -> None:
    """Touch every page; the kernel ends this child rather than the session."""
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    blocks = []
    for _ in range(size // (16 * MEBIBYTE)):
        block = mmap.mmap(-1, 16 * MEBIBYTE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        block[:: mmap.PAGESIZE] = b"x" * (16 * MEBIBYTE // mmap.PAGESIZE)
        blocks.append(block)


def _share_pages(size: int) -> None:
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    pages = mmap.mmap(-1, size)
    for start in range(0, size, mmap.PAGESIZE):
        pages[start] = 1


def _fork(number: int) -> None:
    children = []
    try:
        for _ in range(number):
            pid = os.fork()
            if pid == 0:
                signal.alarm(int(CHILD_SECONDS))  # whatever becomes of its parent
                signal.pause()
                os._exit(0)
            children.append(pid)
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        for pid in children:
            os.waitpid(pid, 0)


def _start_threads(number: int) -> None:
    threading.stack_size(64 * 1024)
    end = threading.Event()
    try:
        for _ in range(number):
            try:
                threading.Thread(target=end.wait, daemon=True).start()
            except RuntimeError as error:
                raise OSError(errno.EAGAIN, str(error)) from error
    finally:
        end.set()


def _open(number: int) -> None:
    """Open them in this child, whose end closes them."""
    for _ in range(number):
        os.open("/dev/null", os.O_RDONLY)


def _sparse(directory: str, size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with _file(directory) as descriptor:
        os.ftruncate(descriptor, size)


def _fill(directory: str, size: int) -> None:
    """Reserve it in several files, since a single one may have a limit of its own."""
    with contextlib.ExitStack() as stack:
        for index in range(4):
            os.posix_fallocate(stack.enter_context(_file(directory, index)), 0, size // 4 + 1)


def _make(directory: str, number: int) -> None:
    flood = f"{directory}/.flood"
    os.mkdir(flood)
    try:
        for index in range(number):
            os.close(os.open(f"{flood}/{index}", os.O_CREAT | os.O_WRONLY))
    finally:
        for name in os.listdir(flood):
            os.unlink(f"{flood}/{name}")
        os.rmdir(flood)


@contextlib.contextmanager
def _file(directory: str, index: int = 0) -> Iterator[int]:
    """Open a new file that has no name any more."""
    path = f"{directory}/.flood-{os.getpid()}-{index}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        os.unlink(path)
        yield descriptor
    finally:
        os.close(descriptor)


ATTACKS = (
    memory,
    shared_pages,
    fork_bomb,
    thread_bomb,
    open_files,
    large_file,
    disk,
    inodes,
    raised_limits,
    priority,
)
