"""Run one example with the Python SDK of the 2.x line and print what its user would see, as one line of JSON.

Run by the interpreter of that SDK's own virtual environment:
`python client_2x.py EXAMPLES_FILE EXAMPLE [--strict]`, with TOGETHER_BASE_URL and TOGETHER_API_KEY set.
`--strict` turns on the SDK's own validation of every answer against the OpenAPI types, off by default.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import together
from together import APIStatusError, Together

# The documentation's own loop, whose printed form is part of what has to stay the same.
SHOWN = "{type}: {data}"


def plain(data: Any) -> Any:
    """Give an output's data as JSON, read through the documented attributes (`data.image_png`)."""
    if isinstance(data, str):
        return data
    fields = {field.alias or name: getattr(data, name) for name, field in type(data).model_fields.items()}
    return {mime: value for mime, value in {**fields, **(data.model_extra or {})}.items() if value is not None}


def describe(response: Any) -> dict[str, Any]:
    """Give one answer of `execute` as JSON."""
    return {
        "model": type(response).__name__,
        "session_id": response.data.session_id,
        "status": response.data.status,
        "errors": response.errors,
        "outputs": [{"type": output.type, "data": plain(output.data)} for output in response.data.outputs],
    }


def describe_sessions(response: Any) -> dict[str, Any]:
    """Give an answer of `sessions.list` as JSON; the SDK has made datetimes of the three times."""
    return {
        "errors": response.errors,
        "sessions": [
            {
                "id": session.id,
                "started_at": session.started_at.isoformat(),
                "last_execute_at": session.last_execute_at.isoformat(),
                "expires_at": session.expires_at.isoformat(),
                "execute_count": session.execute_count,
            }
            for session in response.data.sessions
        ],
    }


def printed(response: Any) -> list[str]:
    """Give the lines that the documentation's loop prints."""
    lines = [f"Status: {response.data.status}"]
    lines += [SHOWN.format(type=output.type, data=output.data) for output in response.data.outputs]
    if response.errors:
        lines.append(f"Errors: {response.errors}")
    return lines


def failed(failure: APIStatusError) -> dict[str, Any]:
    """Give the exception that the SDK raised as JSON."""
    return {"type": type(failure).__name__, "status": failure.status_code, "message": str(failure)}


def arguments(step: dict[str, Any], session_id: str | None) -> dict[str, Any]:
    """Give the keyword arguments of `execute` for one step of an example."""
    chosen: dict[str, Any] = {"code": step["code"], "language": "python"}
    wanted = session_id if step.get("same_session") else step.get("session_id")
    if wanted is not None:
        chosen["session_id"] = wanted
    if "files" in step:
        chosen["files"] = step["files"]
    return chosen


def nothing_seen() -> dict[str, Any]:
    """Give the report before the first call."""
    return {"version": together.__version__, "calls": [], "printed": [], "sessions": None, "error": None}


def run(steps: list[dict[str, Any]], *, strict: bool) -> dict[str, Any]:
    """Run the example's calls in order."""
    client = Together(_strict_response_validation=True) if strict else Together()
    seen = nothing_seen()
    session_id: str | None = None
    try:
        for step in steps:
            if step.get("list_sessions"):
                seen["sessions"] = describe_sessions(client.code_interpreter.sessions.list())
                continue
            response: Any = client.code_interpreter.execute(**arguments(step, session_id))
            session_id = response.data.session_id
            seen["calls"].append(describe(response))
            seen["printed"] += printed(response)
    except APIStatusError as failure:
        seen["error"] = failed(failure)
    return seen


def main() -> None:
    """Entry point."""
    steps = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))[sys.argv[2]]
    sys.stdout.write(json.dumps(run(steps, strict="--strict" in sys.argv[3:])) + "\n")


if __name__ == "__main__":
    main()
