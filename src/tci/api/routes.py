"""The routes. Each parses, makes one call, and wraps the answer."""

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse

from tci.api.answer import Body, LongAnswer
from tci.api.body import parsed_body, request_schema
from tci.api.dependencies import CallerDep, ServiceDep, UsageDep, seen_account
from tci.api.models import ExecuteEnvelope, ExecuteRequest, WireStatus, execute_envelope, late_failure
from tci.api.stream import EXAMPLE, MEDIA_TYPE, OutputStream
from tci.api.usage import UsageEnvelope, UsageRequest, usage_envelope
from tci.errors import Stopping
from tci.sessions.session import Execution, Follower
from tci.storage.readiness import Readiness

router = APIRouter(prefix="/tci", tags=["Code Interpreter"])

health = APIRouter(tags=["Operation"])


async def usage_request(query: Annotated[UsageRequest, Query()], _caller: CallerDep) -> UsageRequest:
    """Parse the query; after the key, so that a stranger learns nothing."""
    return query


async def usage_account(request: Request, query: "UsageRequestDep", caller: CallerDep) -> int | None:
    """Return the id of the account whose usage is asked for, None for all; raises AccountNotFound."""
    return await seen_account(request, caller, query.account)


async def execute_request(request: Request, _caller: CallerDep) -> ExecuteRequest:
    """Parse the body; after the key, so that a stranger learns nothing."""
    return await parsed_body(request, ExecuteRequest)


async def wire_status(request: Request) -> WireStatus:
    """Return the word for 'done' that the client expects.

    The documentation prints `completed`; the clients generated from the OpenAPI file, which all send
    X-Stainless headers, type the field as the literal `success`.
    """
    generated = any(name.startswith("x-stainless-") for name in request.headers)
    return "success" if generated else "completed"


ExecuteRequestDep = Annotated[ExecuteRequest, Depends(execute_request)]
UsageRequestDep = Annotated[UsageRequest, Depends(usage_request)]
SeenAccountDep = Annotated[int | None, Depends(usage_account)]
StatusDep = Annotated[WireStatus, Depends(wire_status)]


EXECUTE_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {MEDIA_TYPE: {"schema": {"type": "string"}, "example": EXAMPLE}}}
}


@router.post(
    "/execute",
    response_model=ExecuteEnvelope,
    openapi_extra=request_schema(ExecuteRequest),
    responses=EXECUTE_RESPONSES,
)
async def execute(
    request: Request, caller: CallerDep, body: ExecuteRequestDep, service: ServiceDep, status: StatusDep
) -> Response:
    """Run code in a new session, or in the one that `session_id` names."""

    async def run(follower: Follower | None = None) -> Execution:
        return await service.execute(
            caller,
            body.code,
            session_id=body.session_id,
            files=body.decoded_files(),
            timeout=body.timeout,
            follower=follower,
        )

    async def work() -> Body:
        return execute_envelope(await run(), status=status)

    interval: float = request.state.settings.heartbeat_seconds
    if body.stream or any(MEDIA_TYPE in accept.lower() for accept in request.headers.getlist("accept")):
        return OutputStream(run, interval=interval, status=status)
    return LongAnswer(
        work(), interval=interval, render_late=lambda error: late_failure(error, body.session_id, status=status)
    )


@router.get("/usage")
async def read_usage(query: UsageRequestDep, account_id: SeenAccountDep, usage: UsageDep) -> UsageEnvelope:
    """Tell what was billed: in all, by day, and by session in pages; a key that sees every account may name one."""
    period = query.period
    days = await usage.days(period, account_id=account_id)
    page = await usage.sessions(period, account_id=account_id, after=query.after, limit=query.limit)
    return usage_envelope(period, days, page)


@health.head("/health", include_in_schema=False)
@health.get("/health")
async def get_health() -> JSONResponse:
    """Answer as soon as the service serves."""
    return JSONResponse({"status": "ok"}, status_code=HTTPStatus.OK)


@health.head("/ready", include_in_schema=False)
@health.get("/ready")
async def get_ready(request: Request) -> JSONResponse:
    """Answer whether requests should be sent here: no while it stops, lacks a background loop or its database."""
    if request.app.state.is_stopping:
        raise Stopping
    readiness: Readiness = request.state.readiness
    return JSONResponse({"status": "ready", **await readiness.look()})
