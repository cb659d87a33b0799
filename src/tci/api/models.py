"""The wire, as Pydantic models: what is documented, nothing of what is inside."""

import base64
import binascii
import datetime as dt
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    model_validator,
)

from tci.api.answer import Body
from tci.errors import ServiceError
from tci.kernel.names import fault_of
from tci.sessions.session import Execution, Verdict
from tci.storage.session_store import Session

MAX_FILES = 10_000
"""Most files of one request; more are better sent as an archive."""


def _rfc3339(moment: dt.datetime) -> str:
    # Not strftime, which takes three times as long: a list may hold thousands of moments.
    return f"{moment.astimezone(dt.UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


Moment = Annotated[
    dt.datetime,
    PlainSerializer(_rfc3339, return_type=str),
]
"""RFC 3339 in UTC, with `Z` and microseconds."""


def _is_inside(name: str) -> str:
    """Refuse a name that could leave the working directory or that no file can have."""
    if fault := fault_of(name):
        raise ValueError(fault)
    return name


class File(BaseModel):
    """A file to write into the session's working directory before the code runs."""

    name: Annotated[str, AfterValidator(_is_inside)] = Field(
        description="Relative name; directories are made.", examples=["myscript.py"]
    )
    encoding: Literal["string", "base64"] = Field(description="How `content` is written.")
    content: str = Field(description="The file's text, or its bytes in base64.", examples=["print('hi')"])
    _decoded: bytes = PrivateAttr(b"")

    @model_validator(mode="after")
    def _decodes(self) -> Self:
        self._decoded = self._decode()
        return self

    @property
    def decoded(self) -> bytes:
        """The file's bytes."""
        return self._decoded

    def _decode(self) -> bytes:
        if self.encoding == "string":
            try:
                return self.content.encode()
            except UnicodeEncodeError:
                message = "content is not valid Unicode"
                raise ValueError(message) from None
        try:
            return base64.b64decode("".join(self.content.split()), validate=True)
        except (binascii.Error, ValueError):
            message = "content is not valid base64"
            raise ValueError(message) from None


class ExecuteRequest(BaseModel):
    """A request to run code. Unknown fields are ignored."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"language": "python", "code": "print('Hello, world!')"}]}
    )

    code: str = Field(description="Python source; may be empty.")
    language: Literal["python"] = Field("python", description="Only Python is run.")
    session_id: str | None = Field(None, description="A session to go on with; absent or null opens a new one.")
    timeout: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        strict=True,
        description="Time limit of this execution in seconds (an extension).",
    )
    # At the first bad one the rest is not looked at: a body can hold a million, each with a message of its own.
    files: Annotated[list[File], Field(max_length=MAX_FILES, fail_fast=True)] | None = Field(
        None, description="Files to write before the code runs."
    )
    stream: bool | None = Field(
        None, description="Send outputs as they come, as `text/event-stream`; so does that `Accept` (an extension)."
    )

    def decoded_files(self) -> dict[str, bytes]:
        """Return the files' bytes by name; of two with the same name the later counts."""
        return {file.name: file.decoded for file in self.files or []}


WireStatus = Literal["completed", "success"]


class OutputModel(BaseModel):
    """One output. `data` is text for streams and errors, an object by MIME type for displays."""

    type: Literal["stdout", "stderr", "error", "display_data", "execute_result"]
    data: str | dict[str, Any]


class ExecutionModel(BaseModel):
    """What the service saw of the run (an extension)."""

    verdict: Verdict
    duration_ms: float
    cpu_ms: float
    peak_memory_bytes: int
    execute_count: int
    expires_at: Moment


class ExecuteData(BaseModel):
    """The answer to an execution."""

    session_id: str
    outputs: list[OutputModel]
    status: WireStatus
    execution: ExecutionModel


class ExecuteEnvelope(BaseModel):
    """The documented envelope of an execution; `errors` is always null in it."""

    data: ExecuteData
    errors: None = None


def _milliseconds(length: dt.timedelta) -> float:
    return round(length.total_seconds() * 1000, 3)


def extension_of(execution: Execution) -> ExecutionModel:
    """Return what the service saw of a run."""
    return ExecutionModel(
        verdict=execution.verdict,
        duration_ms=_milliseconds(execution.duration),
        cpu_ms=_milliseconds(execution.cpu),
        peak_memory_bytes=execution.peak_memory_bytes,
        execute_count=execution.execute_count,
        expires_at=execution.expires_at,
    )


def session_event(session: Session) -> dict[str, str]:
    """Return what a stream tells first."""
    return {"session_id": session.id, "expires_at": _rfc3339(session.expires_at)}


def execute_envelope(execution: Execution, *, status: WireStatus) -> Body:
    """Return an execution as it goes on the wire, as JSON."""
    extension = extension_of(execution)
    before = orjson.dumps({"data": {"session_id": execution.session_id}})[:-2] + b',"outputs":'
    after = orjson.dumps({"data": {"status": status, "execution": extension.model_dump()}, "errors": None})
    # Outputs come clean from `tci.kernel.outputs`; to validate megabytes of them again would cost more than the run.
    return (before, *execution.outputs.parts, b"," + after.removeprefix(b'{"data":{'))


def late_failure(error: ServiceError, session_id: str | None, *, status: WireStatus) -> Body:
    """Return a failure that came when status 200 was sent already: an `error` output, and no verdict.

    So a training loop that reads `execution.verdict` can tell it from a wrong answer.
    """
    outputs = [{"type": "error", "data": f"{type(error).__name__}: {error}"}]
    data = {"session_id": session_id or "", "outputs": outputs, "status": status}
    extension = {"verdict": None, "failure": {"code": error.code, "message": str(error)}}
    return (orjson.dumps({"data": {**data, "execution": extension}, "errors": None}),)
