"""What the tools answer: content that an agent reads, and beside it the same facts as data for programs."""

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from mcp.types import CallToolResult, ContentBlock, TextContent
from pydantic import BaseModel, ConfigDict

from tci.api.file_models import FileModel
from tci.api.models import Moment
from tci.errors import ServiceError
from tci.kernel.outputs import Output, OutputType
from tci.mcp.room import MAX_BLOCKS, Room
from tci.sessions.session import Execution, Verdict

IMAGES = ("image/png", "image/jpeg", "image/webp", "image/gif")
"""What agents can see; of several pictures of one display they are shown the first of these."""

MAX_TYPES = 8
"""Most media types that are told of one output."""

TEXTS = ("text/markdown", "text/plain", "text/html")

NO_ERRORS = {Verdict.OK, Verdict.OUTPUT_LIMIT}


class Result(BaseModel):
    """Data of a result."""

    model_config = ConfigDict(from_attributes=True)


class OutputTypes(Result):
    """An output, without what it holds: that is the content."""

    type: Literal["stdout", "stderr", "error", "display_data", "execute_result"]
    mime_types: list[str] | None = None


class ExecutionResult(Result):
    """Data of run_code."""

    session_id: str
    verdict: Verdict
    duration_ms: float
    execute_count: int
    expires_at: Moment
    outputs: list[OutputTypes]


class SessionResult(Result):
    """A session of list_sessions."""

    id: str
    started_at: Moment
    last_execute_at: Moment
    expires_at: Moment
    execute_count: int


class SessionsResult(Result):
    """Data of list_sessions."""

    sessions: list[SessionResult]


class ReadResult(Result):
    """Data of read_file: the part that was read, and whether the file ends with it."""

    file: FileModel
    start: int
    length: int
    is_complete: bool


class EndResult(Result):
    """Data of end_session."""

    session_id: str
    ended: bool


def executed(execution: Execution) -> CallToolResult:
    """Return what a run showed. Code that raised is an error of the tool, so that the agent looks at the traceback."""
    outputs = execution.outputs.items()
    has_error = any(output.type is OutputType.ERROR for output in outputs)
    left_out = max(0, len(outputs) - MAX_BLOCKS)
    outputs = outputs[: MAX_BLOCKS // 2] + outputs[MAX_BLOCKS // 2 + left_out :]
    data = ExecutionResult(
        session_id=execution.session_id,
        verdict=execution.verdict,
        duration_ms=round(execution.duration / dt.timedelta(milliseconds=1), 3),
        execute_count=execution.execute_count,
        expires_at=execution.expires_at,
        outputs=[_types(output) for output in outputs],
    )
    # Agents are shown the content alone, and need the id to go on.
    last = f"[session {execution.session_id}, verdict {execution.verdict}]"
    if left_out:
        last = f"[{left_out} outputs in the middle left out]\n{last}"
    return CallToolResult(
        content=[*_content(outputs), TextContent(text=last)],
        structured_content=data.model_dump(mode="json"),
        is_error=has_error or execution.verdict not in NO_ERRORS,
    )


def told(text: str, data: BaseModel) -> CallToolResult:
    """Return a sentence or a table, and its data."""
    return CallToolResult(content=[TextContent(text=text)], structured_content=data.model_dump(mode="json"))


def refused(error: ServiceError) -> CallToolResult:
    """Return a refusal that the agent can do something about."""
    data = {"failure": {"code": error.code, "message": str(error), "retry_after": error.retry_after}}
    return CallToolResult(content=[TextContent(text=f"{error.code}: {error}")], structured_content=data, is_error=True)


def _types(output: Output) -> OutputTypes:
    mime_types = list(output.data)[:MAX_TYPES] if isinstance(output.data, dict) else None
    return OutputTypes(type=output.type.value, mime_types=mime_types)


def _content(outputs: Sequence[Output]) -> Iterator[ContentBlock]:
    room = Room()
    for output in outputs:
        if isinstance(output.data, str):
            yield room.text(output.data)
        else:
            yield _display(output.data, room)


def _display(bundle: dict[str, Any], room: Room) -> ContentBlock:
    for mime in IMAGES:
        if isinstance(bundle.get(mime), str):
            return room.image("".join(bundle[mime].split()), mime)
    for mime in TEXTS:
        if isinstance(bundle.get(mime), str):
            return room.text(bundle[mime])
    return room.text(f"[{', '.join(bundle)}]")
