"""Runs the long commands that prepare sandboxes, and passes on what they say while they say it."""

import asyncio
from collections.abc import Mapping, Sequence

from tci.sandbox.driver import Progress


async def run(command: Sequence[str], progress: Progress, *, environment: Mapping[str, str] | None = None) -> int:
    """Run a command, give its output line by line, and return its exit status."""
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert process.stdout is not None  # noqa: S101 (for the type checker: it is a pipe)
    async for line in process.stdout:
        progress(line.decode(errors="replace").rstrip())
    return await process.wait()
