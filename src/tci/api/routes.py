"""The routes. Each parses, makes one call, and wraps the answer."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from tci.api.answer import Body, LongAnswer
from tci.api.dependencies import CallerDep, ServiceDep, UsageDep
from tci.api.models import (
    ExecuteEnvelope,
    ExecuteRequest,
    SessionsEnvelope,
    WireStatus,
    execute_envelope,
    late_failure,
    sessions_envelope,
)
from tci.api.usage import UsageEnvelope, UsageRequest, usage_envelope
from tci.errors import AccountNotFound, InvalidRequest, Stopping
from tci.storage.account_store import AccountStore
from tci.storage.readiness import Readiness

router = APIRouter(prefix="/tci", tags=["Code Interpreter"])

health = APIRouter(tags=["Operation"])

REQUEST_SCHEMA = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ExecuteRequest"}}},
    }
}


async def usage_request(query: Annotated[UsageRequest, Query()], _caller: CallerDep) -> UsageRequest:
    """Parse the query; after the key, so that a stranger learns nothing."""
    return query


async def seen_account(request: Request, query: "UsageRequestDep", caller: CallerDep) -> int | None:
    """Return the id of the account whose usage is asked for, None for all; raises AccountNotFound."""
    if not caller.is_admin:
        if query.account not in {None, caller.account}:
            raise AccountNotFound(query.account or "")
        return caller.account_id
    if query.account is None:
        return None
    accounts: AccountStore = request.state.accounts
    found = await accounts.find(query.account)
    if found is None:
        raise AccountNotFound(query.account)
    return found


async def execute_request(request: Request, _caller: CallerDep) -> ExecuteRequest:
    """Parse the body as JSON whatever its Content-Type says; after the key, so that a stranger learns nothing."""
    try:
        return ExecuteRequest.model_validate_json(await request.body())
    except ClientDisconnect:
        raise InvalidRequest("The client left before its request was complete.") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        param = ".".join(str(part) for part in first["loc"]) or None
        reason = first["msg"].removeprefix("Value error, ")
        message = f"{param}: {reason}" if param else reason
        raise InvalidRequest(message, param=param) from None


async def wire_status(request: Request) -> WireStatus:
    """Return the word for 'done' that the client expects.

    The documentation prints `completed`; the clients generated from the OpenAPI file, which all send
    X-Stainless headers, type the field as the literal `success`.
    """
    generated = any(name.startswith("x-stainless-") for name in request.headers)
    return "success" if generated else "completed"


ExecuteRequestDep = Annotated[ExecuteRequest, Depends(execute_request)]
UsageRequestDep = Annotated[UsageRequest, Depends(usage_request)]
SeenAccountDep = Annotated[int | None, Depends(seen_account)]
StatusDep = Annotated[WireStatus, Depends(wire_status)]


@router.post("/execute", response_model=ExecuteEnvelope, openapi_extra=REQUEST_SCHEMA)
async def execute(
    request: Request, caller: CallerDep, body: ExecuteRequestDep, service: ServiceDep, status: StatusDep
) -> Response:
    """Run code in a new session, or in the one that `session_id` names."""

    async def work() -> Body:
        execution = await service.execute(
            caller, body.code, session_id=body.session_id, files=body.decoded_files(), timeout=body.timeout
        )
        return execute_envelope(execution, status=status)

    interval: float = request.state.settings.heartbeat_seconds
    return LongAnswer(
        work(), interval=interval, render_late=lambda error: late_failure(error, body.session_id, status=status)
    )


@router.get("/sessions")
async def list_sessions(caller: CallerDep, service: ServiceDep) -> SessionsEnvelope:
    """List the caller's live sessions, newest first."""
    return sessions_envelope(await service.list_sessions(caller))


@router.get("/usage")
async def read_usage(query: UsageRequestDep, account_id: SeenAccountDep, usage: UsageDep) -> UsageEnvelope:
    """Tell what was billed: in all, by day, and by session in pages; a key that sees every account may name one."""
    period = query.period
    days = await usage.days(period, account_id=account_id)
    page = await usage.sessions(period, account_id=account_id, after=query.after, limit=query.limit)
    return usage_envelope(period, days, page)


@health.get("/health")
async def get_health() -> JSONResponse:
    """Answer as soon as the service serves."""
    return JSONResponse({"status": "ok"}, status_code=HTTPStatus.OK)


@health.get("/ready")
async def get_ready(request: Request) -> JSONResponse:
    """Answer whether requests should be sent here; no while the service stops or its database is away."""
    if request.app.state.is_stopping:
        raise Stopping
    readiness: Readiness = request.state.readiness
    return JSONResponse({"status": "ready", **await readiness.look()})
