"""The floor: a kernel's own sockets, spoken to with pyzmq and nothing between."""

import hashlib
import hmac
import secrets
import time
from pathlib import Path
from typing import Any

import orjson
import zmq

from benchmarks.caller import PRINT

DELIMITER = b"<IDS|MSG>"

WELCOME_SECONDS = 30.0


class RawKernel:
    """One kernel over a DEALER and a SUB socket; signs, checks and parses as every client has to."""

    def __init__(self, directory: Path, key: str, *, code: str = PRINT) -> None:
        self._mac = hmac.new(key.encode(), digestmod=hashlib.sha256)
        self._session = secrets.token_hex(8)
        self._code = code
        self._shell = zmq.Context.instance().socket(zmq.DEALER)
        self._iopub = zmq.Context.instance().socket(zmq.SUB)
        for opened, channel in ((self._iopub, "iopub"), (self._shell, "shell")):
            opened.linger = 0
            opened.reconnect_ivl = 2
            opened.connect(f"ipc://{directory}/{channel}")
        self._poller = zmq.Poller()
        for opened in self.sources:
            self._poller.register(opened, zmq.POLLIN)
        self._request_id = ""
        self._awaited: set[str] = set()
        self.stdout = ""
        self._subscribe()

    @property
    def sources(self) -> list[Any]:
        """What to wait for until the answer goes on."""
        return [self._shell, self._iopub]

    def begin(self, code: str | None = None) -> None:
        """Send an execution: of this code, or of the kernel's own."""
        self._shell.send_multipart(self.new_request(code))

    def new_request(self, code: str | None = None) -> list[bytes]:
        """Return the frames of an execution; from now on its answer is waited for."""
        self._request_id, self._awaited, self.stdout = secrets.token_hex(16), {"execute_reply", "idle"}, ""
        header = {
            "msg_id": self._request_id,
            "msg_type": "execute_request",
            "session": self._session,
            "username": "bench",
            "date": "2026-01-01T00:00:00Z",
            "version": "5.4",
        }
        content = {
            "code": self._code if code is None else code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": False,
        }
        parts = [orjson.dumps(header), b"{}", b"{}", orjson.dumps(content)]
        return [DELIMITER, self._sign(parts), *parts]

    def is_awaiting(self, awaited: str) -> bool:
        """Whether the reply (`execute_reply`), or the end of what is published (`idle`), is not here yet."""
        return awaited in self._awaited

    def advance(self) -> bool:
        """Read what is there; return whether the execution has ended."""
        for opened in self.sources:
            while self._awaited:
                try:
                    frames = opened.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                self.take(frames)
        return not self._awaited

    def run(self, code: str | None = None) -> str:
        """Run code and return what it printed."""
        self.begin(code)
        while not self.advance():
            self._poller.poll()
        return self.stdout

    def take(self, frames: list[bytes]) -> str:
        """Look at one message; return its type."""
        start = frames.index(DELIMITER) + 1
        signature, *parts = frames[start : start + 5]
        assert hmac.compare_digest(signature, self._sign(parts))
        kind: str = orjson.loads(parts[0])["msg_type"]
        if orjson.loads(parts[1]).get("msg_id") != self._request_id:
            return kind
        content = orjson.loads(parts[3])
        if kind == "stream":
            self.stdout += content["text"]
        elif kind == "execute_reply":
            assert content["status"] == "ok", content
            self._awaited.discard(kind)
        elif kind == "status":
            self._awaited.discard(content["execution_state"])
        return kind

    def close(self) -> None:
        """Leave; the kernel goes on."""
        for opened in self.sources:
            opened.close()

    def _subscribe(self) -> None:
        self._iopub.subscribe(b"")
        give_up = time.monotonic() + WELCOME_SECONDS
        while time.monotonic() < give_up:
            if self._iopub.poll(1000) and self.take(self._iopub.recv_multipart()) == "iopub_welcome":
                return
        message = "the kernel published no welcome"
        raise TimeoutError(message)

    def _sign(self, parts: list[bytes]) -> bytes:
        mac = self._mac.copy()
        for part in parts:
            mac.update(part)
        return mac.hexdigest().encode()
