"""Outputs as server-sent events, on both drivers."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.raw import bearer, connection, request
from tests.behaviour.test_memory_bound import LIMIT_BYTES, grown_while
from tests.conftest import Service, file_of, serving
from tests.sandbox.processes import eventually

MIB = 1024**2

Event = tuple[str, Any]

FLOODS = {
    "lines": "for i in range(5_000): print('x' * 9_999)",
    "displays": "from IPython.display import HTML\nfor i in range(12): display(HTML('z' * 7_000_000))",
}


@pytest.fixture(scope="module")
def quick(driver: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with short times and low limits."""
    directory = tmp_path_factory.mktemp(f"stream-{driver}") / "data"
    limits = {"max_output_bytes": MIB, "sandbox_memory_bytes": 256 * MIB}
    with serving(driver, directory, heartbeat_seconds=0.2, grace_seconds=1, **limits) as running:
        yield running


@pytest.fixture(scope="module")
def session(quick: Service) -> str:
    """A session for all code that leaves it alive."""
    session_id: str = quick.run("import os, time")["session_id"]
    return session_id


def events(lines: Iterator[str]) -> Iterator[Event]:
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
        else:
            assert not line


@contextmanager
def streaming(service: Service, code: str, session: str | None = None, **fields: Any) -> Iterator[Iterator[Event]]:
    """Run code as a stream for as long as the block lasts, and give its events as they come."""
    body = {"code": code, "session_id": session, "stream": True, **fields}
    headers = {"authorization": f"Bearer {service.key}"}
    with httpx.stream("POST", f"{service.url}/tci/execute", json=body, headers=headers, timeout=120) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        coming = events(answer.iter_lines())
        first = next(coming)
        assert first[0] == "session"
        assert first[1].keys() == {"session_id", "expires_at"}
        assert session in {None, first[1]["session_id"]}
        yield coming


def outputs_and_last(coming: Iterator[Event]) -> tuple[list[dict[str, Any]], Event]:
    """Read a stream to its end."""
    *outputs, last = (event for event in coming if event[0])
    assert {name for name, _ in outputs} <= {"output"}
    return [data for _, data in outputs], last


def run(
    service: Service, code: str, session: str | None = None, **fields: Any
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run code as a stream; return its outputs and its `execution`."""
    with streaming(service, code, session, **fields) as coming:
        outputs, (name, execution) = outputs_and_last(coming)
    assert name == "execution"
    return outputs, execution


def text_of(outputs: list[dict[str, Any]], kind: str = "stdout") -> str:
    return "".join(output["data"] for output in outputs if output["type"] == kind)


def test_output_arrives_while_the_code_runs_and_leaving_interrupts_it(quick: Service) -> None:
    # Only a client that leaves causes the interrupt, and this one leaves after it saw the output.
    waiting = "try:\n  time.sleep(100)\nexcept KeyboardInterrupt:\n  seen = 'interrupted'"
    with streaming(quick, f"import os, time\nprint(os.getpid(), flush=True)\n{waiting}") as coming:
        name, output = next(event for event in coming if event[0])
        assert (name, output["type"]) == ("output", "stdout")
        assert next(coming) == ("", ": heartbeat")
    # A new session of which the client has heard goes on.
    listed = quick.client.get("/tci/sessions").json()["data"]["sessions"][0]["id"]
    assert quick.stdout("print(seen, os.getpid())", listed) == f"interrupted {output['data']}"


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        ("/tci/execute", {"stream": True}, {}),
        ("/v1/tci/execute", {}, {"accept": "text/event-stream"}),
        ("/v1/tci/execute", {"stream": False}, {"accept": "application/json, Text/Event-Stream;q=0.9"}),
        ("/tci/execute", {"stream": True}, {"accept": "application/json"}),
    ],
)
def test_either_way_of_asking_streams(
    quick: Service, session: str, path: str, body: dict[str, Any], headers: dict[str, str]
) -> None:
    answer = quick.client.post(path, json={"code": "1", "session_id": session, **body}, headers=headers)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-request-id"].startswith("req_")
    assert [name for name, _ in events(iter(answer.text.splitlines())) if name] == ["session", "output", "execution"]


@pytest.mark.parametrize("body", [{}, {"stream": None}, {"stream": False}])
@pytest.mark.parametrize("accept", ["*/*", "application/json"])
def test_client_that_does_not_ask_is_answered_as_documented(
    quick: Service, session: str, body: dict[str, Any], accept: str
) -> None:
    answer = quick.post({"code": "print(1)", "session_id": session, **body}, headers={"accept": accept})
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.content)
    start = f'{{"data":{{"session_id":"{session}","outputs":[{{"type":"stdout","data":"1\\n"}}],"status":"completed",'
    assert answer.text.startswith(start + '"execution":{"verdict":"ok",')
    assert answer.text.endswith('Z"}},"errors":null}')


@pytest.mark.parametrize(
    ("code", "verdict", "error"),
    [("1", "ok", ""), ("1/0", "error", "ZeroDivisionError"), ("time.sleep(100)", "timeout", "TimeoutError")],
)
def test_end_that_the_session_survives_is_told_once(
    quick: Service, session: str, code: str, verdict: str, error: str
) -> None:
    outputs, execution = run(quick, code, session, timeout=2)
    assert execution["verdict"] == verdict
    assert execution.keys() == quick.run("1", session)["execution"].keys() | {"status"}
    assert [error in text_of([output], "error") for output in outputs if output["type"] == "error"] == [True] * bool(
        error
    )


@pytest.mark.parametrize(
    ("code", "verdict", "error"),
    [
        ("import os\nprint('before', flush=True)\nos._exit(3)", "kernel_died", "KernelDied"),
        ("print('before', flush=True)\nx = []\nwhile True: x.append(b'x' * 10_000_000)", "oom", "MemoryError"),
    ],
    ids=["exit", "memory"],
)
def test_end_of_the_session_is_told_once(quick: Service, code: str, verdict: str, error: str) -> None:
    outputs, execution = run(quick, code)
    assert execution["verdict"] == verdict
    assert [output["type"] for output in outputs] == ["stdout", "error"]
    assert error in outputs[-1]["data"]


def test_status_is_the_word_that_the_client_expects(quick: Service, session: str) -> None:
    assert run(quick, "1", session)[1]["status"] == "completed"
    answer = quick.post({"code": "1", "session_id": session, "stream": True}, headers={"x-stainless-lang": "python"})
    assert json.loads(answer.text.splitlines()[-2].removeprefix("data: "))["status"] == "success"


def test_flood_keeps_head_and_tail(quick: Service, session: str) -> None:
    outputs, execution = run(quick, "print('head')\nfor i in range(30_000): print('x' * 99)\nprint('tail')", session)
    text = text_of(outputs)
    assert execution["verdict"] == "output_limit"
    assert text.startswith("head\n")
    assert text.endswith("tail\n")
    assert text.count("bytes of output left out") == 1
    assert len(text) <= MIB + 200


def test_wide_characters_stay_whole(quick: Service, session: str) -> None:
    outputs, _ = run(quick, "print('\\N{GRINNING FACE}é' * 50_000)", session)
    assert text_of(outputs) == "😀é" * 50_000 + "\n"


def test_line_breaks_in_the_json_of_a_display_cut_no_event(quick: Service, session: str) -> None:
    # Large displays are passed on as the JSON that the sandbox wrote: here over many lines, some of them empty.
    code = """
        import json
        kernel = get_ipython().kernel
        content = {"data": {"application/json": {"list": list(range(20_000))}}, "metadata": {}}
        packed = json.dumps(content, indent=1).replace("{", "{\\r\\n\\n").encode()
        sent = kernel.session.send(kernel.iopub_socket, "display_data", packed, parent=kernel.get_parent())
    """
    outputs, execution = run(quick, code, session)
    assert execution["verdict"] == "ok"
    assert [output["data"] for output in outputs] == [{"application/json": {"list": list(range(20_000))}}]


def test_failure_before_the_first_byte_is_an_ordinary_one(quick: Service) -> None:
    answer = quick.post({"code": "1", "stream": True, "session_id": "ses_none"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "session_not_found")
    answer = quick.post({"code": "1", "stream": True}, headers={"authorization": "Bearer no"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    answer = quick.post({"code": "1", "stream": "yes please"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "stream")


def test_failure_after_the_first_byte_is_one_error_event(quick: Service, session: str) -> None:
    quick.run("os.makedirs('directory', exist_ok=True)", session)
    with streaming(quick, "print('never')", session, files=[file_of("directory", "no file")]) as coming:
        outputs, (name, error) = outputs_and_last(coming)
    assert (name, outputs) == ("error", [])
    plain = quick.post({"code": "1", "session_id": session, "files": [file_of("directory", "no file")]})
    assert error == plain.json()["error"]


def test_call_that_waits_hears_of_its_session_first_and_never_runs_if_its_client_leaves(
    quick: Service, session: str
) -> None:
    with streaming(quick, "time.sleep(3)", session) as first:
        with streaming(quick, "open('ran', 'w').close()", session) as queued:
            assert next(queued) == ("", ": heartbeat")
        outputs, _ = run(quick, "print(os.path.exists('ran'))", session)
        assert text_of(outputs) == "False\n"
        _, (name, execution) = outputs_and_last(first)
        assert (name, execution["verdict"]) == ("execution", "ok")


def test_new_session_of_which_its_client_never_heard_is_ended(quick: Service) -> None:
    def sessions() -> set[str]:
        return {listed["id"] for listed in quick.client.get("/tci/sessions").json()["data"]["sessions"]}

    def sandboxes() -> set[Path]:
        return set((quick.data_dir / "run").iterdir())

    before = sessions(), sandboxes()
    with connection(quick) as raw:
        body = {"code": "import time\ntime.sleep(100)", "stream": True}
        raw.send(request("POST", "/tci/execute", body, authorization=bearer(quick)))
        assert eventually(lambda: sandboxes() != before[1])
    assert eventually(lambda: (sessions(), sandboxes()) == before)


@pytest.mark.parametrize("code", FLOODS.values(), ids=FLOODS)
def test_reader_that_does_not_read_does_not_grow_the_service(start_service: Callable[..., Service], code: str) -> None:
    service = start_service()  # new: one that has held much before would hide what it takes
    session = service.run("print('warm')")["session_id"]

    def read_late() -> None:
        with streaming(service, code, session) as coming:
            # The next run waits for the end of this one, which does not wait for its reader.
            assert service.run("1", session)["execution"]["verdict"] == "ok"
            outputs, (name, execution) = outputs_and_last(coming)
        assert (name, execution["verdict"]) == ("execution", "output_limit")
        assert 4 * MIB < sum(len(str(output["data"])) for output in outputs) < 17 * MIB

    grown = grown_while(service, read_late)
    print(f"{grown / MIB:.1f} MiB", file=sys.stderr)
    assert grown <= 2 * LIMIT_BYTES


def test_stop_ends_each_stream_with_one_event(start_service: Callable[..., Service]) -> None:
    service = start_service(stop_seconds=1, heartbeat_seconds=0.2)
    session = service.run("import time\nfrom IPython.display import HTML")["session_id"]
    waiting = "import time\nprint('begun', flush=True)\ntime.sleep(100)"
    large = "print('begun', flush=True)\ndisplay(HTML('z' * 7_000_000))\ntime.sleep(100)"
    with (
        streaming(service, waiting) as coming,
        streaming(service, large, session) as unread,
        streaming(service, "print('never')", session) as queued,  # it hears of its session while it waits
    ):
        begun = {"type": "stdout", "data": "begun\n"}
        for stream in (coming, unread):
            assert next(event for event in stream if event[0]) == ("output", begun)
        service.client.close()
        service.process.terminate()
        outputs, (name, execution) = outputs_and_last(coming)
        assert (name, execution["verdict"]) == ("execution", "interrupted")
        assert [output["type"] for output in outputs] == ["error"]
        outputs, (name, error) = outputs_and_last(queued)
        assert (name, outputs, error["code"]) == ("error", [], "unavailable")
        assert service.process.wait(60) == 0  # nor does a reader that does not read hold it up
    assert "Traceback" not in service.log.read_text()
