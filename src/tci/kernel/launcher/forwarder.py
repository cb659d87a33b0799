"""The jail's end of the way out: a proxy on its loopback that passes everything on to the gate's socket.

Programs find it by HTTP_PROXY and HTTPS_PROXY. There is no other way: the jail has no network and no names.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Awaitable, Callable

from . import PROXY_ADDRESS

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

GATE = "/run/tci/egress/proxy"
"""The gate of the service, where the session's policy has one (`tci.egress.gate`)."""

CHUNK_BYTES = 64 * 1024

NO_WAY_OUT = "403 Blocked: the egress policy 'none' of this server lets code reach nothing"


NOT_NOW = "503 The way out of this sandbox is closed just now: try again"


def start_forwarder(*, has_gate: bool) -> None:
    """Leave a process behind that forwards until the sandbox ends. Called before any other thread exists."""
    listener = socket.create_server(PROXY_ADDRESS)
    if os.fork():
        listener.close()
        os.wait()
        return
    os.closerange(3, listener.fileno())  # the kernel's sockets are none of its business
    # Not the kernel's child: code that waits for all of its children must not wait for this one.
    os.setsid()
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the code
    try:
        asyncio.run(_forward(listener, _relay if has_gate else _refuse))
    finally:
        os._exit(0)


async def _forward(listener: socket.socket, serve: Serve) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):  # one of the two left
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(connected, sock=listener)
    await server.serve_forever()


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        back, forth = await asyncio.open_unix_connection(GATE)
    except OSError:
        await _answer(writer, NOT_NOW)
        return
    try:
        await asyncio.gather(_copy(reader, forth), _copy(back, writer))
    finally:
        forth.close()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(CHUNK_BYTES):
        target.write(data)
        await target.drain()
    with contextlib.suppress(OSError):
        target.write_eof()


async def _refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        await reader.readuntil(b"\r\n\r\n")
    await _answer(writer, NO_WAY_OUT)


async def _answer(writer: asyncio.StreamWriter, status: str) -> None:
    writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
    await writer.drain()
