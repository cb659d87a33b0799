"""The single controls of the jail, how each is switched off, and the attacks that are open without it.

Nothing in the product can switch a control off: `switched_off.py` does it, by changing what the drivers are about to
send to the engine or to bwrap. A control is removed for as little as shows it: attacks look, and change nothing.
"""

from dataclasses import dataclass, replace

from tests.hostile.removals import (
    FOLLOW_DIRECTORIES,
    NO_BOUNDING,
    NO_DROP,
    NO_NEW_PRIVS_CALL,
    NO_NEW_PRIVS_CHECK,
    NO_RLIMITS,
    NO_SETGROUPS,
    PUT_IN_PLACE,
    Off,
    all_capabilities,
    before_program,
    bound_sockets,
    host,
    host_bound,
    host_mounted,
    host_network,
    kernel_file_systems,
    no_filter,
    no_inode_limits,
    no_own_name,
    no_seccomp,
    no_size_options,
    no_sizes,
    plain_docker,
    service_environment,
    setuid_program_in_sight,
    without,
    writable_usr,
)


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
        Off(is_sealed=False),
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
