"""Makes each request a span. Only there where traces are asked for."""

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tci import tracing


class Trace:
    """Begins a request's span, below the caller's if he sent one; names its route, never its path, which is his."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 (ASGI)
        span = tracing.span("request", Headers(scope=scope)) if scope["type"] == "http" else None
        if span is None:
            await self._app(scope, receive, send)
            return
        with span as current:
            current.set_attribute("http.request.method", scope["method"])
            tracing.annotate(request_id=structlog.contextvars.get_contextvars().get("request_id"))

            async def send_seen(message: Message) -> None:
                if message["type"] == "http.response.start":
                    current.set_attribute("http.response.status_code", message["status"])
                await send(message)

            try:
                await self._app(scope, receive, send_seen)
            finally:
                if (route := scope.get("route")) is not None:
                    current.set_attribute("http.route", route.path)
