"""Outputs as server-sent events, on both drivers."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.behaviour.test_memory_bound import BOUND_BYTES, grown_while
from tests.conftest import Service, serving

MIB = 1024**2


@pytest.fixture(scope="module")
def quick(driver: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with short times and a low limit of output."""
    directory = tmp_path_factory.mktemp(f"stream-{driver}") / "data"
    options = {"heartbeat_seconds": 0.2, "grace_seconds": 1, "max_output_bytes": MIB}
    with serving(driver, directory, pool_size=2, **options) as running:
        yield running


def events(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """Parse events; a heartbeat is an event named ''."""
    name = None
    for line in lines:
        if line.startswith(":"):
            yield "", line
        elif line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            assert name is not None
            yield name, json.loads(line.removeprefix("data: "))


def stream(service: Service, code: str, **fields: Any) -> list[tuple[str, Any]]:
    """Run code as a stream and return all events but heartbeats; checks what every stream must be."""
    with service.client.stream("POST", "/tci/execute", json={"code": code, "stream": True, **fields}) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        found = [event for event in events(answer.iter_lines()) if event[0]]
    names = [name for name, _ in found]
    assert names[0] == "session"
    assert names[-1] == "execution"
    assert set(names[1:-1]) <= {"output"}
    return found


def text_of(found: list[tuple[str, Any]], kind: str) -> str:
    return "".join(data["data"] for name, data in found if name == "output" and data["type"] == kind)


def test_output_arrives_before_the_code_is_told_to_go_on(quick: Service) -> None:
    # The code waits for the interrupt that only a client that leaves causes, and that leaves after it saw the output.
    waiting = "try:\n  time.sleep(100)\nexcept KeyboardInterrupt:\n  seen = 'interrupted'"
    code = f"import time\nprint('first', flush=True)\n{waiting}"
    body, accept = {"code": code}, {"accept": "text/event-stream"}
    with quick.client.stream("POST", "/v1/tci/execute", json=body, headers=accept) as answer:
        coming = events(answer.iter_lines())
        name, session = next(coming)
        assert name == "session"
        assert next(event for event in coming if event[0]) == ("output", {"type": "stdout", "data": "first\n"})
        assert next(coming) == ("", ": heartbeat")
    assert quick.stdout("print(seen)", session["session_id"]) == "interrupted\n"


@pytest.mark.parametrize(
    ("code", "verdict", "error"),
    [
        ("1", "ok", ""),
        ("1/0", "error", "ZeroDivisionError"),
        ("import time\ntime.sleep(100)", "timeout", "TimeoutError"),
        ("import os\nos._exit(3)", "kernel_died", "KernelDied"),
        ("x = bytearray(10**11)\nfor i in range(0, len(x), 4096): x[i] = 1", "oom|error", "MemoryError"),
    ],
)
def test_any_end_is_told_once(quick: Service, code: str, verdict: str, error: str) -> None:
    found = stream(quick, code, timeout=5)
    errors = [data["data"] for name, data in found if name == "output" and data["type"] == "error"]
    assert found[-1][1]["verdict"] in verdict.split("|")
    assert found[-1][1]["status"] == "completed"
    assert len(errors) == bool(error)
    assert all(error in text for text in errors)


def test_flood_keeps_head_and_tail(quick: Service) -> None:
    found = stream(quick, "print('head')\nfor i in range(100_000): print('x' * 99)\nprint('tail')")
    text = text_of(found, "stdout")
    assert found[-1][1]["verdict"] == "output_limit"
    assert text.startswith("head\n")
    assert text.endswith("tail\n")
    assert text.count("bytes of output left out") == 1
    assert len(text) <= MIB + 200


def test_wide_characters_stay_whole(quick: Service) -> None:
    assert text_of(stream(quick, "print('\\N{GRINNING FACE}é' * 50_000)"), "stdout") == "😀é" * 50_000 + "\n"


def test_failure_before_the_first_byte_is_an_ordinary_one(quick: Service) -> None:
    answer = quick.post({"code": "1", "stream": True, "session_id": "ses_none"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "session_not_found")
    answer = quick.post({"code": "1", "stream": True}, headers={"authorization": "Bearer no"})
    assert answer.status_code == 401


def test_slow_reader_does_not_grow_the_service(start_service: Callable[..., Service]) -> None:
    service = start_service()
    session = service.run("print('warm')")["session_id"]
    body = {"code": "for i in range(1_000_000): print('x' * 99)", "stream": True}

    def read_slowly() -> None:
        with service.client.stream("POST", "/tci/execute", json={**body, "session_id": session}) as answer:
            # The next run waits for the end of this one, which does not wait for its reader.
            assert service.run("1", session)["execution"]["verdict"] == "ok"
            names = [name for name, _ in events(answer.iter_lines())]
        assert names[-1] == "execution"

    assert grown_while(service, read_slowly) <= BOUND_BYTES


def test_stop_ends_the_stream_with_an_error(start_service: Callable[..., Service]) -> None:
    service = start_service(stop_seconds=1)
    with httpx.stream(
        "POST",
        f"{service.url}/tci/execute",
        json={"code": "import time\ntime.sleep(100)", "stream": True},
        headers={"authorization": f"Bearer {service.key}"},
        timeout=60,
    ) as answer:
        coming = events(answer.iter_lines())
        assert next(coming)[0] == "session"
        service.process.terminate()
        last = [event for event in coming if event[0]]
    assert [name for name, _ in last] == ["error"]
    assert last[0][1]["code"] == "unavailable"
