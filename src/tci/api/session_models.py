"""The wire of sessions: how one is opened, shown, listed, interrupted and ended."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.config import JsonDict
from pydantic.json_schema import SkipJsonSchema

from tci.api.cursor import cursor_of, place_of
from tci.api.models import Moment
from tci.errors import InvalidRequest
from tci.sessions.session import Terms
from tci.settings import MIB, EgressPolicy, Settings
from tci.storage.session_store import LivePage, Session
from tci.storage.usage_store import Position

LEAST_MEMORY_BYTES = 128 * MIB
"""As for the operator: less than a kernel needs by itself."""

LEAST_CPUS = 0.1
MAX_ENTRIES = 16
MAX_PAGE = 1000

NAME = r"^[A-Za-z0-9_.-]{1,64}$"
"""Names of metadata: what a query can carry without being escaped."""

ID = "ses_CM42NfvvzCab123defghi"

SESSION_EXAMPLE: JsonDict = {
    "id": ID,
    "started_at": "2026-11-27T09:30:00.000000Z",
    "last_execute_at": "2026-11-27T09:30:00.000000Z",
    "expires_at": "2026-11-27T09:40:00.000000Z",
    "execute_count": 0,
    "account": "default",
    "egress": "none",
    "metadata": {"job": "train-7"},
    "limits": {"memory_bytes": 536870912, "cpus": 0.5},
    "state": "live",
}


def _example(data: JsonDict) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [{"data": data, "errors": None}]})


def _storable(text: str) -> str:
    if "\0" in text:  # which PostgreSQL refuses
        message = "must not contain NUL"
        raise ValueError(message)
    return text


Name = Annotated[str, Field(pattern=NAME)]
Value = Annotated[str, Field(max_length=512), AfterValidator(_storable)]
Metadata = Annotated[dict[Name, Value], Field(max_length=MAX_ENTRIES)]


class LimitsRequest(BaseModel):
    """What a session may use, where that is less than the operator's limits."""

    memory_bytes: int | None = Field(
        None, ge=LEAST_MEMORY_BYTES, strict=True, description="Memory, files in it included; at most the operator's."
    )
    cpus: float | None = Field(
        None, ge=LEAST_CPUS, allow_inf_nan=False, strict=True, description="Processors; at most the operator's."
    )


class OpenRequest(BaseModel):
    """A request to open a session before there is code to run. Unknown fields are ignored."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "ttl_seconds": 600,
                    "egress": "none",
                    "limits": {"memory_bytes": 536870912, "cpus": 0.5},
                    "metadata": {"job": "train-7"},
                }
            ]
        }
    )

    ttl_seconds: int | None = Field(
        None, ge=1, strict=True, description="Its life from its start; at most, and by default, the operator's."
    )
    egress: EgressPolicy | None = Field(
        None, description="What its code may reach; at most, and by default, what service and key allow."
    )
    limits: LimitsRequest | None = Field(None, description="What it may use; by default the operator's limits.")
    metadata: Metadata | None = Field(None, description="Whatever is to be found on it later; names as `train-7.a`.")

    def terms(self) -> Terms:
        """Return what is asked for."""
        limits = self.limits or LimitsRequest(memory_bytes=None, cpus=None)
        return Terms(
            ttl_seconds=self.ttl_seconds,
            egress=self.egress,
            memory_bytes=limits.memory_bytes,
            cpus=limits.cpus,
            metadata=self.metadata or {},
        )


# Not SkipJsonSchema: its failures would name `limit.int`.
Limit = Annotated[
    int | None,
    Field(ge=1, le=MAX_PAGE),
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MAX_PAGE}),
]


class SessionsRequest(BaseModel):
    """The query of a request for a list of sessions."""

    limit: Limit = Field(None, description="Most sessions in this answer. Left out: all.")
    cursor: str | SkipJsonSchema[None] = Field(
        None, description="The `next_cursor` of the answer before; repeat the rest of the query with it."
    )
    account: str | SkipJsonSchema[None] = Field(
        None, description="For a key that sees every account: the one to look at. Left out: all.", examples=["default"]
    )
    metadata: list[str] = Field(
        [],
        max_length=MAX_ENTRIES,
        description="Only sessions with this metadata, as `NAME:VALUE`; may be repeated.",
        examples=[["job:train-7"]],
    )

    @property
    def after(self) -> Position | None:
        """Where the page begins; raises InvalidRequest."""
        return None if self.cursor is None else place_of(self.cursor)

    @property
    def filters(self) -> list[tuple[str, str]]:
        """Metadata that sessions must have; raises InvalidRequest."""
        pairs = [entry.partition(":") for entry in self.metadata]
        if not all(colon and re.fullmatch(NAME, name) and "\0" not in value for name, colon, value in pairs):
            raise InvalidRequest("metadata: must be NAME:VALUE", param="metadata")
        return [(name, value) for name, _, value in pairs]


class LimitsModel(BaseModel):
    """What a session may use."""

    memory_bytes: int
    cpus: float


class SessionModel(BaseModel):
    """A live session. The first five are the documented ones."""

    id: str
    started_at: Moment
    last_execute_at: Moment
    expires_at: Moment
    execute_count: int
    account: str
    egress: EgressPolicy
    metadata: dict[str, str]
    limits: LimitsModel
    state: Literal["live"]


class SessionList(BaseModel):
    """Live sessions, newest first."""

    sessions: list[SessionModel]
    next_cursor: str | None = Field(
        None, description="Only where a `limit` was asked for: where the next page begins; null: there is none."
    )


class SessionsEnvelope(BaseModel):
    """The documented envelope of a list of sessions."""

    model_config = _example({"sessions": [SESSION_EXAMPLE]})

    data: SessionList
    errors: None = None


class SessionData(BaseModel):
    """One session."""

    session: SessionModel


class SessionEnvelope(BaseModel):
    """The envelope of one session."""

    model_config = _example({"session": SESSION_EXAMPLE})

    data: SessionData
    errors: None = None


class EndedData(BaseModel):
    """What came of an end."""

    session_id: str
    ended: Literal[True]


class EndedEnvelope(BaseModel):
    """The envelope of an end."""

    model_config = _example({"session_id": ID, "ended": True})

    data: EndedData
    errors: None = None


class InterruptedData(BaseModel):
    """What came of an interrupt."""

    session_id: str
    interrupted: bool = Field(description="Whether anything ran.")


class InterruptedEnvelope(BaseModel):
    """The envelope of an interrupt."""

    model_config = _example({"session_id": ID, "interrupted": True})

    data: InterruptedData
    errors: None = None


def session_model(session: Session, settings: Settings) -> SessionModel:
    """Return a session as it goes on the wire."""
    return SessionModel(
        id=session.id,
        started_at=session.started_at,
        last_execute_at=session.last_execute_at,
        expires_at=session.expires_at,
        execute_count=session.execute_count,
        account=session.account,
        egress=session.egress,
        metadata=dict(session.metadata),
        limits=LimitsModel(
            memory_bytes=session.memory_bytes or settings.sandbox_memory_bytes,
            cpus=session.cpus or settings.sandbox_cpus,
        ),
        state="live",
    )


def session_envelope(session: Session, settings: Settings) -> SessionEnvelope:
    """Return one session in its envelope."""
    return SessionEnvelope(data=SessionData(session=session_model(session, settings)))


def sessions_envelope(page: LivePage, settings: Settings, *, is_paged: bool) -> SessionsEnvelope:
    """Return sessions in their envelope; without pages it is the documented one, and has no cursor."""
    models = [session_model(session, settings) for session in page.sessions]
    listed = SessionList(sessions=models)
    if is_paged:
        listed = SessionList(sessions=models, next_cursor=cursor_of(page.next))
    return SessionsEnvelope(data=listed, errors=None)
