"""Answers once a session is open; one whose client leaves meanwhile is ended, since nobody would know of it."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus

import structlog
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from tci.api.answer import wait_until_gone
from tci.storage.session_store import Session

log = structlog.get_logger()


class OpenAnswer(Response):
    """The 201 of a new session, which counts as answered once this was sent."""

    media_type = "application/json"

    def __init__(self, opened: AbstractAsyncContextManager[Session], render: Callable[[Session], BaseModel]) -> None:
        super().__init__()
        self._opened = opened
        self._render = render
        self._is_telling = False

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(wait_until_gone(receive))
        work = asyncio.create_task(self._answer(scope, receive, send))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            # The server says that the client has gone also when the answer is complete.
            if gone.done() and not self._is_telling:
                log.info("Client left")
                return
            await work
        finally:
            gone.cancel()
            work.cancel()
            await asyncio.wait({work, gone})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._opened as session:
            self._is_telling = True
            content = self._render(session).model_dump_json()
            answer = Response(content, status_code=HTTPStatus.CREATED, media_type=self.media_type)
            await answer(scope, receive, send)
