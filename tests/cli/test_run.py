"""`tci run` on a real service: what it prints where, and the exit status by which a script tells whose fault it was."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from typing_extensions import override

from tci.cli.caller import Caller, Ended, Event, Fault, Opened, Run, Shown
from tests.cli.conftest import caller_environment
from tests.conftest import Service, run_tci

PLOT = "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.show()"


@pytest.fixture
def environment(live_service: Service, tmp_path: Path) -> dict[str, str]:
    """What a caller has: the address and a key, in a directory with a `.env` that is no service's."""
    (tmp_path / ".env").write_text("TCI_PORT=nonsense\nTCI_SANDBOX=nonsense\n")
    return caller_environment(live_service, tmp_path)


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_tci("run", *arguments, environment=environment, check=False)


def test_code_that_runs_is_printed_and_status_0(environment: dict[str, str]) -> None:
    result = run(environment, "-c", "import sys; print('out'); print('err', file=sys.stderr)\n6 * 7")
    assert (result.returncode, result.stdout, result.stderr) == (0, "out\n42\n", "err\n")


def test_script_and_standard_input_are_run(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("print('ä')\n", encoding="utf-8-sig")
    assert run(environment, "script.py").stdout == "ä\n"
    command = [sys.executable, "-m", "tci", "run", "-"]
    result = subprocess.run(command, env=environment, input="print(1)", capture_output=True, text=True, check=True)
    assert result.stdout == "1\n"


def test_code_that_raises_is_status_1_and_its_traceback_on_stderr(environment: dict[str, str]) -> None:
    result = run(environment, "-c", "print('before')\n1 / 0")
    assert (result.returncode, result.stdout) == (1, "before\n")
    assert result.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert "\x1b" not in result.stderr, "no colour where no terminal is"


def test_code_past_its_time_limit_is_status_1(environment: dict[str, str]) -> None:
    result = run(environment, "-c", "while True: pass", "--timeout", "0.5")
    assert (result.returncode, result.stdout) == (1, "")
    assert "0.5 seconds" in result.stderr


def test_files_are_uploaded_under_their_own_or_another_name(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_bytes(b"a,b\n\xff\n")
    arguments = ("--file", "data.csv", "--file", "dir/other.csv=data.csv")
    code = "print(open('data.csv', 'rb').read() == open('dir/other.csv', 'rb').read() == b'a,b\\n\\xff\\n')"
    assert run(environment, "-c", code, *arguments).stdout == "True\n"


def test_session_is_continued(environment: dict[str, str]) -> None:
    first = json.loads(run(environment, "-c", "x = 41", "--json").stdout)
    assert run(environment, "-c", "x + 1", "--session", first["session_id"]).stdout == "42\n"


def test_json_is_the_answer_and_nothing_else(environment: dict[str, str]) -> None:
    result = run(environment, "-c", "print(1)\n1 / 0", "--json")
    data = json.loads(result.stdout)
    assert (result.returncode, result.stderr) == (1, "")
    assert data["outputs"][0] == {"type": "stdout", "data": "1\n"}
    assert data["execution"]["verdict"] == "error"


def test_image_is_saved_or_told_of_in_one_line(environment: dict[str, str], tmp_path: Path) -> None:
    told = run(environment, "-c", PLOT).stdout
    assert told.startswith("[image/png, ")
    assert told.count("\n") == 1
    for number in (1, 2):
        result = run(environment, "-c", PLOT, "--output", "images")
        assert result.stdout == f"[image/png saved as images/image-{number}.png]\n"
        assert (tmp_path / "images" / f"image-{number}.png").read_bytes().startswith(b"\x89PNG")


def test_image_that_is_none_or_finds_no_place_is_told_of(environment: dict[str, str]) -> None:
    for image, arguments in (("x", ()), ("x", ("--output", "images")), ("eA==", ("--output", "/proc/images"))):
        code = f"display({{'image/png': {image!r}}}, raw=True)"
        result = run(environment, "-c", code, *arguments)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.startswith("[image/png that could not be saved: ")


@pytest.mark.parametrize(
    ("change", "arguments", "code", "says"),
    [
        ({"TCI_API_KEY": "tci_wrong"}, (), "invalid_api_key", "Invalid API key"),
        ({"TCI_API_KEY": ""}, (), "invalid_api_key", "Set TCI_API_KEY"),
        ({"TCI_BASE_URL": "http://127.0.0.1:1"}, (), "unreachable", "There is no service at http://127.0.0.1:1"),
        ({"TCI_BASE_URL": "nonsense"}, (), "broken_answer", "nonsense"),
        ({}, ("--session", "ses_nonsense"), "session_not_found", "was not found"),
    ],
    ids=["wrong key", "no key", "no service", "no URL", "no session"],
)
def test_service_that_fails_or_refuses_is_status_2(
    environment: dict[str, str], change: dict[str, str], arguments: tuple[str, ...], code: str, says: str
) -> None:
    result = run(environment | change, "-c", "print(1)", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("tci: ")
    assert says in result.stderr
    result = run(environment | change, "-c", "print(1)", "--json", *arguments)
    assert result.returncode == 2
    assert json.loads(result.stdout)["failure"]["code"] == code


def test_call_loads_nothing_of_the_service(environment: dict[str, str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "tci", "run", "-c", "1"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert {"tci.cli.run", "httpx"} <= loaded
    assert {"tci.app", "tci.settings", "fastapi", "sqlalchemy"} & loaded == set()


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("script.py", "-c", "1"),
        ("missing.py",),
        ("-c", "1", "--file", "missing.csv"),
        ("-c", "1", "--timeout", "0"),
        ("--unknown",),
    ],
)
def test_wrong_call_is_status_2(environment: dict[str, str], arguments: tuple[str, ...]) -> None:
    result = run(environment, *arguments)
    assert (result.returncode, result.stdout) == (2, "")


class Impostor(BaseHTTPRequestHandler):
    """A server that is not this API, as a proxy before a service that is away."""

    answer = (200, "application/json", b"")

    @override
    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        status, kind, body = self.answer
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def impostor(status: int, kind: str, body: bytes) -> Iterator[Caller]:
    """Run one and return a caller of it."""
    handler = type("Handler", (Impostor,), {"answer": (status, kind, body)})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with Caller(f"http://127.0.0.1:{server.server_port}", "tci_key") as caller:
            yield caller
        server.shutdown()


LATE = {"verdict": None, "failure": {"code": "kernel_failed", "message": "It broke."}}


@pytest.mark.parametrize(
    ("status", "kind", "body", "code"),
    [
        (502, "text/html", b"<html>Bad gateway</html>", "broken_answer"),
        (200, "text/html", b"<html>Log in</html>", "broken_answer"),
        (200, "application/json", b'{"data": null}', "broken_answer"),
        (503, "application/json", b'{"error": {"message": "Full.", "code": "no_capacity"}}', "no_capacity"),
        (200, "application/json", json.dumps({"data": {"execution": LATE}}).encode(), "kernel_failed"),
        (
            200,
            "text/event-stream",
            b'event: error\ndata: {"message": "Full.", "code": "no_capacity"}\n\n',
            "no_capacity",
        ),
        (200, "text/event-stream", b'event: session\ndata: {"session_id": "ses_x"}\n\n', "broken_answer"),
        (200, "text/event-stream", b"event: session\ndata: <html>\n\n", "broken_answer"),
    ],
    ids=["bad gateway", "log in", "null", "failure", "late failure", "failure in a stream", "early end", "no JSON"],
)
def test_answer_of_no_execution_is_a_fault(status: int, kind: str, body: bytes, code: str) -> None:
    with impostor(status, kind, body) as caller, pytest.raises(Fault) as raised:
        list(caller.execute(Run("1")))
    assert raised.value.code == code


def test_stream_is_read_event_by_event() -> None:
    body = (
        b'event: session\r\ndata: {"session_id": "ses_x"}\r\n\r\n: heartbeat\n\n'
        b'event: output\ndata: {"type": "stdout", "data": "1\\n"}\n\n'
        b'event: of_a_later_version\ndata: {}\n\nevent: execution\ndata: {"verdict": "ok"}\n\n'
    )
    with impostor(200, "text/event-stream", body) as caller:
        events: list[Event] = list(caller.execute(Run("1")))
    assert events == [Opened("ses_x"), Shown("stdout", "1\n"), Ended({"verdict": "ok"})]
