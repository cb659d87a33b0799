"""HTTP by hand, for requests that no HTTP library would send."""

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from typing import Any

import httpx

from tests.conftest import Service


@dataclass
class Connection:
    """One TCP connection to the service."""

    socket: socket.socket
    stream: BufferedReader

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self, *, has_body: bool = True) -> httpx.Response:
        """Read one answer of a known length."""
        line = self.stream.readline()
        assert line, "the service closed the connection without an answer"
        headers = http.client.parse_headers(self.stream)
        body = self.stream.read(int(headers["content-length"])) if has_body else b""
        return httpx.Response(int(line.split()[1]), headers=headers.items(), content=body)

    def is_closed(self) -> bool:
        """Whether nothing more comes; waits for as long as the socket does."""
        try:
            return self.stream.read(1) == b""
        except ConnectionResetError:
            return True


@contextmanager
def connection(service: Service, *, timeout: float = 30) -> Iterator[Connection]:
    """Connect to the service for as long as the block lasts."""
    url = httpx.URL(service.url)
    with (
        socket.create_connection((url.host, url.port), timeout=timeout) as opened,
        opened.makefile("rb") as stream,
    ):
        yield Connection(opened, stream)


def request(method: str, path: str, body: Any = None, **headers: str) -> bytes:
    """Return a request as bytes: a body is sent as JSON unless it is bytes, `_` in a header becomes `-`."""
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "host: tci"]
    if body is not None and "transfer_encoding" not in headers:
        headers.setdefault("content_length", str(len(content)))
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + content


def bearer(service: Service) -> str:
    """Return the Authorization of the service's own key."""
    return f"Bearer {service.key}"
