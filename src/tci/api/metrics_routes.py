"""What operators look at: metrics for Prometheus, and an overview for people."""

import asyncio
import datetime as dt
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from tci import metrics
from tci.api.dependencies import AdminDep, administrator, authenticate
from tci.api.overview import OverviewEnvelope, overview_envelope
from tci.sessions.figures import Figures
from tci.settings import Settings

scraped = APIRouter(tags=["Operation"])
router = APIRouter(prefix="/tci", tags=["Operation"])


async def may_scrape(request: Request) -> None:
    """Raise InvalidApiKey or AdminRequired, unless the operator has opened the metrics."""
    settings: Settings = request.state.settings
    if not settings.metrics_open:
        await administrator(await authenticate(request))


async def figures(request: Request) -> Figures:
    """Return what the lifespan built."""
    found: Figures = request.state.figures
    return found


FiguresDep = Annotated[Figures, Depends(figures)]


@scraped.get("/metrics", response_class=PlainTextResponse, dependencies=[Depends(may_scrape)])
async def get_metrics(figures: FiguresDep) -> PlainTextResponse:
    """Give every metric, of all workers of this service, in Prometheus's text format."""
    shared = await figures.shared()
    text = await asyncio.to_thread(metrics.render, shared.families())
    return PlainTextResponse(text, media_type=CONTENT_TYPE_LATEST)


@router.get("/overview")
async def get_overview(_caller: AdminDep, figures: FiguresDep) -> OverviewEnvelope:
    """Tell how the service does: counts since it started, latencies of five minutes, this month's spend."""
    return overview_envelope(await figures.overview(), now=dt.datetime.now(dt.UTC))
