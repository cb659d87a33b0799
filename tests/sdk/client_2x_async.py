"""Run one example with the asynchronous client of the Python SDK's 2.x line; otherwise as `client_2x.py`."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from client_2x import arguments, describe, describe_sessions, failed, nothing_seen, printed
from together import APIStatusError, AsyncTogether


async def run(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Run the example's calls in order."""
    seen = nothing_seen()
    session_id: str | None = None
    async with AsyncTogether() as client:
        try:
            for step in steps:
                if step.get("list_sessions"):
                    seen["sessions"] = describe_sessions(await client.code_interpreter.sessions.list())
                    continue
                response: Any = await client.code_interpreter.execute(**arguments(step, session_id))
                session_id = response.data.session_id
                seen["calls"].append(describe(response))
                seen["printed"] += printed(response)
        except APIStatusError as failure:
            seen["error"] = failed(failure)
    return seen


def main() -> None:
    """Entry point."""
    steps = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))[sys.argv[2]]
    sys.stdout.write(json.dumps(asyncio.run(run(steps))) + "\n")


if __name__ == "__main__":
    main()
