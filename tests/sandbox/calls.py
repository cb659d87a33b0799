"""System calls that a sandbox must refuse, and a program that tries them in there."""

import errno
import json
import re

NEW_NAMESPACES = {
    "CLONE_NEWNS": 0x00020000,
    "CLONE_NEWCGROUP": 0x02000000,
    "CLONE_NEWUTS": 0x04000000,
    "CLONE_NEWIPC": 0x08000000,
    "CLONE_NEWUSER": 0x10000000,
    "CLONE_NEWPID": 0x20000000,
    "CLONE_NEWNET": 0x40000000,
}
"""From linux/sched.h."""

FAMILIES = {
    "AF_UNSPEC": 0,
    "AF_AX25": 3,
    "AF_APPLETALK": 5,
    "AF_KEY": 15,
    "AF_PACKET": 17,
    "AF_RDS": 21,
    "AF_CAN": 29,
    "AF_TIPC": 30,
    "AF_BLUETOOTH": 31,
    "AF_RXRPC": 33,
    "AF_ALG": 38,
    "AF_VSOCK": 40,
    "AF_XDP": 44,
}
"""From linux/socket.h: some of those that are not UNIX, INET and INET6."""

REFUSALS = (errno.EPERM, errno.ENOSYS)

SIGCHLD, AF_NETLINK = 17, 16
SELF = -2
"""In the arguments below: the pid of the process that calls."""

REFUSED: dict[str, tuple[int, ...]] = {
    "acct": (163, 1),
    "add_key": (248, 1, 1, 1, 1, 0),
    "adjtimex": (159, 0),
    "bpf": (321, 0, 0, 1 << 20),
    "chroot": (161, 0),
    "clock_adjtime": (305, 0, 0),
    "clock_settime": (227, 99, 0),
    "clone3": (435, 0, 0),
    "delete_module": (176, 1, 0),
    "fanotify_init": (300, 0x200, 0),
    "fanotify_mark": (301, -1, 0, 0, 0, 0),
    "finit_module": (313, -1, 1, 0),
    "fsconfig": (431, -1, 0, 0, 0, 0),
    "fsmount": (432, -1, 0, 0),
    "fsopen": (430, 1, 0),
    "fspick": (433, -1, 1, 0),
    "get_mempolicy": (239, 0, 0, 0, 0, 0),
    "init_module": (175, 1, 0, 1),
    "io_setup": (206, 1, 0),
    "io_submit": (209, 0, 0, 0),
    "io_uring_enter": (426, -1, 0, 0, 0, 0, 0),
    "io_uring_register": (427, -1, 0, 0, 0),
    "io_uring_setup": (425, 0, 0),
    "ioperm": (173, 1 << 20, 1 << 20, 0),
    "iopl": (172, 5),
    "kcmp": (312, SELF, SELF, 0, 0, 0),
    "kexec_file_load": (320, -1, -1, 0, 0, 0),
    "kexec_load": (246, 0, 0, 0, 0),
    "keyctl": (250, -1),
    "lookup_dcookie": (212, 0, 0, 0),
    "mbind": (237, 0, 0, 0, 0, 0, 0),
    "memfd_secret": (447, 0),
    "migrate_pages": (256, 0, 0, 0, 0),
    "modify_ldt": (154, 0, 0, 0),
    "mount": (165, 1, 1, 1, 0, 0),
    "mount_setattr": (442, -1, 1, -1, 0, 0),
    "move_mount": (429, -1, 1, -1, 1, -1),
    "move_pages": (279, 0, 0, 0, 0, 0, 0),
    "name_to_handle_at": (303, -1, 1, 0, 0, -1),
    "open_by_handle_at": (304, -1, 1, 0),
    "open_tree": (428, -1, 1, -1),
    "perf_event_open": (298, 0, 0, 0, 0, -1),
    "personality": (135, 0x40000),
    "pidfd_getfd": (438, -1, 0, 0),
    "pivot_root": (155, 1, 1),
    "process_madvise": (440, -1, 0, 0, 0, 0),
    "process_mrelease": (448, -1, 0),
    "process_vm_readv": (310, SELF, 0, 0, 0, 0, 0),
    "process_vm_writev": (311, SELF, 0, 0, 0, 0, 0),
    "ptrace": (101, 0, 0, 0, 0),
    "quotactl": (179, -1, 0, 0, 0),
    "quotactl_fd": (443, -1, -1, 0, 0),
    "reboot": (169, 0, 0, 0, 0),
    "remap_file_pages": (216, 1, 0, 0, 0, 0),
    "request_key": (249, 1, 1, 1, 0),
    "set_mempolicy": (238, 0, 0, 0),
    "setdomainname": (171, 1, 1),
    "sethostname": (170, 1, 1),
    "setns": (308, -1, 0),
    "settimeofday": (164, 0, 1),
    "swapoff": (168, 1),
    "swapon": (167, 1, -1),
    "sync": (162,),
    "sysfs": (139, 3),
    "syslog": (103, 10, 0, 0),
    "umount2": (166, 1, -1),
    "unshare": (272, NEW_NAMESPACES["CLONE_NEWUSER"]),
    "userfaultfd": (323, 1),
    "ustat": (136, 1, 0),
    "vhangup": (153,),
    **{f"clone {flag}": (56, 0x10000000 | value | SIGCHLD, 0, 0, 0, 0) for flag, value in NEW_NAMESPACES.items()},
    **{f"socket {family}": (41, value, 3, 0) for family, value in FAMILIES.items()},
    # The kernel reads 32 bits of the family, the filter compares 64.
    "socket AF_NETLINK with a high bit": (41, 1 << 32 | AF_NETLINK, 3, 0),
    "socketpair AF_INET": (53, 2, 1, 0, 0),
    "a call that there is not yet": (999,),
}
"""Numbers of x86_64 and arguments for which the kernel, without a filter, mostly answers otherwise than with EPERM."""

PROGRAM = """
import ctypes, json, os

libc = ctypes.CDLL(None, use_errno=True)

def answer(number, *arguments):
    values = [ctypes.c_long(os.getpid() if value == -2 else value) for value in arguments]
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *values)
    return 0 if result >= 0 else ctypes.get_errno()

found = {}
for name, call in json.loads(CALLS).items():
    for is_root in (False, True):
        child = os.fork()
        if not child:
            if is_root:  # of namespaces of its own; where a filter refuses those, nothing changes
                libc.unshare(OWN_NAMESPACES)
            os._exit(answer(*call))
        status = os.waitpid(child, 0)[1]
        found[name] = os.WEXITSTATUS(status) if os.WIFEXITED(status) else f"signal {os.WTERMSIG(status)}"
        if found[name] not in REFUSALS:
            break
print(json.dumps(found))
"""


def program(calls: dict[str, tuple[int, ...]]) -> str:
    """Return a Python program that makes each call in a process of its own and prints {name: errno}, 0 for success.

    A call that is refused is tried again as root of a user namespace: what is refused to that root as well is
    refused by a filter, or Linux was built without it.
    """
    own = sum(NEW_NAMESPACES[f"CLONE_NEW{name}"] for name in ("USER", "NS", "NET", "UTS"))
    words = {"CALLS": repr(json.dumps(calls)), "OWN_NAMESPACES": str(own), "REFUSALS": str(REFUSALS)}
    return re.sub("|".join(words), lambda found: words[found[0]], PROGRAM)
