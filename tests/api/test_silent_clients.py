"""Clients that stop in the middle of a request: their connections are closed, those of others are not."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tci.api import protocol
from tci.api.protocol import BoundedHttp

BOUND = 0.3
HEAD = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the body, after a pause longer than the bound."""
    try:
        body = await Request(scope, receive).body()
    except ClientDisconnect:
        return
    await asyncio.sleep(2 * BOUND)
    await Response(body)(scope, receive, send)


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", BOUND)
    monkeypatch.setattr(protocol, "SILENCE_SECONDS", BOUND)
    server = uvicorn.Server(uvicorn.Config(echo, port=0, http=BoundedHttp, ws="none", lifespan="off", log_config=None))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 (it sets no event)
        await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


@pytest.mark.parametrize("sent", [b"", b"POST /", HEAD[:-2], HEAD, HEAD + b"ab"])
async def test_client_that_stops_in_its_request_loses_its_connection(port: int, sent: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    async with asyncio.timeout(20):
        assert await reader.read() == b""
    writer.close()


async def test_client_that_waits_for_a_long_answer_keeps_its_connection(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(2):
        writer.write(HEAD + b"body")
        async with asyncio.timeout(20):
            head = await reader.readuntil(b"\r\n\r\n")
            assert (head.split(b"\r\n")[0], await reader.readexactly(4)) == (b"HTTP/1.1 200 OK", b"body")
    writer.write(b"POST / HT")  # the next one stops
    async with asyncio.timeout(20):
        assert await reader.read() == b""
    writer.close()


async def test_client_that_is_slow_but_goes_on_is_answered(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(HEAD)
    for byte in b"body":
        await asyncio.sleep(BOUND / 2)
        writer.write(bytes([byte]))
    async with asyncio.timeout(20):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
    writer.close()
