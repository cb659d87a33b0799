"""Attacks on the user's rights and on other processes: the launcher's parent, the host's, the neighbours'."""

import contextlib
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator

from tci.doctor.attacks.toolkit import LIBC, Attempts, Target, checked, in_child, open_file, prctl, set_limit

PTRACE_SEIZE = 0x4206
CAPABILITY_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
WHOLE_UID_MAP = ["0", "0", "4294967295"]


def becoming_root(target: Target, attempts: Attempts) -> None:
    """Become root, or join a group of root's."""
    del target
    changes: tuple[tuple[Callable[..., object], *tuple[object, ...]], ...] = (
        (os.setuid, 0),
        (os.setresuid, 0, 0, 0),
        (os.setgid, 0),
        (os.setgroups, [0]),
    )
    if 0 in (*os.getresuid(), *os.getresgid(), *os.getgroups()):
        attempts.reach(f"code runs with user {os.getresuid()}, group {os.getresgid()}")
    for change, *arguments in changes:
        attempts.attempt(getattr(change, "__name__", ""), in_child, change, *arguments)


def capabilities(target: Target, attempts: Attempts) -> None:
    """Find a capability in any of the five sets of any thread, or gain one."""
    del target
    # In a user namespace of its own the bounding set is never empty; it only bounds what can't be gained.
    in_own_namespace = _read("/proc/self/uid_map").split() != WHOLE_UID_MAP
    for task, status in _threads():
        for name in CAPABILITY_SETS:
            if int(status[name], 16) and not (name == "CapBnd" and in_own_namespace):
                attempts.reach(f"{name} {status[name]} of thread {task}")
            else:
                attempts.stop("every set is empty")
    pr_cap_ambient, raise_it, cap_net_raw = 47, 2, 13
    attempts.attempt(
        "raise an ambient capability",
        in_child,
        prctl,
        pr_cap_ambient,
        raise_it,
        cap_net_raw,
        0,
        0,
    )


def new_privileges(target: Target, attempts: Attempts) -> None:
    """Find a thread that may gain privileges by starting a program, or take the ban back."""
    del target
    for task, status in _threads():
        if status["NoNewPrivs"] == "1":
            attempts.stop("no_new_privs")
        else:
            attempts.reach(f"thread {task} may gain privileges")
    pr_set_no_new_privs = 38
    attempts.attempt("take no_new_privs back", prctl, pr_set_no_new_privs, 0, 0, 0, 0)


def process_1(target: Target, attempts: Attempts) -> None:
    """Read memory, root, environment and descriptors of process 1, which holds what the launcher was told."""
    if _is_in_the_same_jail(1, target.marker):
        attempts.stop("of the code's own user, in the same jail")
        return
    for name in ("mem", "environ", "maps", "auxv"):
        attempts.attempt(f"open /proc/1/{name}", open_file, f"/proc/1/{name}")
    for name in ("root", "cwd", "exe", "ns/mnt"):
        attempts.attempt(f"/proc/1/{name}", os.readlink, f"/proc/1/{name}")
    attempts.attempt("/proc/1/fd", os.listdir, "/proc/1/fd")
    attempts.attempt("open /proc/1/mem to write", open_file, "/proc/1/mem", os.O_RDWR)


def _is_in_the_same_jail(pid: int, marker: str) -> bool:
    """Whether a process of the code's own user has nothing that the code lacks, as in bubblewrap without root."""
    if os.stat(f"/proc/{pid}").st_uid != os.getuid() or os.getuid() == 0:
        return False
    with open(f"/proc/{pid}/environ", "rb") as file:
        is_marked = marker.encode() in file.read()
    return not is_marked and os.path.samefile(f"/proc/{pid}/root", "/")


def tracing(target: Target, attempts: Attempts) -> None:
    """Trace processes that the code did not start, the launcher's parent first."""
    del target
    for pid in _others():
        attempts.attempt(f"trace process {pid}", in_child, _trace, pid)


def signals(target: Target, attempts: Attempts) -> None:
    """Signal process 1, and processes that are not of this sandbox."""
    # Where no user but one exists, as in bubblewrap without root, process 1 is that user's: it is its own end.
    if os.stat("/proc/1").st_uid != os.getuid() or os.getuid() == 0:
        attempts.attempt("signal process 1", os.kill, 1, 0)
    if target.host_pid and _is_marked(target.host_pid, target.marker):
        attempts.attempt(f"signal process {target.host_pid} of the host", os.kill, target.host_pid, 0)
    for pid in _marked(target.marker):
        attempts.reach(f"process {pid} of another")


def being_process_1(target: Target, attempts: Attempts) -> None:
    """Leave zombies behind: a sandbox without an init never gets rid of them."""
    del target
    number = 16
    in_child(_orphans, number)
    left = number
    for _ in range(100):
        left = sum(_read(f"/proc/{pid}/stat").rsplit(")", 1)[-1].split()[:1] == ["Z"] for pid in _all())
        if left < number // 2:
            attempts.stop("an init takes them away")
            return
        time.sleep(0.02)
    attempts.reach(f"{left} zombies stay")


def service_environment(target: Target, attempts: Attempts) -> None:
    """Find a variable of the service in an environment, its own or another process's."""
    if any(target.marker in value for value in os.environ.values()):
        attempts.reach("the session's environment")
    for pid in _all():
        if target.marker in _read(f"/proc/{pid}/environ"):
            attempts.reach(f"the environment of process {pid}")


def host_name(target: Target, attempts: Attempts) -> None:
    """Learn what the host is called."""
    if target.host_name and os.uname().nodename == target.host_name:
        attempts.reach(target.host_name)
    else:
        attempts.stop("a name of its own")


def core_dumps(target: Target, attempts: Attempts) -> None:
    """Crash so that the kernel writes a core file, or hands it to the host's crash handler."""
    del target
    attempts.attempt(
        "raise the limit of core files",
        in_child,
        set_limit,
        resource.RLIMIT_CORE,
        1 << 20,
    )
    pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGSEGV)
    if os.WCOREDUMP(os.waitpid(pid, 0)[1]):
        attempts.reach("a core dump was made")
    else:
        attempts.stop("no core dump")


def _threads() -> Iterator[tuple[str, dict[str, str]]]:
    for task in os.listdir("/proc/self/task"):
        lines = _read(f"/proc/self/task/{task}/status").splitlines()
        if lines:
            yield task, dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def _trace(pid: int) -> None:
    """Seize, which does not stop it; the end of this child lets it go."""
    checked(LIBC.ptrace(PTRACE_SEIZE, pid, None, None))


def _orphans(number: int) -> None:
    for _ in range(number):
        if os.fork() == 0:
            os._exit(0)


def _others() -> Iterator[int]:
    """Give the processes that are neither the session's kernel nor below it."""
    for pid in _all():
        line = [part for part in _read(f"/proc/{pid}/status").splitlines() if part.startswith("PPid:")]
        if pid != os.getpid() and line and int(line[0].split()[1]) != os.getpid():
            yield pid


def _marked(marker: str) -> Iterator[int]:
    yield from (pid for pid in _all() if _is_marked(pid, marker))


def _is_marked(pid: int, marker: str) -> bool:
    return marker in _read(f"/proc/{pid}/cmdline")


def _all() -> list[int]:
    return sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())


def _read(path: str) -> str:
    with contextlib.suppress(OSError), open(path, errors="replace") as file:
        return file.read()
    return ""


ATTACKS = (
    becoming_root,
    capabilities,
    new_privileges,
    process_1,
    tracing,
    signals,
    being_process_1,
    service_environment,
    host_name,
    core_dumps,
)
