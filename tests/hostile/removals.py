"""How controls of the jail are taken away: changes of what the drivers are about to send to the engine or to bwrap."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
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
    """Whether `seal` does its work: Docker's directory of sockets, bubblewrap's numbers of files."""
    leaks_environment: bool = False
    leaks_descriptor: bool = False
    leaks_group: bool = False
    limits: Callable[[Limits], Limits] | None = None
    """bubblewrap: returns other limits of the control group."""


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
FOLLOW_DIRECTORIES = ("files.py", r"DIRECTORY \| os\.O_NOFOLLOW", "DIRECTORY")


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
    """Let bwrap keep every capability, as it does for root where nobody says otherwise."""
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
