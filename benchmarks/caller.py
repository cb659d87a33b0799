"""A caller of the service that costs little itself: one connection kept alive, no HTTP library."""

import json
import socket
from typing import Any
from urllib.parse import urlsplit

import orjson

PRINT = "print(1)"


class Caller:
    """Sends one request after another; with a session's id to that session, else each opens a new one."""

    def __init__(self, url: str, key: str, session_id: str | None = None, *, code: str = PRINT) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname, parts.port
        self._socket = self._connect()
        self._head = f"POST /tci/execute HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {key}\r\n"
        self._buffer = bytearray()
        self.session_id = session_id
        self.answer: dict[str, Any] = {}
        self._request = self.request(code)

    @property
    def sources(self) -> list[Any]:
        """What to wait for until the answer goes on."""
        return [self._socket]

    def request(self, code: str) -> bytes:
        """Return the bytes that ask for code to be run."""
        body = json.dumps({"code": code, "language": "python", "session_id": self.session_id}).encode()
        return f"{self._head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

    def begin(self, code: str | None = None) -> None:
        """Send a request: for this code, or for the caller's own."""
        self._socket.sendall(self._request if code is None else self.request(code))

    def advance(self) -> bool:
        """Read what is there; return whether the answer is whole. Fails on any answer but a good one."""
        piece = self._socket.recv(65536)
        assert piece, "the service closed the connection"
        self._buffer += piece
        body = _body(self._buffer)
        if body is None:
            return False
        status = bytes(self._buffer[9:12])
        self._buffer.clear()
        assert status == b"200", f"{status!r} {body[:500]!r}"
        self.answer = orjson.loads(body)["data"]
        assert not any(output["type"] == "error" for output in self.answer["outputs"]), self.answer
        return True

    def run(self, code: str | None = None) -> dict[str, Any]:
        """Run code and return the answer's `data`."""
        if self._is_closed():  # the service closes a connection that was idle for some seconds
            self._socket.close()
            self._socket = self._connect()
        self.begin(code)
        while not self.advance():
            pass
        return self.answer

    def close(self) -> None:
        """Leave; the session goes on."""
        self._socket.close()

    def _connect(self) -> socket.socket:
        connected = socket.create_connection(self._address)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connected

    def _is_closed(self) -> bool:
        try:
            return not self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True


def _body(buffer: bytearray) -> bytes | None:
    """Return the body of a whole HTTP/1.1 answer, or None while some of it is missing."""
    head, found, rest = bytes(buffer).partition(b"\r\n\r\n")
    if not found:
        return None
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    if b"content-length" in fields:
        return rest if len(rest) >= int(fields[b"content-length"]) else None
    return _joined(rest)


def _joined(chunks: bytes) -> bytes | None:
    body = b""
    while chunks:
        size, found, chunks = chunks.partition(b"\r\n")
        length = int(size, 16) if found else -1
        if length == 0:
            return body if chunks.startswith(b"\r\n") else None
        if length < 0 or len(chunks) < length + 2:
            return None
        body, chunks = body + chunks[:length], chunks[length + 2 :]
    return None
