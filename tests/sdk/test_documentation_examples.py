"""The examples of the vendor's documentation and cookbook, run by the vendor's own SDKs."""

from __future__ import annotations

import base64
import json
import re
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import LiveService, Sdks

    Run = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.timeout(900)

ALL = ("python-1x", "python-2x", "python-2x-strict", "python-2x-async", "typescript", "curl")
GENERATED = ("python-2x", "python-2x-strict", "python-2x-async", "typescript")
LISTING = (*GENERATED, "curl")
VERSIONS = {"python-1x": "1.6.0", "typescript": "0.52.0", **dict.fromkeys(GENERATED[:3], "2.42.0")}
FORMS = pytest.mark.parametrize("form", ["", "/v1"], ids=["bare", "v1"])
EVERY_SDK = pytest.mark.parametrize("sdk", ALL)

SESSION_ID = re.compile(r"ses_[1-9A-HJ-NP-Za-km-z]{21}")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
WELCOME = "Welcome to Together Code Interpreter!\n"
FROM_SCRIPT = "Hello from inside myscript.py!\n"
ANSI = "\x1b["
UNKNOWN_SESSION = "ses_111111111111111111111"
BAD_KEY = "not-a-key"
REFUSED = (400, 422)
MATRIX_SIDE = 3

NOT_FOUND = {
    "python-1x": "InvalidRequestError",
    "curl": "HTTP 404",
    **dict.fromkeys(GENERATED, "NotFoundError"),
}
BAD_REQUEST = {
    "python-1x": ("InvalidRequestError",),
    "curl": ("HTTP 400", "HTTP 422"),
    **dict.fromkeys(GENERATED, ("BadRequestError", "UnprocessableEntityError")),
}


def status_for(sdk: str) -> str:
    """Give the status that a client gets: the literal of the OpenAPI file if it was generated from it."""
    return "success" if sdk in GENERATED else "completed"


def succeeded(sdk: str, seen: dict[str, Any], calls: int = 1) -> list[dict[str, Any]]:
    """Check what every successful answer has in common and give the outputs of the last one."""
    assert seen["error"] is None
    assert seen["version"] == VERSIONS.get(sdk)
    assert len(seen["calls"]) == calls
    for call in seen["calls"]:
        assert call["status"] == status_for(sdk)
        assert call["errors"] is None
        assert SESSION_ID.fullmatch(call["session_id"])
        assert call.get("model", "SuccessfulExecution") == "SuccessfulExecution"
    assert seen["printed"][0] == f"Status: {status_for(sdk)}"
    outputs: list[dict[str, Any]] = seen["calls"][-1]["outputs"]
    return outputs


def stdout(text: str) -> list[dict[str, Any]]:
    """Give the outputs of code that printed this and did nothing else."""
    return [{"type": "stdout", "data": text}]


def ask(service: LiveService, body: dict[str, Any], key: str) -> tuple[int, dict[str, Any]]:
    """Send a request that is to be refused without any SDK, and give the status and the whole body."""
    assert service.url.startswith("http")
    request = urllib.request.Request(  # noqa: S310
        service.url.rstrip("/") + "/tci/execute",
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with pytest.raises(urllib.error.HTTPError) as caught:
        opener.open(request, timeout=120)
    with caught.value as answer:
        return answer.code, json.loads(answer.read())


def check_refusal(seen: dict[str, Any], status: int, body: dict[str, Any]) -> None:
    """Check that the SDK shows its user the message that the server sent."""
    message = body["error"]["message"]
    assert message
    assert body["data"] is None
    assert body["message"] == message
    assert body["errors"]
    assert all(member is None or isinstance(member, str) for member in body["error"].values())
    assert seen["calls"] == []
    assert seen["error"]["status"] == status
    # The Python SDKs print the body as JSON (1.x) and as a dictionary (2.x).
    forms = {message, json.dumps(message)[1:-1], repr(message)[1:-1]}
    assert any(form in seen["error"]["message"] for form in forms)


@FORMS
@EVERY_SDK
def test_hello_world_prints_what_the_documentation_prints(sdk: str, form: str, run_example: Run) -> None:
    """The first example, with both forms of the base URL."""
    seen = run_example(sdk, "hello_world", form=form)
    assert succeeded(sdk, seen) == stdout(WELCOME)
    assert seen["printed"] == [f"Status: {status_for(sdk)}", f"stdout: {WELCOME}"]


@EVERY_SDK
def test_variable_set_in_first_call_is_there_in_second(sdk: str, run_example: Run) -> None:
    """A session keeps its state."""
    seen = run_example(sdk, "session_state")
    assert succeeded(sdk, seen, calls=2) == stdout("The value of x is 42\n")
    first, second = seen["calls"]
    assert first["outputs"] == []
    assert first["session_id"] == second["session_id"]


@pytest.mark.parametrize("example", ["numpy_matrix", "numpy_matrix_indented"])
@EVERY_SDK
def test_numpy_after_pip_install_prints_matrix_and_eigenvalues(sdk: str, example: str, run_example: Run) -> None:
    """The example with `!pip install numpy` in front; the TypeScript page has it indented."""
    outputs = succeeded(sdk, run_example(sdk, example))
    assert {output["type"] for output in outputs} == {"stdout"}
    text = "".join(output["data"] for output in outputs)
    assert "\r" not in text
    assert ANSI not in text
    rows = r"\[\[[^\[\]]+\]\n \[[^\[\]]+\]\n \[[^\[\]]+\]\]\n"
    matrix = re.search(rf"(?:\A|\n)Random matrix:\n({rows})\nEigenvalues:\n\[([^\]]+)\]\n\Z", text)
    assert matrix, text
    assert len(re.findall(r"\d\.\d*", matrix[1])) == MATRIX_SIDE**2
    # Eigenvalues of a random matrix may be complex, and each is then printed as two numbers.
    assert len(re.findall(r"\d\.\d*", matrix[2])) in (MATRIX_SIDE, 2 * MATRIX_SIDE)


@EVERY_SDK
def test_text_file_is_read_by_code(sdk: str, run_example: Run) -> None:
    """The cookbook's `data.txt`."""
    outputs = succeeded(sdk, run_example(sdk, "text_file"))
    assert outputs == stdout("Content read from data.txt: Sanguine is the colour of night.\n")


@pytest.mark.parametrize("example", ["script_file", "script_file_base64"])
@EVERY_SDK
def test_script_in_files_runs_from_shell(sdk: str, example: str, run_example: Run) -> None:
    """`myscript.py`, uploaded in both encodings and run with `!python`."""
    seen = run_example(sdk, example)
    assert succeeded(sdk, seen) == stdout(FROM_SCRIPT)
    assert seen["printed"] == [f"Status: {status_for(sdk)}", f"stdout: {FROM_SCRIPT}"]


@EVERY_SDK
def test_base64_image_arrives_with_every_byte(sdk: str, run_example: Run) -> None:
    """The cookbook's `tiny.png`."""
    outputs = succeeded(sdk, run_example(sdk, "binary_file"))
    assert outputs == stdout(
        "File 'tiny.png' exists.\nSize on disk: 68 bytes.\nSize of original decoded base64 data: 68 bytes.\n"
    )


@EVERY_SDK
def test_plot_comes_back_as_png(sdk: str, run_example: Run) -> None:
    """The matplotlib example."""
    outputs = succeeded(sdk, run_example(sdk, "plot"))
    assert [output["type"] for output in outputs] == ["display_data"]
    data = outputs[0]["data"]
    assert base64.b64decode(data["image/png"], validate=False).startswith(PNG_SIGNATURE)
    assert data["text/plain"] == "<Figure size 640x480 with 1 Axes>"


@EVERY_SDK
def test_last_expression_is_execute_result_with_its_quotes(sdk: str, run_example: Run) -> None:
    """A value comes back as its repr."""
    outputs = succeeded(sdk, run_example(sdk, "last_expression"))
    assert outputs == [{"type": "execute_result", "data": {"text/plain": "'ab'"}}]


@EVERY_SDK
def test_both_streams_are_told_apart(sdk: str, run_example: Run) -> None:
    """`stdout` and `stderr` are two outputs."""
    outputs = succeeded(sdk, run_example(sdk, "streams"))
    assert sorted(outputs, key=lambda output: str(output["type"])) == [
        {"type": "stderr", "data": "err\n"},
        {"type": "stdout", "data": "out\n"},
    ]


@EVERY_SDK
def test_empty_code_opens_session_without_outputs(sdk: str, run_example: Run) -> None:
    """`code` may be empty."""
    assert succeeded(sdk, run_example(sdk, "empty_code")) == []


@EVERY_SDK
def test_code_that_raises_gives_error_output(sdk: str, run_example: Run) -> None:
    """An exception of the code is an answer, not an exception of the SDK."""
    outputs = succeeded(sdk, run_example(sdk, "code_that_raises"))
    assert [output["type"] for output in outputs] == ["stdout", "error"]
    assert outputs[0]["data"] == "before\n"
    assert "ZeroDivisionError: division by zero" in outputs[1]["data"]
    assert ANSI not in outputs[1]["data"]


@FORMS
@pytest.mark.parametrize("sdk", LISTING)
def test_open_session_is_listed_with_five_fields(sdk: str, form: str, run_example: Run) -> None:
    """`sessions.list`, which the 1.x SDK does not have."""
    seen = run_example(sdk, "sessions_list", form=form)
    succeeded(sdk, seen)
    assert seen["sessions"]["errors"] is None
    listed = seen["sessions"]["sessions"]
    mine = [session for session in listed if session["id"] == seen["calls"][0]["session_id"]]
    assert len(mine) == 1
    fields = {"id", "started_at", "last_execute_at", "expires_at", "execute_count"}
    for session in listed:
        assert fields <= session.keys()
        assert all(session[name] is not None for name in fields)
    started, last, expires = (
        datetime.fromisoformat(mine[0][name]) for name in ("started_at", "last_execute_at", "expires_at")
    )
    assert mine[0]["execute_count"] == 1
    assert all(moment.utcoffset() == timedelta(0) for moment in (started, last, expires))
    assert started <= last < expires
    starts = [datetime.fromisoformat(session["started_at"]) for session in listed]
    assert starts == sorted(starts, reverse=True)


@FORMS
@EVERY_SDK
def test_unknown_session_raises_not_found(sdk: str, form: str, run_example: Run, live_service: LiveService) -> None:
    """The 1.x SDK has no class of its own for a 404."""
    status, body = ask(live_service, {"code": "print(1)", "session_id": UNKNOWN_SESSION}, live_service.key)
    assert (status, body["error"]["code"]) == (404, "session_not_found")
    seen = run_example(sdk, "unknown_session", form=form)
    check_refusal(seen, status, body)
    assert seen["error"]["type"] == NOT_FOUND[sdk]


@FORMS
@EVERY_SDK
def test_bad_key_raises_authentication_error(sdk: str, form: str, run_example: Run, live_service: LiveService) -> None:
    """A key that the server does not know."""
    status, body = ask(live_service, {"code": "print(1)"}, BAD_KEY)
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")
    seen = run_example(sdk, "bad_key", form=form, key=BAD_KEY)
    check_refusal(seen, status, body)
    assert seen["error"]["type"] == ("HTTP 401" if sdk == "curl" else "AuthenticationError")


@pytest.mark.parametrize("sdk", LISTING)
def test_bad_key_cannot_list_sessions(sdk: str, run_example: Run) -> None:
    """Nor does the list of sessions open to it."""
    seen = run_example(sdk, "bad_key_sessions_list", key=BAD_KEY)
    assert seen["sessions"] is None
    assert seen["error"]["type"] == ("HTTP 401" if sdk == "curl" else "AuthenticationError")


@EVERY_SDK
def test_file_outside_directory_raises_bad_request(sdk: str, run_example: Run, live_service: LiveService) -> None:
    """A file name that leaves the session's directory."""
    files = [{"name": "../evil.py", "encoding": "string", "content": "print(1)"}]
    status, body = ask(live_service, {"code": "print(1)", "files": files}, live_service.key)
    assert status in REFUSED
    assert body["error"]["param"]
    seen = run_example(sdk, "refused_file")
    check_refusal(seen, status, body)
    assert seen["error"]["type"] in BAD_REQUEST[sdk]


def test_run_longer_than_ten_seconds_reaches_every_sdk(sdks: Sdks, run_example: Run) -> None:
    """From the tenth second on, an answer starts with white space; all clients wait for it at once."""
    present = sdks.present(ALL)
    with ThreadPoolExecutor(len(present)) as pool:
        for sdk, seen in pool.map(lambda sdk: (sdk, run_example(sdk, "long_run")), present):
            assert succeeded(sdk, seen) == stdout("awake\n")
