"""The routes of sessions as a whole: opened ahead, shown, listed, interrupted, ended."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from tci.api.body import parsed_body, request_schema
from tci.api.dependencies import CallerDep, LifecycleDep, seen_account
from tci.api.opening import OpenAnswer
from tci.api.session_models import (
    EndedData,
    EndedEnvelope,
    InterruptedData,
    InterruptedEnvelope,
    OpenRequest,
    SessionEnvelope,
    SessionsEnvelope,
    SessionsRequest,
    session_envelope,
    sessions_envelope,
)

router = APIRouter(prefix="/tci/sessions", tags=["Sessions"])


async def open_request(request: Request, _caller: CallerDep) -> OpenRequest:
    """Parse the body; after the key, so that a stranger learns nothing."""
    return await parsed_body(request, OpenRequest, empty=b"{}")


async def sessions_request(query: Annotated[SessionsRequest, Query()], _caller: CallerDep) -> SessionsRequest:
    """Parse the query; after the key, so that a stranger learns nothing."""
    return query


OpenRequestDep = Annotated[OpenRequest, Depends(open_request)]
SessionsRequestDep = Annotated[SessionsRequest, Depends(sessions_request)]


@router.post(
    "",
    status_code=201,
    response_model=SessionEnvelope,
    openapi_extra=request_schema(OpenRequest, is_required=False),
)
async def open_session(request: Request, caller: CallerDep, body: OpenRequestDep, lifecycle: LifecycleDep) -> Response:
    """Open a session before there is code to run, with a shorter life, less to use or less to reach."""
    settings = request.state.settings
    return OpenAnswer(lifecycle.opened(caller, body.terms()), lambda session: session_envelope(session, settings))


@router.get("", response_model_exclude_unset=True)
async def list_sessions(
    request: Request, caller: CallerDep, query: SessionsRequestDep, lifecycle: LifecycleDep
) -> SessionsEnvelope:
    """List live sessions, newest first: the account's, or with a key that sees every account, of all."""
    account_id = await seen_account(request, caller, query.account)
    page = await lifecycle.page(account_id=account_id, metadata=query.filters, after=query.after, limit=query.limit)
    return sessions_envelope(page, request.state.settings, is_paged=query.limit is not None)


@router.get("/{session_id}")
async def get_session(request: Request, session_id: str, caller: CallerDep, lifecycle: LifecycleDep) -> SessionEnvelope:
    """Show a live session."""
    return session_envelope(await lifecycle.get(caller, session_id), request.state.settings)


@router.delete("/{session_id}")
async def end_session(session_id: str, caller: CallerDep, lifecycle: LifecycleDep) -> EndedEnvelope:
    """End a session; once this is answered its sandbox and its place are free, and what ran in it has ended."""
    await lifecycle.end(caller, session_id)
    return EndedEnvelope(data=EndedData(session_id=session_id, ended=True))


@router.post("/{session_id}/interrupt")
async def interrupt_session(session_id: str, caller: CallerDep, lifecycle: LifecycleDep) -> InterruptedEnvelope:
    """Raise KeyboardInterrupt in the code that runs in a session; the session goes on."""
    is_interrupted = await lifecycle.interrupt(caller, session_id)
    return InterruptedEnvelope(data=InterruptedData(session_id=session_id, interrupted=is_interrupted))
