"""Where the Model Context Protocol is reached: /mcp, behind the same keys as the API."""

from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tci.api.dependencies import authenticate
from tci.errors import InvalidRequest, OriginNotAllowed

PATH = "/mcp"


class McpEndpoint:
    """Lets a request through to the protocol's server, with its caller in `state`.

    Only POST: the server keeps nothing between requests, so there is no stream to GET and no state to DELETE.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 (ASGI)
        request = Request(scope, receive)
        if request.method != "POST":
            raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED, headers={"allow": "POST"})
        origin = request.headers.get("origin")
        if origin is not None and origin not in request.state.settings.mcp_origins:
            # A page of another site, or one whose name was made to point here (DNS rebinding).
            raise OriginNotAllowed
        request.state.caller = await authenticate(request)
        if not request.headers.get("content-type", "").lower().startswith("application/json"):
            raise InvalidRequest("Content-Type: must be application/json", param="Content-Type")
        serve: ASGIApp = request.state.mcp
        await serve(scope, receive, send)


def route() -> Route:
    """Return the route, for all methods."""
    return Route(PATH, McpEndpoint(), include_in_schema=False)
