"""Run one example with the Python SDK of the 1.x line and print what its user would see, as one line of JSON.

Run by the interpreter of that SDK's own virtual environment: `python client_1x.py EXAMPLES_FILE EXAMPLE`,
with TOGETHER_BASE_URL and TOGETHER_API_KEY set.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import together
from together import Together
from together.error import TogetherException

# The documentation's own loop, whose printed form is part of what has to stay the same.
SHOWN = "{type}: {data}"


def run(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Run the example's calls in order."""
    client = Together()
    code_interpreter = client.code_interpreter
    seen: dict[str, Any] = {
        "version": together.version,
        "calls": [],
        "printed": [],
        "sessions": None,
        "error": None,
    }
    session_id: str | None = None
    try:
        for step in steps:
            wanted = session_id if step.get("same_session") else step.get("session_id")
            response = code_interpreter.run(
                code=step["code"], language="python", session_id=wanted, files=step.get("files")
            )
            session_id = response.data.session_id
            seen["calls"].append(
                {
                    "session_id": response.data.session_id,
                    "status": response.data.status,
                    "errors": response.data.errors,
                    "outputs": [{"type": output.type, "data": output.data} for output in response.data.outputs],
                }
            )
            seen["printed"].append(f"Status: {response.data.status}")
            for output in response.data.outputs:
                seen["printed"].append(SHOWN.format(type=output.type, data=output.data))
            if response.data.errors:
                seen["printed"].append(f"Errors: {response.data.errors}")
    except TogetherException as failure:
        seen["error"] = {
            "type": type(failure).__name__,
            "status": failure.http_status,
            "message": str(failure),
        }
    return seen


def main() -> None:
    """Entry point."""
    steps = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))[sys.argv[2]]
    sys.stdout.write(json.dumps(run(steps)) + "\n")


if __name__ == "__main__":
    main()
