"""The bubblewrap jail as data: a pure function from what to launch to the arguments of `bwrap`."""

from dataclasses import dataclass
from pathlib import Path

from tci.kernel.launcher import CACHES, SOCKET_DIRECTORY
from tci.sandbox.docker_spec import USER_BASE, launch_order
from tci.sandbox.docker_spec import environment as common_environment
from tci.sandbox.driver import HOME, SANDBOX_UID, SandboxSpec

LAUNCHER = "/opt/tci/launcher"
SCRIPTS = "/opt/tci/bin"

SHARED_ETC = (
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/pki",
    "/etc/ssl",
)
"""What the host's programs need of its configuration; nothing in it is secret (/etc/ssl/private is root's)."""


WRITABLE = ("/dev/shm", "/tmp", HOME)  # noqa: S108 (the sandbox's own)
"""The file systems of a jail that its code may write."""


@dataclass(frozen=True, slots=True)
class Host:
    """What the jail takes from this machine, all of it read-only."""

    bwrap: Path
    is_root: bool
    python: Path
    """The interpreter itself, links resolved."""
    prefix: Path
    """Where that Python is installed."""
    site_packages: Path
    """Where that Python looks for installed packages; the environment's are shown there."""
    hidden: tuple[Path, ...]
    """Directories of the host's own Python packages that the jail must not see."""
    environment: Path
    """The environment that was prepared: site-packages, bin, matplotlib, etc."""
    launcher: Path


@dataclass(frozen=True, slots=True)
class Descriptors:
    """The numbers of the open files that bwrap is given."""

    info: int
    """A pipe that it tells its child's pid."""
    block: int
    """A pipe that it waits for before it starts the launcher."""
    seccomp: int | None
    """The compiled filter of system calls, or None where there is none for this machine."""

    def numbers(self) -> tuple[int, ...]:
        """Return those that there are."""
        return tuple(number for number in (self.info, self.block, self.seccomp) if number is not None)


def bwrap_arguments(spec: SandboxSpec, *, host: Host, descriptors: Descriptors) -> list[str]:
    """Return the command line that launches a sandbox."""
    return [
        str(host.bwrap),
        *_namespaces(host),
        *_system(host),
        *_python(host),
        *_own_files(spec, host),
        *_egress(spec),
        *("--remount-ro", "/", "--remount-ro", "/dev"),  # which is its owner's, and without a size
        *("--chdir", HOME),
        *("--info-fd", str(descriptors.info)),
        *("--block-fd", str(descriptors.block)),
        *(() if descriptors.seccomp is None else ("--seccomp", str(descriptors.seccomp))),
        *("--", str(host.python), "-B", LAUNCHER),
    ]


def shown_paths(host: Host) -> list[Path]:
    """Return what every sandbox sees of this machine."""
    words = [*_system(host), *_python(host)]
    places = (at + 1 for at, word in enumerate(words) if word in {"--bind", "--ro-bind", "--ro-bind-try"})
    return [Path(words[place]) for place in places]


def warm_arguments(host: Host, script: Path) -> list[str]:
    """Return the command line that fills the caches. In the jail: numba notes where its sources are."""
    binds = [word for cache in CACHES.values() for word in ("--bind", str(host.environment / Path(cache).name), cache)]
    variables = [word for variable, cache in CACHES.items() for word in ("--setenv", variable, cache)]
    return [
        str(host.bwrap),
        *_namespaces(host),
        *_system(host),
        *_python(host),
        *binds,
        *("--ro-bind", str(script), "/opt/tci/warm.py"),
        *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--setenv", "HOME", "/tmp"),  # noqa: S108 (its own)
        *variables,
        *("--", str(host.python), "-B", "-W", "ignore", "/opt/tci/warm.py"),
    ]


def environment(
    spec: SandboxSpec, *, listeners: dict[str, int], limit_data: bool, limit_processes: bool
) -> dict[str, str]:
    """Return the whole environment of a sandbox; each process is limited where no control group limits all."""
    order = launch_order(spec, sockets=listeners, limit_data=limit_data, limit_processes=limit_processes)
    return common_environment(spec) | {"PATH": f"{USER_BASE}/bin:{SCRIPTS}:/usr/bin:/bin", "TCI_LAUNCH": order}


def _namespaces(host: Host) -> list[str]:
    shared = [
        "--unshare-pid",
        "--unshare-net",
        "--unshare-ipc",
        "--unshare-uts",
        "--unshare-cgroup-try",
        "--new-session",
    ]
    shared += ["--hostname", "sandbox", "--cap-drop", "ALL"]
    if host.is_root:
        # No user namespace: the launcher becomes an unprivileged uid of the host, as in a container. These
        # three are what it needs for that, and it gives them up.
        return [*shared, "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP"]
    return ["--unshare-user", "--uid", str(SANDBOX_UID), "--gid", str(SANDBOX_UID), *shared]


def _system(host: Host) -> list[str]:
    arguments = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = Path("/", name)
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            arguments += ["--ro-bind", str(path), str(path)]
    arguments += _directories(Path("/etc"))
    for shared in SHARED_ETC:
        arguments += ["--ro-bind-try", shared, shared]
    etc = host.environment / "etc"
    for name in ("passwd", "group", "hosts", "nsswitch.conf"):
        arguments += ["--ro-bind", str(etc / name), f"/etc/{name}"]
    return arguments


def _python(host: Host) -> list[str]:
    arguments = [*_directories(Path("/opt/tci")), *_directories(Path(HOME).parent)]
    if not host.prefix.is_relative_to("/usr"):
        arguments += [*_directories(host.prefix.parent), "--ro-bind", str(host.prefix), str(host.prefix)]
    for hidden in host.hidden:
        arguments += ["--tmpfs", str(hidden)]
    arguments += ["--ro-bind", str(host.environment / "site-packages"), str(host.site_packages)]
    arguments += ["--ro-bind", str(host.environment / "bin"), SCRIPTS]
    for cache in CACHES.values():
        arguments += ["--ro-bind", str(host.environment / Path(cache).name), cache]
    return [*arguments, "--ro-bind", str(host.launcher), LAUNCHER]


def _directories(path: Path) -> list[str]:
    """Make a directory and those above it readable: bwrap makes them its owner's alone, and code is another user."""
    above = [*reversed(path.parents), path][1:]
    return [argument for directory in above for argument in ("--perms", "0755", "--dir", str(directory))]


def _egress(spec: SandboxSpec) -> list[str]:
    """Show the gate's directory, the one thing in the jail that the service has made for this session."""
    if spec.egress_directory is None:
        return []
    target = f"{SOCKET_DIRECTORY}/egress"
    return [*_directories(Path(target).parent), "--ro-bind", str(spec.egress_directory), target]


def _own_files(spec: SandboxSpec, host: Host) -> list[str]:
    """Return the file systems that code may write; `seal` bounds their inodes, for which bwrap has no option."""
    # As root, bwrap's file systems are root's, and no capability is left to give them away. Only one
    # unprivileged user lives in the jail, so a home that everybody may write is its own.
    home_mode = "0777" if host.is_root else "0755"
    limits = spec.limits
    return [
        *("--proc", "/proc"),
        *("--dev", "/dev"),
        *("--perms", "1777", "--size", str(limits.shm_bytes), "--tmpfs", "/dev/shm"),  # noqa: S108 (the sandbox's own)
        *("--perms", "1777", "--size", str(limits.disk_bytes), "--tmpfs", "/tmp"),  # noqa: S108 (the sandbox's own)
        *("--perms", home_mode, "--size", str(limits.disk_bytes), "--tmpfs", HOME),
    ]
