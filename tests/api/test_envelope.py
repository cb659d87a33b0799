"""What goes in leniently, and the exact success envelope that comes out."""

import json
import re
from typing import Any
from unittest.mock import ANY

import pytest

from tests.conftest import Service

SESSION_ID = re.compile(r"ses_[1-9A-HJ-NP-Za-km-z]{21}")
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")

HELLO = {"language": "python", "code": "print('Hello, world!')"}


def test_hello_in_a_new_session_gives_the_exact_envelope(service: Service) -> None:
    answer = service.post(HELLO)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body == {
        "data": {
            "session_id": ANY,
            "outputs": [{"type": "stdout", "data": "Hello, world!\n"}],
            "status": "completed",
            "execution": ANY,
        },
        "errors": None,
    }
    assert SESSION_ID.fullmatch(body["data"]["session_id"])
    execution = body["data"]["execution"]
    assert execution["verdict"] == "ok"
    assert execution["execute_count"] == 1
    assert 0 < execution["duration_ms"] < 60_000
    assert MOMENT.fullmatch(execution["expires_at"])


def test_execution_says_cpu_and_memory(service: Service, session_id: str) -> None:
    execution = service.run("", session_id)["execution"]
    assert set(execution) == {
        "verdict",
        "duration_ms",
        "cpu_ms",
        "peak_memory_bytes",
        "execute_count",
        "expires_at",
    }


def test_code_that_raises_is_a_success_with_an_error_output(service: Service, session_id: str) -> None:
    data = service.run("print('before')\n1 / 0", session_id)
    assert data == {
        "session_id": session_id,
        "outputs": [{"type": "stdout", "data": "before\n"}, {"type": "error", "data": ANY}],
        "status": "completed",
        "execution": ANY,
    }
    assert "ZeroDivisionError: division by zero" in data["outputs"][1]["data"]
    assert "\x1b" not in data["outputs"][1]["data"]
    assert data["execution"]["verdict"] == "error"


@pytest.mark.parametrize("code", ["", " \n\t", "# comment", "1;", "None", "x = 1"])
def test_code_that_shows_nothing_gives_an_empty_list(service: Service, session_id: str, code: str) -> None:
    assert service.run(code, session_id)["outputs"] == []


def test_results_and_streams_keep_their_order(service: Service, session_id: str) -> None:
    code = """
import sys
from IPython.display import display, JSON
print('one'); print('two')
sys.stdout.flush(); print('three', file=sys.stderr)
display(JSON({'a': [1, {'b': None}]}))
print('four')
'five'
"""
    assert service.run(code, session_id)["outputs"] == [
        {"type": "stdout", "data": "one\ntwo\n"},
        {"type": "stderr", "data": "three\n"},
        {"type": "display_data", "data": {"application/json": {"a": [1, {"b": None}]}, "text/plain": ANY}},
        {"type": "stdout", "data": "four\n"},
        {"type": "execute_result", "data": {"text/plain": "'five'"}},
    ]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, "completed"),
        ({"User-Agent": "together-python"}, "completed"),
        ({"X-Stainless-Lang": "python"}, "success"),
        ({"x-stainless-retry-count": "0"}, "success"),
        ({"X-STAINLESS-RUNTIME": ""}, "success"),
        ({"X-Stainles": "x"}, "completed"),
    ],
)
def test_stainless_header_decides_the_status(
    service: Service, session_id: str, headers: dict[str, str], status: str
) -> None:
    answer = service.post({"code": "", "session_id": session_id}, headers=headers)
    assert answer.json()["data"]["status"] == status


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "application/x-www-form-urlencoded",
        "text/plain",
        "application/json; charset=latin-1",
        "multipart/form-data",
    ],
)
def test_any_content_type_is_read_as_json(service: Service, session_id: str, content_type: str | None) -> None:
    content = json.dumps({"code": "print('\N{SNOWMAN}')", "session_id": session_id}, ensure_ascii=False).encode()
    headers = {"Content-Type": content_type} if content_type else {}
    answer = service.client.post("/tci/execute", content=content, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"]["outputs"] == [{"type": "stdout", "data": "\N{SNOWMAN}\n"}]


@pytest.mark.parametrize(
    "extra",
    [
        {"files": None},
        {"files": []},
        {"unknown": {"deep": [[[1.5e300, -0.0, None]]]}},
        {"timeout": 5, "background": True, "metadata": None},
        {"files": [{"name": "f", "encoding": "string", "content": "", "mode": 0o777, "path": "/etc/passwd"}]},
    ],
)
def test_null_and_unknown_fields_are_ignored(service: Service, session_id: str, extra: dict[str, Any]) -> None:
    answer = service.post({"code": "print(1)", "session_id": session_id, **extra})
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"]["outputs"] == [{"type": "stdout", "data": "1\n"}]


def test_missing_language_is_python_and_null_session_is_new(service: Service, session_id: str) -> None:
    data = service.post({"code": "2 + 2", "session_id": None, "files": None}).json()["data"]
    assert data["outputs"] == [{"type": "execute_result", "data": {"text/plain": "4"}}]
    assert data["session_id"] != session_id


@pytest.mark.parametrize("space", [b" ", b"\n\t\r\n"])
def test_white_space_around_the_body_is_ignored(service: Service, session_id: str, space: bytes) -> None:
    content = space + json.dumps({"code": "", "session_id": session_id}).encode() + space
    assert service.client.post("/tci/execute", content=content).status_code == 200


def test_surrogate_pair_in_code_is_one_character(service: Service, session_id: str) -> None:
    content = rf'{{"code": "print(len(\"\ud83d\ude00\"))", "session_id": "{session_id}"}}'
    answer = service.client.post("/tci/execute", content=content)
    assert answer.json()["data"]["outputs"] == [{"type": "stdout", "data": "1\n"}]


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        (r"print('\ud800')", "\N{REPLACEMENT CHARACTER}\n"),
        (r"print('a\0b')", "a\0b\n"),
        ("import sys; sys.stdout.buffer.write(b'')", None),
        (r"print('\u2028\x7f\x1b[31m')", "\u2028\x7f\x1b[31m\n"),
    ],
)
def test_odd_text_is_valid_json(service: Service, session_id: str, code: str, shown: str | None) -> None:
    outputs = service.run(code, session_id)["outputs"]
    if shown is not None:
        assert outputs == [{"type": "stdout", "data": shown}]


@pytest.mark.parametrize("depth", [100, 250, 400, 900, 1100, 5000])
def test_deep_json_display_is_answered(service: Service, session_id: str, depth: int) -> None:
    code = f"""
from IPython.display import publish_display_data
value = {{}}
for _ in range({depth}): value = {{'a': value}}
publish_display_data({{'application/json': value, 'text/plain': 'deep'}})
"""
    data = service.run(code, session_id)
    assert data["execution"]["verdict"] in ("ok", "error")
    assert service.stdout("print('alive')", session_id) == "alive\n"


def test_not_a_number_in_a_display_is_null(service: Service, session_id: str) -> None:
    code = """
from IPython.display import publish_display_data
publish_display_data({'application/json': {'x': [float('nan'), float('inf'), 1.5]}})
"""
    assert service.run(code, session_id)["outputs"] == [
        {"type": "display_data", "data": {"application/json": {"x": [None, None, 1.5]}}}
    ]
