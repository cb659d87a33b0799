"""Attacks on the host through the file system: what is mounted, what may be written, what is left lying about."""

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator

from tci.doctor.attacks.toolkit import Attempts, Target, open_file

ENGINE_SOCKETS = (
    "/var/run/docker.sock",
    "/run/docker.sock",
    "/run/podman/podman.sock",
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/user/1000/docker.sock",
)

SYSTEM_DIRECTORIES = (
    "/", "/usr", "/usr/bin", "/usr/lib", "/usr/local", "/usr/local/bin", "/etc", "/opt", "/opt/tci",
    "/opt/tci/launcher", "/var", "/var/tmp", "/run", "/run/lock", "/root", "/home", "/dev", "/mnt", "/srv",
    "/sys", "/proc",
)  # fmt: skip

KERNEL_SWITCHES = (
    "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/sysrq", "/proc/sys/kernel/hostname",
    "/proc/sys/vm/overcommit_memory", "/proc/sys/vm/drop_caches", "/proc/sys/fs/binfmt_misc/register",
    "/proc/sys/net/ipv4/ip_forward", "/proc/sysrq-trigger", "/proc/irq/0/smp_affinity",
    "/proc/mtrr", "/proc/scsi/scsi",
)  # fmt: skip

KERNEL_SECRETS = ("/proc/kcore", "/proc/kmsg", "/proc/vmcore", "/dev/kmsg", "/dev/mem", "/dev/kmem", "/dev/port")

SYS_SWITCHES = (
    "/sys/kernel/uevent_helper", "/sys/power/state", "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/module/apparmor/parameters/mode", "/sys/kernel/profiling", "/sys/firmware/efi/efivars", "/sys/kernel/debug",
    "/sys/kernel/security", "/sys/fs/bpf", "/sys/block/vda/queue/scheduler",
)  # fmt: skip

KERNEL_FILE_SYSTEMS = ("proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue")
"""File systems that hold no programs."""

CGROUP_FILES = (
    "cgroup.procs", "cgroup.subtree_control", "memory.max", "memory.limit_in_bytes", "pids.max", "cpu.max",
    "cpu.cfs_quota_us", "release_agent", "notify_on_release", "devices.allow",
)  # fmt: skip


def host_files(target: Target, attempts: Attempts) -> None:
    """Open files of the host: a planted one, the service's data, other users' homes."""
    for path in target.host_paths:
        attempts.attempt(f"open {path}", open_file, path)
        attempts.attempt(f"open {path} to write", open_file, path, os.O_WRONLY)
        attempts.attempt(f"open {path} through process 1", open_file, f"/proc/1/root{path}")


def passwords(target: Target, attempts: Attempts) -> None:
    """Read the files that hold passwords and keys."""
    del target
    for path in (
        "/etc/shadow",
        "/etc/gshadow",
        "/etc/sudoers",
        "/root/.ssh",
        "/root/.bash_history",
        "/etc/ssl/private",
    ):
        attempts.attempt(f"open {path}", open_file, path)


def engine_sockets(target: Target, attempts: Attempts) -> None:
    """Find the socket of a container engine."""
    del target
    for path in ENGINE_SOCKETS:
        attempts.attempt(path, os.stat, path)


def system_files(target: Target, attempts: Attempts) -> None:
    """Make a file in each directory of the system."""
    del target
    for directory in SYSTEM_DIRECTORIES:
        attempts.attempt(f"make a file in {directory}", _make_and_remove, directory)


def kernel_switches(target: Target, attempts: Attempts) -> None:
    """Open sysctls, sysrq-trigger, core_pattern and other switches of the kernel to write."""
    del target
    for path in KERNEL_SWITCHES:
        attempts.attempt(f"open {path}", open_file, path, os.O_WRONLY)


def kernel_memory(target: Target, attempts: Attempts) -> None:
    """Read the kernel's memory and log."""
    del target
    for path in KERNEL_SECRETS:
        attempts.attempt(f"open {path}", open_file, path)


def sys_switches(target: Target, attempts: Attempts) -> None:
    """Open what /sys lets an administrator switch, to write."""
    del target
    for path in SYS_SWITCHES:
        attempts.attempt(f"open {path}", open_file, path, os.O_WRONLY)
    for device in _entries("/sys/block"):
        attempts.attempt(f"open {device}/uevent", open_file, f"{device}/uevent", os.O_WRONLY)


def control_groups(target: Target, attempts: Attempts) -> None:
    """Raise the sandbox's own limits, make a group, set a release agent."""
    del target
    for directory in ["/sys/fs/cgroup", *_entries("/sys/fs/cgroup")]:
        for name in CGROUP_FILES:
            attempts.attempt(f"open {directory}/{name}", open_file, f"{directory}/{name}", os.O_WRONLY)
        attempts.attempt(f"make a group in {directory}", _make_and_remove, directory, os.mkdir)


def device_nodes(target: Target, attempts: Attempts) -> None:
    """Make device nodes of the host's disk and memory."""
    del target
    for kind, major, minor in ((stat.S_IFBLK, 254, 0), (stat.S_IFBLK, 8, 0), (stat.S_IFCHR, 1, 1)):
        for directory in ("/tmp", "/dev/shm"):

            def make(path: str, mode: int = kind | 0o600, device: int = os.makedev(major, minor)) -> None:
                os.mknod(path, mode, device)

            attempts.attempt(
                f"mknod {major}:{minor} in {directory}",
                _make_and_remove,
                directory,
                make,
            )
    for name in ("sda", "vda", "nvme0n1", "dm-0", "kvm", "fuse", "loop-control", "net/tun", "vhost-net", "vsock"):
        attempts.attempt(f"open /dev/{name}", open_file, f"/dev/{name}", os.O_RDWR)


def setuid_programs(target: Target, attempts: Attempts) -> None:
    """Find a program that runs as another user, on a file system that would let it."""
    del target
    with open("/proc/self/mounts") as file:
        mounts = [line.split() for line in file]
    for _, place, kind, options, *_ in mounts:
        if "nosuid" in options.split(","):
            attempts.stop("nosuid")
        elif kind not in KERNEL_FILE_SYSTEMS:
            for path in _files_of_mount(place):
                status = os.lstat(path)
                if stat.S_ISREG(status.st_mode) and status.st_mode & (stat.S_ISUID | stat.S_ISGID):
                    attempts.reach(path)
    attempts.stop("none is there")


OWN = {"shell", "iopub", "control", "hosts", "egress"}
"""What a sandbox's own directory holds."""


def socket_directory(target: Target, attempts: Attempts) -> None:
    """Write into the directories of the sandbox's sockets, move one away, find another session's there."""
    del target
    for directory, own in (("/run/tci", OWN), ("/run/tci/egress", {"proxy", "ca.pem"})):
        attempts.attempt(f"make a file in {directory}", _make_and_remove, directory)
        attempts.attempt(f"make a link in {directory}", _make_and_remove, directory, _link)
        attempts.attempt(f"chmod {directory}", os.chmod, directory, 0o777)
        for path in _entries(directory):
            if os.path.basename(path) not in own:
                attempts.reach(path)
            attempts.attempt(f"chmod {path}", os.chmod, path, 0o777)
            attempts.attempt(f"move {path}", _move_and_return, path)


def inherited_descriptors(target: Target, attempts: Attempts) -> None:
    """Look for a descriptor that leads to a file outside of the sandbox's own tree."""
    del target
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            link = os.readlink(f"/proc/self/fd/{number}")
            if not link.startswith("/"):
                attempts.stop(link.split(":")[0])
                continue
            there, here = os.stat(f"/proc/self/fd/{number}"), None
            with contextlib.suppress(OSError):
                here = os.stat(link)
            if here is not None and (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
                attempts.stop("its own file")
            elif stat.S_ISDIR(there.st_mode) or not link.startswith(("/dev/", "/proc/", "/home/", "/tmp/")):
                attempts.reach(f"descriptor {number}: {link}")


def _files_of_mount(place: str) -> Iterator[str]:
    """Give the files of one mount, those of mounts below it not."""
    if not os.path.isdir(place):
        yield place
        return
    device = os.stat(place).st_dev
    for above, directories, names in os.walk(place):
        directories[:] = [name for name in directories if os.lstat(f"{above}/{name}").st_dev == device]
        yield from (f"{above.rstrip('/')}/{name}" for name in names)


def _entries(directory: str) -> Iterator[str]:
    with contextlib.suppress(OSError):
        yield from (f"{directory}/{name}" for name in sorted(os.listdir(directory)))


def _make_and_remove(directory: str, make: object = None) -> None:
    """Make something of a name that nobody has, and take it away again."""
    path = f"{directory.rstrip('/')}/.tci-{secrets.token_hex(8)}"
    if callable(make):
        make(path)
    else:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    if stat.S_ISDIR(os.lstat(path).st_mode):
        os.rmdir(path)
    else:
        os.unlink(path)


def _link(path: str) -> None:
    os.symlink("/etc/passwd", path)


def _move_and_return(path: str) -> None:
    os.rename(path, f"{path}.moved")
    os.rename(f"{path}.moved", path)


ATTACKS = (
    host_files,
    passwords,
    engine_sockets,
    system_files,
    kernel_switches,
    kernel_memory,
    sys_switches,
    control_groups,
    device_nodes,
    setuid_programs,
    socket_directory,
    inherited_descriptors,
)
