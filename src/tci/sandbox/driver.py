"""The contract of a sandbox driver: four verbs. `tests/sandbox/test_driver_contract.py` runs on every driver."""

import asyncio
import datetime as dt
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Progress = Callable[[str], None]
"""Is told, line by line, how far a long step is."""

SANDBOX_UID = 42000
"""The unix user of the code, and its group.

Not 1000: where uids are not remapped this is a uid of the host, and 1000 is most often the operator's own.
"""

HOME = "/home/user"
"""The working directory of a session."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a sandbox may use."""

    memory_bytes: int
    cpus: float
    pids: int
    disk_bytes: int
    """Size of each file system that code may write, and of the largest file."""
    inodes: int
    """Files and directories on each of them."""
    shm_bytes: int
    open_files: int
    output_bytes: int
    """Largest item of output that the sandbox sends whole; not a control of the jail, which the code could undo."""


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """What to launch. The same for every driver; how it is confined is the driver's business."""

    sandbox_id: str
    deployment: str
    socket_directory: Path
    kernel_key: str
    limits: Limits
    preload: tuple[str, ...] = ()
    egress_directory: Path | None = None
    """What holds the gate to the network, and `ca.pem` where the operator has certificates; None: no way out.

    It lies in the socket directory, is called `egress`, and is made by the service before the launch.
    """
    has_ca: bool = False
    pip_index_url: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a sandbox has used since its start, all its processes together, as counted outside."""

    cpu: dt.timedelta
    peak_memory_bytes: int


@dataclass(frozen=True, slots=True)
class SandboxStatus:
    """What is seen of a sandbox from outside."""

    is_running: bool
    exit_code: int | None = None
    is_out_of_memory: bool = False


async def finish(work: Coroutine[Any, Any, None]) -> None:
    """Let work come to its end although it is cancelled, and only then raise the cancellation.

    A launch that is cut in the middle leaves what nobody knows of: a request that the engine still carries out, a
    process that was not written down.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


class SandboxDriver(ABC):
    """Starts and stops sandboxes. Jupyter calls such a thing a provisioner, JupyterHub a spawner."""

    name: str

    @abstractmethod
    async def launch(self, spec: SandboxSpec) -> None:
        """Start a sandbox whose kernel will listen in the spec's socket directory.

        On return the sandbox runs; its kernel may need a moment more. On error nothing is left behind,
        and SandboxFailed says why. Called by SessionService once for each sandbox id.
        """

    async def seal(self, spec: SandboxSpec) -> None:  # noqa: B027 (most drivers have nothing to seal)
        """Close what was open for the launch. Called once the kernel has answered, before a caller's code is sent."""

    @abstractmethod
    async def inspect(self, sandbox_id: str) -> SandboxStatus | None:
        """Return what is seen of a sandbox, or None if there is none of this id.

        A sandbox that ended by itself is still seen until it is destroyed.
        """

    @abstractmethod
    async def usage(self, sandbox_id: str) -> Usage | None:
        """Return what a sandbox has used, or None if it is gone. Called twice an execution, so it must be cheap."""

    @abstractmethod
    async def destroy(self, sandbox_id: str) -> None:
        """End a sandbox and all that runs in it, and remove what it left, its socket directory included.

        On return nothing of it runs. Does nothing if there is none of this id; may be called twice at once.
        """

    async def answers(self) -> bool:
        """Whether what the driver commands is there, in a moment or two; one that commands nothing always can."""
        return True

    @abstractmethod
    async def list_sandboxes(self) -> set[str]:
        """Return the ids of this deployment's sandboxes, running or ended; never another deployment's."""
