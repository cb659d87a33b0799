"""A caller of the API: runs code, gives its outputs as they come, and one fault for whatever prevents an answer.

It knows the wire and nothing of the service beside it: neither its settings nor its `.env`.
"""

import base64
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

DEFAULT_URL = "http://127.0.0.1:8000"

CONNECT_SECONDS = 10.0

SILENCE_SECONDS = 300.0
"""Longest time without a byte. While code runs the service sends one every ten seconds, or as its operator says."""

EVENTS = "text/event-stream"


class Fault(Exception):
    """The service did not answer, or refused: nothing is known of the code."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Opened:
    """The session in which the code runs."""

    session_id: str


@dataclass(frozen=True, slots=True)
class Shown:
    """One output, or a part of one where the service streams."""

    type: str
    data: str | dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ended:
    """How the run ended: the answer's `execution`."""

    execution: dict[str, Any]

    @property
    def verdict(self) -> str:
        """The service's word for it."""
        return str(self.execution["verdict"])


Event = Opened | Shown | Ended


@dataclass(frozen=True, slots=True)
class Run:
    """Code to run, with what it needs."""

    code: str
    session_id: str | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    timeout: float | None = None

    def as_body(self) -> dict[str, Any]:
        """Return it as it goes on the wire."""
        files = [
            {"name": name, "encoding": "base64", "content": base64.b64encode(content).decode()}
            for name, content in self.files.items()
        ]
        return {
            "code": self.code,
            "language": "python",
            "session_id": self.session_id,
            "files": files,
            "timeout": self.timeout,
        }


class Caller:
    """Speaks with one service by one key. Nothing is sent twice: code that may have run is not run again."""

    def __init__(self, url: str, key: str) -> None:
        self._url = f"{url.rstrip('/')}/tci/execute"
        timeout = httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
        self._client = httpx.Client(timeout=timeout, headers={"Authorization": f"Bearer {key}"})

    @classmethod
    def from_environment(cls) -> Self:
        """Return the caller that TCI_BASE_URL and TCI_API_KEY name; raises Fault."""
        key = os.environ.get("TCI_API_KEY", "").strip()
        if not key or not key.isascii() or not key.isprintable():
            raise Fault("Set TCI_API_KEY to an API key of the service.", code="invalid_api_key")
        return cls(os.environ.get("TCI_BASE_URL") or DEFAULT_URL, key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def execute(self, run: Run) -> Iterator[Event]:
        """Run code and yield what happens, the last of which is its end; raises Fault.

        To leave the iterator early drops the connection, upon which the service interrupts the code.
        """
        with self._answer(run, accept=f"{EVENTS}, application/json;q=0.9") as answer:
            if answer.headers.get("content-type", "").startswith(EVENTS):
                yield from _streamed(answer.iter_lines())
            else:
                yield from _whole(_data(answer))

    def answer(self, run: Run) -> dict[str, Any]:
        """Run code and return the answer's `data` as it came; raises Fault."""
        with self._answer(run, accept="application/json") as answer:
            return _data(answer)

    @contextmanager
    def _answer(self, run: Run, *, accept: str) -> Iterator[httpx.Response]:
        try:
            with self._client.stream("POST", self._url, json=run.as_body(), headers={"Accept": accept}) as answer:
                if answer.status_code != httpx.codes.OK:
                    raise _refusal(answer)
                yield answer
        except httpx.ConnectError as error:
            raise Fault(f"There is no service at {self._url}: {error}", code="unreachable") from error
        except (httpx.TransportError, httpx.InvalidURL) as error:
            what = str(error) or type(error).__name__
            raise Fault(f"The answer of {self._url} broke off: {what}", code="broken_answer") from error


def _refusal(answer: httpx.Response) -> Fault:
    """Read a failure's body; where something else answered, say a proxy, the status is all there is."""
    try:
        error = json.loads(answer.read())["error"]
        return Fault(str(error["message"]), code=str(error["code"]))
    except (ValueError, KeyError, TypeError):
        return Fault(f"{answer.url} answered HTTP {answer.status_code}.", code="broken_answer")


def _data(answer: httpx.Response) -> dict[str, Any]:
    try:
        data = json.loads(answer.read())["data"]
        failure = data["execution"].get("failure")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Fault(f"{answer.url} did not answer as this API does.", code="broken_answer") from None
    if failure:  # it came when the status had been sent already
        raise Fault(failure["message"], code=failure["code"])
    found: dict[str, Any] = data
    return found


def _whole(data: dict[str, Any]) -> Iterator[Event]:
    yield Opened(data["session_id"])
    for output in data["outputs"]:
        yield Shown(output["type"], output["data"])
    yield Ended(data["execution"])


def _streamed(lines: Iterable[str]) -> Iterator[Event]:
    for name, data in _events(lines):
        match name:
            case "session":
                yield Opened(data["session_id"])
            case "output":
                yield Shown(data["type"], data["data"])
            case "execution":
                yield Ended(data)
                return
            case "error":
                raise Fault(data["message"], code=data["code"])
            case _:  # of a later version
                pass
    raise Fault("The answer ended before the code did.", code="broken_answer")


def _events(lines: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read server-sent events: the name and the JSON of each."""
    name, data = "", ""
    for line in lines:
        if line.startswith("event:"):
            name = line.removeprefix("event:").strip()
        elif line.startswith("data:"):
            data += line.removeprefix("data:")
        elif not line and data:
            try:
                found = json.loads(data)
            except ValueError:
                raise Fault("The answer is not JSON.", code="broken_answer") from None
            yield name, found
            name, data = "", ""
