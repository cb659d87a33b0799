"""Attacks on the kernel: the system calls that no caller needs, each by its number.

The arguments are such that nothing happens where a call is let through: no such process, no such module, a size of 0.
A call that says more than "not permitted" has come to the kernel's own code, and counts as reached.
"""

import ctypes
import errno
import mmap
import os
import platform
import socket
import time
from collections.abc import Callable, Sequence

from tci.doctor.attacks.toolkit import Attempts, Target, in_child, system_call

MACHINE = {"x86_64": 0, "aarch64": 1}.get(platform.machine(), 0)

NUMBERS = {
    "acct": (163, 89), "add_key": (248, 217), "adjtimex": (159, 171), "bpf": (321, 280), "chroot": (161, 51),
    "clock_adjtime": (305, 266), "clock_settime": (227, 112), "clone": (56, 220), "clone3": (435, 435),
    "delete_module": (176, 106), "fanotify_init": (300, 262), "finit_module": (313, 273), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fsopen": (430, 430), "fspick": (433, 433), "init_module": (175, 105),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "io_uring_setup": (425, 425), "ioperm": (173, None),
    "iopl": (172, None), "kcmp": (312, 272), "kexec_file_load": (320, 294), "kexec_load": (246, 104),
    "keyctl": (250, 219), "lookup_dcookie": (212, 18), "modify_ldt": (154, None), "mount": (165, 40),
    "mount_setattr": (442, 442), "move_mount": (429, 429), "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265), "open_tree": (428, 428), "perf_event_open": (298, 241), "personality": (135, 92),
    "pidfd_getfd": (438, 438), "pivot_root": (155, 41), "process_madvise": (440, 440), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "ptrace": (101, 117), "quotactl": (179, 60), "reboot": (169, 142),
    "request_key": (249, 218), "setdomainname": (171, 162), "sethostname": (170, 161), "setns": (308, 268),
    "settimeofday": (164, 170), "swapoff": (168, 225), "swapon": (167, 224), "syslog": (103, 116),
    "umount2": (166, 39), "unshare": (272, 97), "userfaultfd": (323, 282), "vhangup": (153, 58),
}  # fmt: skip
"""Numbers of x86_64 and of aarch64; None where a machine has no such call."""

NAMESPACES = {
    "user": 0x10000000, "mount": 0x20000, "pid": 0x20000000, "net": 0x40000000, "ipc": 0x8000000, "uts": 0x4000000,
    "cgroup": 0x2000000, "time": 0x80,
}  # fmt: skip

REFUSED = frozenset({errno.EPERM, errno.EACCES, errno.ENOSYS})

NOBODY = 0x3FFFFFFF
"""A process id beyond the largest that Linux gives."""

SIGCHLD = 17

Arguments = Sequence[object]


def new_namespaces(target: Target, attempts: Attempts) -> None:
    """Make a namespace of each kind: in one of its own a user has every capability."""
    del target
    for name, flag in NAMESPACES.items():
        _try(attempts, "unshare", flag, label=f"unshare {name}")
        if name != "time":  # its number is among the signals'
            _try(attempts, "clone", flag | SIGCHLD, 0, 0, 0, 0, label=f"clone {name}", action=_clone)
        _try(attempts, "clone3", flag, label=f"clone3 {name}", action=_clone3)


def other_namespaces(target: Target, attempts: Attempts) -> None:
    """Enter a namespace, its own or process 1's."""
    del target
    for pid in ("self", "1"):
        for name in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup"):
            path = f"/proc/{pid}/ns/{name}"
            attempts.attempt(f"setns {path}", in_child, _enter, path)


def mounts(target: Target, attempts: Attempts) -> None:
    """Mount, remount the root to be written, bind, unmount, and change the root, by old calls and new."""
    del target
    read_write, bind, nothing = 0x20, 0x1000, b""
    _try(attempts, "mount", b"none", b"/tmp", b"tmpfs", 0, nothing, label="mount a tmpfs")
    _try(attempts, "mount", b"none", b"/tmp", b"proc", 0, nothing, label="mount a proc")
    _try(attempts, "mount", b"none", b"/", nothing, read_write, nothing, label="remount /")
    _try(attempts, "mount", b"/proc", b"/tmp", nothing, bind, nothing, label="bind /proc")
    _try(attempts, "umount2", b"/proc", 0)
    _try(attempts, "pivot_root", b"/tmp", b"/tmp")
    _try(attempts, "chroot", b"/")
    _try(attempts, "open_tree", -100, b"/", 1)
    _try(attempts, "move_mount", -1, nothing, -1, nothing, 4)
    _try(attempts, "fsopen", b"tmpfs", 0)
    _try(attempts, "fsconfig", -1, 0, 0, 0, 0)
    _try(attempts, "fsmount", -1, 0, 0)
    _try(attempts, "fspick", -100, b"/", 0)
    _try(attempts, "mount_setattr", -100, b"/", 0, bytes(32), 32)


def kernel_doors(target: Target, attempts: Attempts) -> None:
    """Use the parts of the kernel in which most holes were found: bpf, keyrings, io_uring, userfaultfd, perf."""
    del target
    _try(attempts, "bpf", 0, bytes(72), 72)
    _try(attempts, "keyctl", 0, -3, 0)
    _try(attempts, "add_key", b"user", b"tci-attack", b"1", 1, -2)
    _try(attempts, "request_key", b"user", b"tci-attack", 0, 0)
    _try(attempts, "io_uring_setup", 1, 0)
    _try(attempts, "io_uring_enter", -1, 0, 0, 0, 0, 0)
    _try(attempts, "io_uring_register", -1, 0, 0, 0)
    _try(attempts, "userfaultfd", 1)
    _try(attempts, "perf_event_open", 0, 0, -1, -1, 0)
    _try(attempts, "fanotify_init", 0x200, 0)


def machine(target: Target, attempts: Attempts) -> None:
    """Change the machine: kernel, modules, swap, accounting, quotas, log, ports of the hardware, restart."""
    del target
    impossible = 0xFFFFFF
    _try(attempts, "kexec_load", 0, 0, 0, impossible)
    _try(attempts, "kexec_file_load", -1, -1, 0, 0, impossible)
    _try(attempts, "init_module", 0, 0, 0)
    _try(attempts, "finit_module", -1, 0, 0)
    _try(attempts, "delete_module", b"no-such-module", 0)
    _try(attempts, "reboot", 0, 0, 0, 0)  # without its magic numbers even root's call does nothing
    _try(attempts, "acct", b"/no-such-file")
    _try(attempts, "swapon", b"/no-such-file", 0)
    _try(attempts, "swapoff", b"/no-such-file")
    _try(attempts, "syslog", 3, bytes(16), 16)
    _try(attempts, "quotactl", 0x80000700, b"/no-such-device", 0, 0)
    _try(attempts, "iopl", 3)
    _try(attempts, "ioperm", 0x80, 1, 1)
    _try(attempts, "vhangup")
    _try(attempts, "lookup_dcookie", 0, 0, 0)


def handles(target: Target, attempts: Attempts) -> None:
    """Open files by handle, which passes every mount and directory by (Shocker)."""
    del target
    _try(attempts, "name_to_handle_at", -100, b"/", 0, 0, 0)
    _try(attempts, "open_by_handle_at", -1, 0, 0)


def others_memory(target: Target, attempts: Attempts) -> None:
    """Trace processes, and read and take over their memory and descriptors."""
    del target
    _try(attempts, "ptrace", 3, NOBODY, 0, 0)
    _try(attempts, "process_vm_readv", NOBODY, 0, 0, 0, 0, 0)
    _try(attempts, "process_vm_writev", NOBODY, 0, 0, 0, 0, 0)
    _try(attempts, "process_madvise", -1, 0, 0, 0, 0)
    _try(attempts, "kcmp", NOBODY, NOBODY, 0, 0, 0)
    _try(attempts, "pidfd_getfd", -1, 0, 0)


def clock_and_name(target: Target, attempts: Attempts) -> None:
    """Set the clock and the names of the machine, to what they are."""
    del target

    now = time.time_ns()
    _try(attempts, "settimeofday", (ctypes.c_long * 2)(now // 10**9, now % 10**9 // 1000), 0)
    _try(attempts, "clock_settime", 0, (ctypes.c_long * 2)(now // 10**9, now % 10**9))
    _try(attempts, "adjtimex", (ctypes.c_long * 32)(1))
    _try(attempts, "clock_adjtime", 0, (ctypes.c_long * 32)(1))
    name = socket.gethostname().encode()
    _try(attempts, "sethostname", name, len(name))
    _try(attempts, "setdomainname", name, len(name))


def process_modes(target: Target, attempts: Attempts) -> None:
    """Run without random addresses, and with descriptor tables of one's own."""
    del target
    for name, persona in (
        ("ADDR_NO_RANDOMIZE", 0x40000),
        ("READ_IMPLIES_EXEC", 0x400000),
        ("MMAP_PAGE_ZERO", 0x100000),
    ):
        _try(attempts, "personality", persona, label=f"personality {name}")
    _try(attempts, "modify_ldt", 1, bytes(16), 16)


def other_numbers(target: Target, attempts: Attempts) -> None:
    """Make such calls by the numbers of another machine (x32, i386), which a filter may forget."""
    del target
    if platform.machine() != "x86_64":
        attempts.stop("x86_64 alone has them")
        return
    x32 = 0x40000000
    for name, argument in (("unshare", NAMESPACES["user"]), ("keyctl", 0), ("bpf", 99)):
        number = x32 + (NUMBERS[name][0] or 0)
        attempts.attempt(
            f"x32 {name}",
            in_child,
            system_call,
            number,
            argument,
            -3,
            0,
            refusals=REFUSED,
        )
    for name, number, argument in (("unshare", 310, NAMESPACES["user"]), ("keyctl", 288, 0), ("bpf", 357, 99)):
        attempts.attempt(
            f"i386 {name}",
            in_child,
            _interrupt_80,
            number,
            argument,
            refusals=REFUSED | {errno.ECHILD},  # a kernel without these calls ends the child
        )


def _try(
    attempts: Attempts,
    name: str,
    *arguments: object,
    label: str = "",
    action: Callable[..., object] = system_call,
) -> None:
    number = NUMBERS[name][MACHINE]
    if number is not None:
        attempts.attempt(label or name, in_child, action, number, *arguments, refusals=REFUSED)


def _clone(number: int, *arguments: object) -> None:
    if system_call(number, *arguments) == 0:
        os._exit(0)


def _clone3(number: int, flags: int) -> None:
    """Call clone3 with its 64 bytes of arguments: flags first, the signal at the fifth place."""
    arguments = (ctypes.c_uint64 * 8)(flags, 0, 0, 0, SIGCHLD, 0, 0, 0)
    if system_call(number, arguments, ctypes.sizeof(arguments)) == 0:
        os._exit(0)


def _enter(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    system_call(NUMBERS["setns"][MACHINE] or 0, descriptor, 0)


def _interrupt_80(number: int, argument: int) -> None:
    """Make a system call as a program of i386 does: push rbx; eax, ebx = the arguments; ecx, edx = 0; int 0x80."""
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex("53 89f8 89f3 31c9 31d2 cd80 5b c3"))
    function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int)
    result = function(ctypes.addressof(ctypes.c_char.from_buffer(code)))(number, argument)
    if result < 0:
        raise OSError(-result, os.strerror(-result))


ATTACKS = (
    new_namespaces,
    other_namespaces,
    mounts,
    kernel_doors,
    machine,
    handles,
    others_memory,
    clock_and_name,
    process_modes,
    other_numbers,
)
