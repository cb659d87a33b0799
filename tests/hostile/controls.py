"""The single controls of the jail, how each is switched off, and the attacks that are open without it.

Nothing in the product can switch a control off: `switched_off.py` does it, by changing what the drivers are about to
send to the engine or to bwrap. A control is removed for as little as shows it: attacks look, and change nothing.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tci.kernel.launcher import SOCKET_DIRECTORY
from tci.sandbox.driver import Limits, SandboxSpec

LauncherEdit = tuple[str, str, str]
"""A file of the launcher, a pattern in it, and what takes its place."""


@dataclass(frozen=True, slots=True)
class Site:
    """What a change of a control may use of the host."""

    spec: SandboxSpec
    decoy: Path
    """A directory of the host with a decoy in it."""
    setuid_directory: Path
    """A directory of the host with a program in it that runs as root."""


@dataclass(frozen=True, slots=True)
class Off:
    """How a control is switched off on one driver."""

    config: Callable[[dict[str, Any], Site], None] | None = None
    """Docker: changes the body of the request that makes the container."""
    arguments: Callable[[list[str], Site], list[str]] | None = None
    """bubblewrap: returns other arguments of bwrap."""
    launcher: tuple[LauncherEdit, ...] = ()
    is_sealed: bool = True
    leaks_environment: bool = False
    leaks_descriptor: bool = False
    leaks_group: bool = False
    limits: Callable[[Limits], Limits] | None = None
    """bubblewrap: returns other limits of the control group."""


@dataclass(frozen=True, slots=True)
class Control:
    """One control, and what shows that it matters."""

    name: str
    shown_by: tuple[str, ...]
    """Attacks that are open without it, each of them on each driver."""
    docker: Off | None = None
    bubblewrap: Off | None = None
    note: str = ""
    """Where a second control stops the same attacks, and is off as well; or why a driver is left out."""

    def off(self, driver: str) -> Off | None:
        """Return how it is switched off on a driver, or None where it can't be."""
        return self.docker if driver == "docker" else self.bubblewrap


def host(**fields: Any) -> Callable[[dict[str, Any], Site], None]:
    """Return a change that sets fields of the container's HostConfig; None takes a field away."""

    def change(config: dict[str, Any], _site: Site) -> None:
        for name, value in fields.items():
            if value is None:
                config["HostConfig"].pop(name, None)
            else:
                config["HostConfig"][name] = value

    return change


def without(*options: str) -> Callable[[list[str], Site], list[str]]:
    """Return a change that takes options of bwrap away, each given with its own arguments: `--hostname sandbox`."""

    def change(arguments: list[str], _site: Site) -> list[str]:
        for option in options:
            words = option.split()
            count = len(words)
            starts = [i for i in range(len(arguments)) if arguments[i : i + count] == words]
            assert starts, f"bwrap is not given {option}"
            arguments = arguments[: starts[0]] + arguments[starts[0] + count :]
        return arguments

    return change


def bound(config: dict[str, Any], *binds: str) -> None:
    """Mount more of the host into a container."""
    config["HostConfig"]["Binds"] = [*config["HostConfig"]["Binds"], *binds]


def before_program(arguments: list[str], *options: str) -> list[str]:
    """Give bwrap more options, after all others."""
    # The last change of the file system makes the root read-only, and nothing can be mounted afterwards.
    at = arguments.index("--remount-ro") if "--remount-ro" in arguments else arguments.index("--")
    return [*arguments[:at], *options, *arguments[at:]]


def returns_at_once(function: str) -> str:
    """Return a pattern that matches a function's head, for `DOES_NOTHING`."""
    return rf"(def {function}\(.*?\) -> None:\n)"


DOES_NOTHING = r"\1    return\n"

NO_DROP = ("privileges.py", returns_at_once("drop_privileges"), DOES_NOTHING)
NO_RLIMITS = ("privileges.py", returns_at_once("limit_process"), DOES_NOTHING)
NO_BOUNDING = ("privileges.py", r"libc\.prctl\(PR_CAPBSET_DROP, .*?\)\n", "pass\n")
NO_SETGROUPS = ("privileges.py", r"os\.setgroups\(\[\]\)", "pass")
NO_NEW_PRIVS_CALL = ("privileges.py", r"libc\.prctl\(PR_SET_NO_NEW_PRIVS, .*?\)\n", "pass\n")
NO_NEW_PRIVS_CHECK = ("privileges.py", r' or status\["NoNewPrivs"\]\.strip\(\) != "1"', "")
PUT_IN_PLACE = (
    "files.py",
    r"(def put\(self, name: str, data: Any\) -> None:\n)",
    r"\1        return os.write(os.open(f'{self._root}/{name}', os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK), data)\n",
)
FOLLOW_DIRECTORIES = ("files.py", r"flags \| os\.O_NOFOLLOW", "flags")


def no_seccomp(config: dict[str, Any], _site: Site) -> None:
    """Take the filter of system calls away from a container."""
    kept = [option for option in config["HostConfig"]["SecurityOpt"] if not option.startswith("seccomp")]
    config["HostConfig"]["SecurityOpt"] = [*kept, "seccomp=unconfined"]


def no_filter(arguments: list[str], _site: Site) -> list[str]:
    """Take the filter of system calls away from bwrap, in whichever way it was given."""
    for option in ("--seccomp", "--add-seccomp-fd"):
        while option in arguments:
            at = arguments.index(option)
            arguments = arguments[:at] + arguments[at + 2 :]
    return arguments


def no_own_name(config: dict[str, Any], _site: Site) -> None:
    """Show a container the host's name."""
    config.pop("Hostname")
    config["HostConfig"]["UTSMode"] = "host"


def host_network(config: dict[str, Any], _site: Site) -> None:
    """Put a container into the host's network."""
    config["NetworkDisabled"] = False
    config["HostConfig"]["NetworkMode"] = "host"


def no_sizes(config: dict[str, Any], _site: Site) -> None:
    """Leave a container's file systems in memory without a size."""
    tmpfs = config["HostConfig"]["Tmpfs"]
    for place, options in tmpfs.items():
        tmpfs[place] = re.sub(r",size=\d+", "", options)
    config["HostConfig"].pop("ShmSize", None)
    for mount in config["HostConfig"].get("Mounts", []):
        mount.get("TmpfsOptions", {}).pop("SizeBytes", None)


def no_size_options(arguments: list[str], _site: Site) -> list[str]:
    """Leave bwrap's file systems in memory without a size."""
    while "--size" in arguments:
        at = arguments.index("--size")
        arguments = arguments[:at] + arguments[at + 2 :]
    return arguments


def no_inode_limits(config: dict[str, Any], _site: Site) -> None:
    """Leave a container's file systems in memory with as many files as they may have by themselves."""
    tmpfs = config["HostConfig"]["Tmpfs"]
    for place, options in tmpfs.items():
        tmpfs[place] = re.sub(r",nr_inodes=\w+", "", options)


def host_mounted(config: dict[str, Any], site: Site) -> None:
    """Mount a directory of the host into a container, and something where an engine's socket would be."""
    bound(config, f"{site.decoy}:{site.decoy}", f"{site.decoy}:/run/docker.sock:ro")


def host_bound(arguments: list[str], site: Site) -> list[str]:
    """Do the same with bwrap."""
    decoy = str(site.decoy)
    run = ("--perms", "0755", "--dir", "/run")  # bwrap makes the directories above a mount its owner's alone
    return before_program(arguments, "--bind", decoy, decoy, *run, "--ro-bind", decoy, "/run/docker.sock")


def writable_usr(arguments: list[str], _site: Site) -> list[str]:
    """Bind /usr so that it may be written."""
    at = next(i for i in range(len(arguments)) if arguments[i : i + 3] == ["--ro-bind", "/usr", "/usr"])
    return [*arguments[:at], "--bind", *arguments[at + 1 :]]


def bound_sockets(arguments: list[str], site: Site) -> list[str]:
    """Bind the directory of the sockets, open as it is before it is sealed in a container."""
    site.spec.socket_directory.chmod(0o777)
    run = ("--perms", "0755", "--dir", "/run")
    return before_program(arguments, *run, "--bind", str(site.spec.socket_directory), SOCKET_DIRECTORY)


def plain_docker(config: dict[str, Any], _site: Site) -> None:
    """Give a container the capabilities that Docker gives by itself."""
    config["HostConfig"].pop("CapDrop")
    config["HostConfig"].pop("CapAdd")


def all_capabilities(arguments: list[str], _site: Site) -> list[str]:
    """Let bwrap keep the capability that raw sockets need, as it keeps all where nobody says otherwise."""
    return [*arguments[:1], *without("--cap-drop ALL")(arguments[1:], _site)]


def setuid_program_in_sight(config: dict[str, Any], site: Site) -> None:
    """Show a container a program that runs as root."""
    bound(config, f"{site.setuid_directory}:/opt/setuid:ro")


def kernel_file_systems(config: dict[str, Any], _site: Site) -> None:
    """Show a container the host's /sys as the host sees it."""
    bound(config, "/sys:/sys:rw")


def service_environment(config: dict[str, Any], _site: Site) -> None:
    """Give a container the service's environment."""
    config["Env"] += [f"{name}={value}" for name, value in os.environ.items() if name.startswith("TCI_")]


CONTROLS = (
    Control(
        "network of its own",
        ("interfaces", "host_ports", "abstract_sockets", "outside_addresses"),
        Off(config=host_network),
        Off(arguments=without("--unshare-net")),
    ),
    Control(
        "processes of its own",
        ("signals",),
        Off(config=host(PidMode="host")),
        Off(arguments=without("--unshare-pid")),
    ),
    Control(
        "shared memory of its own",
        ("shared_memory",),
        Off(config=host(IpcMode="host", ShmSize=None)),
        Off(arguments=without("--unshare-ipc")),
    ),
    Control(
        "name of its own",
        ("host_name",),
        Off(config=no_own_name),
        Off(arguments=without("--unshare-uts", "--hostname sandbox")),
    ),
    Control(
        "an init",
        ("being_process_1",),
        Off(config=host(Init=False)),
        Off(arguments=lambda arguments, _site: [arguments[0], "--as-pid-1", *arguments[1:]]),
    ),
    Control(
        "read-only root",
        ("system_files",),
        Off(config=host(ReadonlyRootfs=False)),
        Off(arguments=without("--remount-ro /"), launcher=(NO_DROP,)),
        note="bubblewrap: with the launcher's drop of rights, since its root is root's",
    ),
    Control(
        "read-only /usr",
        ("system_files",),
        None,
        Off(arguments=writable_usr, launcher=(NO_DROP,)),
        note="bubblewrap alone; with the launcher's drop of rights, since /usr is root's",
    ),
    Control(
        "nothing of the host mounted",
        ("host_files", "engine_sockets"),
        Off(config=host_mounted),
        Off(arguments=host_bound),
    ),
    Control(
        "sockets in a closed directory",
        ("socket_directory",),
        Off(is_sealed=False),
        Off(arguments=bound_sockets),
        note="bubblewrap mounts no directory for sockets at all",
    ),
    Control(
        "an environment of its own",
        ("service_environment",),
        Off(config=service_environment),
        Off(leaks_environment=True),
    ),
    Control(
        "no inherited descriptor",
        ("inherited_descriptors",),
        None,
        Off(leaks_descriptor=True),
        note="Docker: the engine starts the container, and the service has nothing to hand down",
    ),
    Control(
        "the launcher drops its rights",
        ("becoming_root", "capabilities", "process_1"),
        Off(launcher=(NO_DROP,)),
        Off(launcher=(NO_DROP,)),
    ),
    Control(
        "the launcher's bounding set",
        ("capabilities",),
        Off(launcher=(NO_BOUNDING,)),
        Off(launcher=(NO_BOUNDING,)),
    ),
    Control(
        "the launcher's groups",
        ("becoming_root",),
        Off(launcher=(NO_SETGROUPS,)),
        Off(launcher=(NO_SETGROUPS,), leaks_group=True),
    ),
    Control(
        "capabilities dropped",
        ("capabilities", "raw_sockets"),
        Off(config=plain_docker, launcher=(NO_DROP,)),
        Off(arguments=all_capabilities, launcher=(NO_DROP,)),
        note="with the launcher's drop of rights, which gives up every one",
    ),
    Control(
        "no new privileges",
        ("new_privileges",),
        Off(config=host(SecurityOpt=[]), launcher=(NO_NEW_PRIVS_CALL, NO_NEW_PRIVS_CHECK)),
        None,
        note="Docker: by the engine and again by the launcher; bubblewrap itself never leaves it out",
    ),
    Control(
        "no setuid program",
        ("setuid_programs",),
        Off(config=setuid_program_in_sight),
        None,
        note="bubblewrap binds everything nosuid, and can't be told otherwise",
    ),
    Control(
        "filter of system calls",
        ("new_namespaces", "kernel_doors", "others_memory", "process_modes"),
        Off(config=no_seccomp),
        Off(arguments=no_filter),
    ),
    Control(
        "masked and read-only /proc",
        ("kernel_switches",),
        Off(config=host(MaskedPaths=[], ReadonlyPaths=[]), launcher=(NO_DROP,)),
        Off(launcher=(NO_DROP,)),
        note="with the launcher's drop of rights, since the files are root's; bubblewrap has only that",
    ),
    Control(
        "read-only /sys and control groups",
        ("sys_switches", "control_groups"),
        Off(config=kernel_file_systems, launcher=(NO_DROP,)),
        Off(
            arguments=lambda arguments, _site: before_program(arguments, "--dev-bind", "/sys", "/sys"),
            launcher=(NO_DROP,),
        ),
        note="with the launcher's drop of rights, since the files are root's; bubblewrap shows no /sys",
    ),
    Control(
        "limit of memory",
        ("memory", "shared_pages"),
        Off(config=host(Memory=None, MemorySwap=None)),
        Off(limits=lambda limits: replace(limits, memory_bytes=8 * limits.memory_bytes)),
    ),
    Control(
        "limit of processes",
        ("fork_bomb", "thread_bomb"),
        Off(config=host(PidsLimit=None, Ulimits=[]), launcher=(NO_RLIMITS,)),
        Off(limits=lambda limits: replace(limits, pids=8 * limits.pids), launcher=(NO_RLIMITS,)),
        note="with the limits of each process, which may hold one of processes too",
    ),
    Control(
        "limits of each process",
        ("open_files", "large_file", "core_dumps"),
        Off(config=host(Ulimits=[]), launcher=(NO_RLIMITS,)),
        Off(launcher=(NO_RLIMITS,)),
        note="Docker: by the engine and again by the launcher",
    ),
    Control(
        "sizes of home, /tmp and /dev/shm",
        ("disk",),
        Off(config=no_sizes),
        Off(arguments=no_size_options),
    ),
    Control(
        "numbers of files",
        ("inodes",),
        Off(config=no_inode_limits),
        None,
        note="bubblewrap: as that limit is not an argument of bwrap, it is not switched off here",
    ),
    Control(
        "uploads are new files",
        ("links_of_uploads",),
        Off(launcher=(PUT_IN_PLACE,)),
        Off(launcher=(PUT_IN_PLACE,)),
    ),
    Control(
        "uploads follow no directory link",
        ("links_of_uploads",),
        Off(launcher=(FOLLOW_DIRECTORIES,)),
        Off(launcher=(FOLLOW_DIRECTORIES,)),
    ),
)
