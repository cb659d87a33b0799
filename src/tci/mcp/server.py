"""The server of the protocol: the official SDK's, without a state of its own, so that any worker serves any request."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, TypeVar

import anyio
import structlog
from mcp import MCPError
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
)
from sse_starlette.sse import AppStatus

from tci.errors import ServiceError
from tci.mcp.results import refused
from tci.mcp.tools import Tools
from tci.storage.account_store import Caller

log = structlog.get_logger()

INSTRUCTIONS = (
    "Runs Python code in sandboxed sessions that keep their variables and files for an hour. "
    "Code that raises is a result with isError and the traceback. "
    "A JSON-RPC error means that the service failed: nothing is known of the code then."
)

Found = TypeVar("Found")


@asynccontextmanager
async def open_mcp(tools: Tools, *, max_body_bytes: int) -> AsyncIterator[StreamableHTTPSessionManager]:
    """Serve the protocol for as long as the block lasts."""
    # Else the SDK's streams would break off as soon as a stop is asked for, and not when its time is over.
    AppStatus.enable_automatic_graceful_drain = False
    manager = StreamableHTTPSessionManager(_server(tools), stateless=True, max_request_body_size=max_body_bytes)
    async with manager.run():
        yield manager


def _server(tools: Tools) -> Server[Any]:
    listed = ListToolsResult(tools=tools.listed())

    async def list_tools(_: ServerRequestContext[Any], __: PaginatedRequestParams | None) -> ListToolsResult:
        return listed

    async def call_tool(context: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
        if not tools.has(params.name):
            raise MCPError(INVALID_PARAMS, f"There is no tool {params.name[:40]}.")
        request: Any = context.request
        caller: Caller = request.state.caller  # put there by whoever authenticated the request
        return await _apart(_outcome(tools.call(caller, params.name, params.arguments or {})))

    return Server(
        "tci",
        version=version("tci"),
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


async def _outcome(call: Coroutine[Any, Any, CallToolResult]) -> CallToolResult:
    """Tell a refusal, which the agent can do something about, from a failure of ours, which it can't."""
    try:
        return await call
    except ServiceError as error:
        if error.status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return refused(error)
        log.exception("Tool failed", code=error.code)
        data = {"code": error.code, "retry_after": error.retry_after}
        raise MCPError(INTERNAL_ERROR, f"The service failed ({error.code}): {error}", data) from None
    except Exception:
        log.exception("Bug")
        raise MCPError(INTERNAL_ERROR, "The service failed. Its log says why.", {"code": "internal_error"}) from None


async def _apart(work: Coroutine[Any, Any, Found]) -> Found:
    """Do work in a task of its own, which is cancelled once, and then waited for.

    The SDK cancels as anyio does: at every await anew. That would break off what the service does when its caller
    leaves: it interrupts the code.
    """
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait({task})
        raise
