"""The wire of usage: what may be asked, and the answer."""

import datetime as dt
import re
from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic.config import JsonDict
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from tci.api.cursor import cursor_of, place_of
from tci.api.models import Moment
from tci.errors import InvalidRequest
from tci.storage.usage_store import DayUsage, Period, Position, SessionPage, in_dollars, total

MAX_DAYS = 366
"""Most days that one request may ask for: its work has a bound."""

MAX_PAGE = 1000

FULL_DATE = re.compile(r"2\d{3}-\d\d-\d\d", re.ASCII)
"""RFC 3339's, of years that can be meant."""

EXAMPLE: JsonDict = {
    "data": {
        "from": "2026-11-01",
        "to": "2026-11-30",
        "totals": {"sessions": 2, "amount_usd": "0.06"},
        "days": [{"date": "2026-11-07", "account": "default", "sessions": 2, "amount_usd": "0.06"}],
        "sessions": [
            {
                "id": "ses_CM42NfvvzCab123",
                "account": "default",
                "started_at": "2026-11-07T09:30:00.000000Z",
                "ended_at": "2026-11-07T10:30:00.123456Z",
                "end_reason": "expired",
                "execute_count": 12,
                "amount_usd": "0.03",
                "waived": False,
            }
        ],
        "next_cursor": "MjAyNi0xMS0wN1QwOTozMDowMCswMDowMCBzZXNfQ000Mk5mdnZ6Q2FiMTIz",
    },
    "errors": None,
}
"""An answer, for the document."""


def _full_date(value: str) -> dt.date:
    """Read a date, and nothing that Pydantic would take for one besides: a number, a date with a time."""
    try:
        date = dt.date.fromisoformat(value if FULL_DATE.fullmatch(value) else "")
    except ValueError:
        raise PydanticCustomError("full_date", "must be a date as 2026-11-30") from None
    return date


FullDate = Annotated[dt.date | SkipJsonSchema[None], BeforeValidator(_full_date)]
Amount = Annotated[Decimal, PlainSerializer(in_dollars, return_type=str)]
"""US dollars, exactly."""


class UsageRequest(BaseModel):
    """The query of a request for usage."""

    first: FullDate = Field(
        None,
        alias="from",
        description="First day, of UTC. Left out: the first of the month of `to`.",
        examples=["2026-11-01"],
    )
    last: FullDate = Field(
        None,
        alias="to",
        description=f"Last day, of UTC, at most {MAX_DAYS} days from `from` on. Left out: today.",
        examples=["2026-11-30"],
    )
    account: str | SkipJsonSchema[None] = Field(
        None, description="For a key that sees every account: the one to look at. Left out: all.", examples=["default"]
    )
    limit: int = Field(100, ge=1, le=MAX_PAGE, description="Most sessions in this answer.")
    cursor: str | SkipJsonSchema[None] = Field(
        None, description="The `next_cursor` of the answer before; repeat the rest of the query with it."
    )

    @property
    def period(self) -> Period:
        """The days that are asked for; raises InvalidRequest."""
        last = self.last or dt.datetime.now(dt.UTC).date()
        period = Period(self.first or last.replace(day=1), last)
        if period.first > period.last:
            raise InvalidRequest("from: must not be after to", param="from")
        if (period.last - period.first).days >= MAX_DAYS:
            raise InvalidRequest(f"from: must be less than {MAX_DAYS} days before to", param="from")
        return period

    @property
    def after(self) -> Position | None:
        """Where the page begins; raises InvalidRequest."""
        return None if self.cursor is None else place_of(self.cursor)


class TotalsModel(BaseModel):
    """All that was billed in these days."""

    sessions: int
    amount_usd: Amount


class DayModel(BaseModel):
    """A day of UTC on which an account was billed."""

    date: dt.date
    account: str
    sessions: int
    amount_usd: Amount


class SessionUsageModel(BaseModel):
    """A session and what it costs; one that is waived, because the service failed it, costs and counts nothing."""

    id: str
    account: str
    started_at: Moment
    ended_at: Moment | None
    end_reason: str | None
    execute_count: int
    amount_usd: Amount
    waived: bool


class UsageData(BaseModel):
    """Usage of these days: in all, by day (oldest first), by session (newest first, by pages)."""

    first: dt.date = Field(serialization_alias="from")
    last: dt.date = Field(serialization_alias="to")
    totals: TotalsModel
    days: list[DayModel]
    sessions: list[SessionUsageModel]
    next_cursor: str | None = Field(description="Where the next page of sessions begins; null: there is none.")


class UsageEnvelope(BaseModel):
    """The envelope of usage."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    data: UsageData
    errors: None = None


def usage_envelope(period: Period, days: list[DayUsage], page: SessionPage) -> UsageEnvelope:
    """Return usage as it goes on the wire."""
    data = {
        "first": period.first,
        "last": period.last,
        "totals": total(days),
        "days": days,
        "sessions": page.sessions,
        "next_cursor": cursor_of(page.next),
    }
    return UsageEnvelope(data=UsageData.model_validate(data, from_attributes=True))
