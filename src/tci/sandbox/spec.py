"""From the operator's settings to what is launched: the same for a session and for `tci doctor`."""

import secrets
from pathlib import Path

from tci.sandbox.driver import Limits, SandboxSpec
from tci.settings import Settings


def new_spec(
    settings: Settings,
    *,
    sandbox_id: str,
    deployment: str,
    egress_directory: Path | None,
    has_ca: bool,
    limits: Limits | None = None,
) -> SandboxSpec:
    """Return a sandbox with a key of its own; `has_ca` is whether egress directories hold certificates.

    `limits`: the session's own; None: the operator's.
    """
    return SandboxSpec(
        sandbox_id=sandbox_id,
        deployment=deployment,
        socket_directory=settings.run_dir / sandbox_id,
        kernel_key=secrets.token_hex(32),
        limits=limits or operator_limits(settings),
        preload=settings.preload,
        egress_directory=egress_directory,
        has_ca=egress_directory is not None and has_ca,
        pip_index_url=settings.pip_index_url,
    )


def operator_limits(settings: Settings) -> Limits:
    """Return what a sandbox may use by the operator's settings."""
    return Limits(
        memory_bytes=settings.sandbox_memory_bytes,
        cpus=settings.sandbox_cpus,
        pids=settings.sandbox_pids,
        disk_bytes=settings.sandbox_disk_bytes,
        inodes=settings.sandbox_inodes,
        shm_bytes=settings.sandbox_shm_bytes,
        open_files=settings.sandbox_open_files,
        output_bytes=settings.max_output_bytes,
    )
