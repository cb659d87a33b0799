"""What every attack is made of. Its source goes into the sandbox ahead of an attack's own: the standard library alone.

An attack is a function of a `Target` and of `Attempts`. It tries several things; each is either stopped or reached.
Nothing is ever done with what was reached: a file is opened, not written; a call gets arguments that change nothing.
"""

import contextlib
import ctypes
import errno
import json
import os
import resource
import select
import signal
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)

BROKEN = -1
"""What a child tells instead of an error's number when the attack itself is wrong."""

CHILD_SECONDS = 20.0
"""How long one thing that is tried in a child may take."""


@dataclass(frozen=True)
class Target:
    """What the attacks are told of the host and of the sandbox; each would be a find if it were reached."""

    marker: str = "no-marker"
    """A word that only the host and the neighbouring sandboxes hold: in names, contents, arguments, environments."""
    host_paths: tuple[str, ...] = ()
    """Files and directories of the host, the service's data directory among them."""
    host_name: str = ""
    """What the host is called."""
    host_pid: int = 0
    """A process of the host, which a signal may end."""
    host_ports: tuple[int, ...] = ()
    """TCP ports where something listens on the host: the API, the database, Redis."""
    host_addresses: tuple[str, ...] = ()
    """The host's own addresses, besides the loopback."""
    abstract_socket: str = "no-socket"
    """Name of an abstract UNIX socket on which the host listens."""
    ipc_key: int = 0
    """Key of a segment of System V shared memory of the host."""
    resolvers: tuple[str, ...] = ()
    """The host's DNS servers."""
    memory_bytes: int = 0
    pids: int = 0
    open_files: int = 0
    disk_bytes: int = 0
    shm_bytes: int = 0
    file_bytes: int = 1 << 40
    """No single file may be as large."""
    inodes: int = 200_000
    """No file system of a sandbox may hold more files."""


class Attempts:
    """What was tried so far and how it ended."""

    def __init__(self) -> None:
        self.reached: list[str] = []
        self.stopped: list[str] = []

    def attempt(
        self, what: str, action: Callable[..., object], *arguments: object, refusals: frozenset[int] | None = None
    ) -> None:
        """Try something. An OSError stops it, of the numbers given if any; another means that it was reached."""
        try:
            action(*arguments)
        except OSError as error:
            reason = errno.errorcode.get(error.errno or 0, str(error))
            if refusals is None or error.errno in refusals:
                self.stop(reason)
            else:
                self.reach(f"{what} ({reason})")
        else:
            self.reach(what)

    def reach(self, what: str) -> None:
        """Note that something was reached that should not be."""
        self.reached.append(what)

    def stop(self, reason: str) -> None:
        """Note what stopped an attempt."""
        if reason not in self.stopped:
            self.stopped.append(reason)

    def verdict(self) -> str:
        """Return the one line that an attack ends with."""
        if self.reached:
            more = f" and {len(self.reached) - 12} more" if len(self.reached) > 12 else ""
            return f"open: {', '.join(self.reached[:12])}{more}"
        return f"held: {', '.join(sorted(self.stopped)) or 'there is nothing to reach'}"


def run_attack(attack: Callable[[Target, Attempts], None], target: str) -> None:
    """Carry out an attack and print its verdict; one that breaks has shown nothing, and is never taken for held."""
    attempts = Attempts()
    try:
        attack(Target(**json.loads(target)), attempts)
    except Exception as error:  # noqa: BLE001 (whatever it is, the attack has not been carried out)
        print(f"open: could not be tried ({type(error).__name__}: {error})")  # noqa: T201
    else:
        print(" ".join(attempts.verdict().split()))  # noqa: T201


def open_file(path: str, flags: int = os.O_RDONLY) -> None:
    """Open a file and do nothing with it."""
    os.close(os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC))


def checked(result: int) -> int:
    """Return what a C function gave, or raise what went wrong."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def prctl(*arguments: int) -> int:
    """Change what the kernel keeps of this process."""
    return checked(LIBC.prctl(*map(ctypes.c_ulong, arguments)))


def set_limit(kind: int, value: int) -> None:
    """Set a limit of this process, soft and hard."""
    try:
        resource.setrlimit(kind, (value, value))
    except ValueError as error:  # which Python makes of "not permitted"
        raise PermissionError(errno.EPERM, str(error)) from error


def system_call(number: int, *arguments: Any) -> int:
    """Make a system call by its number."""
    words = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    LIBC.syscall.restype = ctypes.c_long
    return checked(LIBC.syscall(ctypes.c_long(number), *words))


def in_child(action: Callable[..., object], *arguments: object) -> Any:
    """Do something in a child process, so that the session stays as it is; return or raise what it came to.

    A child that is killed raises EPERM for a call that the filter kills for, and ECHILD for any other death.
    """
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # forking beside threads, as code does
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        _tell(write_end, action, *arguments)
    os.close(write_end)
    answer = b""
    with contextlib.closing(os.fdopen(read_end, "rb", buffering=0)) as pipe:
        give_up = time.monotonic() + CHILD_SECONDS
        while select.select([pipe], [], [], max(0.0, give_up - time.monotonic()))[0]:
            piece = pipe.read(65536)
            if not piece:
                break
            answer += piece
    with contextlib.suppress(ProcessLookupError):
        if not answer and time.monotonic() >= give_up:
            os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if not answer:
        killed_by_filter = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSYS
        raise OSError(errno.EPERM if killed_by_filter else errno.ECHILD, f"the child ended with {status}")
    number, value = json.loads(answer)
    if number == BROKEN:
        raise RuntimeError(value)
    if number:
        raise OSError(number, value)
    return value


def _tell(write_end: int, action: Callable[..., object], *arguments: object) -> None:
    """In the child: do it, send what came of it, and end without any of the session's own clean-up."""
    try:
        value = action(*arguments)
        told: list[object] = [0, value if isinstance(value, (str, int, list)) else None]
    except OSError as error:
        told = [error.errno or errno.EIO, str(error.strerror)]
    except MemoryError:
        told = [errno.ENOMEM, "MemoryError"]
    except BaseException as error:  # noqa: BLE001 (it must end here whatever happens)
        told = [BROKEN, repr(error)]
    try:
        os.write(write_end, json.dumps(told).encode())
    finally:
        os._exit(0)
