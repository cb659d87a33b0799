"""The wire of the overview."""

import datetime as dt

from pydantic import BaseModel

from tci.api.models import Moment
from tci.api.usage import Amount
from tci.sessions.figures import Overview


class SessionsModel(BaseModel):
    """Live sessions, and how many there is room for; null: the database is away."""

    live: int | None
    capacity: int


class PoolModel(BaseModel):
    """The warm pool: ready now, how many are to be, and counts since Redis was last emptied; null: it is away."""

    level: int | None
    target: int | None
    hits: int | None
    misses: int | None
    filled: int | None
    failed: int | None


class ExecutionsModel(BaseModel):
    """Executions since the service started: by verdict, and how many it failed."""

    total: dict[str, int]
    failed: int


class LatencyModel(BaseModel):
    """What so many in a hundred executions of the last five minutes needed at most, in ms; null: there were none."""

    p50: float | None
    p95: float | None
    p99: float | None


class SpendModel(BaseModel):
    """What an account was billed this month of UTC."""

    account: str
    sessions: int
    amount_usd: Amount


class RefusalsModel(BaseModel):
    """What was refused since the service started: requests over a quota, ways out of sandboxes."""

    quota: int
    egress: int


class OverviewData(BaseModel):
    """How the service does; null: the store that knows it is away."""

    now: Moment
    sessions: SessionsModel
    pool: PoolModel
    executions: ExecutionsModel
    latency_ms: LatencyModel
    spend: list[SpendModel] | None
    refusals: RefusalsModel


class OverviewEnvelope(BaseModel):
    """The envelope of the overview."""

    data: OverviewData
    errors: None = None


def overview_envelope(overview: Overview, *, now: dt.datetime) -> OverviewEnvelope:
    """Return the overview as it goes on the wire."""
    shared = overview.shared
    latency = {
        name: None if seconds is None else round(seconds * 1000, 1) for name, seconds in overview.latency.items()
    }
    data = {
        "now": now,
        "sessions": {"live": shared.live, "capacity": shared.capacity},
        "pool": shared.pool or dict.fromkeys(PoolModel.model_fields),
        "executions": {"total": overview.verdicts, "failed": overview.failed},
        "latency_ms": latency,
        "spend": shared.spend,
        "refusals": {"quota": overview.quota_refusals, "egress": overview.egress_refusals},
    }
    return OverviewEnvelope(data=OverviewData.model_validate(data, from_attributes=True))
