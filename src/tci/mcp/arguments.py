"""What the tools take, as Pydantic models: an agent reads their descriptions."""

import base64
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tci.api.models import File

MAX_READ_BYTES = 512 * 1024
"""Most of a file that one call reads; in base64 it must fit into an answer."""

READ_BYTES = 256 * 1024

SessionId = Annotated[str, Field(description="The session's id, as run_code tells it.", examples=["ses_..."])]
Path = Annotated[str, Field(description="Name in the session's working directory.", examples=["data/table.csv"])]


class Arguments(BaseModel):
    """Arguments of a tool; an unknown one is a misunderstanding that the agent should hear of."""

    model_config = ConfigDict(extra="forbid")


class TextFile(File):
    """A file whose content is text, unless it says else."""

    encoding: Literal["string", "base64"] = Field("string", description="How `content` is written.")


class RunCode(Arguments):
    """Arguments of run_code."""

    code: str = Field(description="Python source. `!command` runs a shell command, top-level `await` works.")
    session_id: str | None = Field(
        None, description="Go on in this session, with its variables and files. Leave it out to open a new one."
    )
    files: list[TextFile] | None = Field(None, description="Files to write before the code runs.")
    timeout: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Time limit of this execution, in seconds."
    )

    def decoded_files(self) -> dict[str, bytes]:
        """Return the files' bytes by name."""
        return {file.name: file.decoded for file in self.files or []}


class ListSessions(Arguments):
    """Arguments of list_sessions: none."""


class EndSession(Arguments):
    """Arguments of end_session."""

    session_id: SessionId


class ListFiles(Arguments):
    """Arguments of list_files."""

    session_id: SessionId


class ReadFile(Arguments):
    """Arguments of read_file."""

    session_id: SessionId
    path: Path
    start: int = Field(0, ge=0, description="Byte to begin at.")
    length: int = Field(READ_BYTES, ge=1, le=MAX_READ_BYTES, description="Most bytes to read.")


class WriteFile(Arguments):
    """Arguments of write_file."""

    session_id: SessionId
    path: Path
    content: str = Field(description="The file's text, or its bytes in base64.")
    encoding: Literal["string", "base64"] = Field("string", description="How `content` is written.")

    @model_validator(mode="after")
    def _decodes(self) -> Self:
        self.decoded()
        return self

    def decoded(self) -> bytes:
        """Return the file's bytes."""
        if self.encoding == "base64":
            return base64.b64decode("".join(self.content.split()), validate=True)
        return self.content.encode()
