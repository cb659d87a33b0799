"""Requests that are refused: what is wrong with each, which field it names, and that nothing of it runs."""

import codecs
import gzip
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.failures import assert_failure
from tests.conftest import Service, file_of

DEEP = 100_000

MALFORMED = {
    "empty": b"",
    "space": b"  \n",
    "cut": b'{"code": "x"',
    "trailing comma": b'{"code": "x",}',
    "two values": b'{"code": "x"} {}',
    "single quotes": b"{'code': 'x'}",
    "form": b"code=x&language=python",
    "not UTF-8": b'{"code": "\xff\xfe"}',
    "UTF-8 surrogate": b'{"code": "\xed\xa0\x80"}',
    "lone surrogate": rb'{"code": "\ud800"}',
    "bad escape": rb'{"code": "\x41"}',
    "raw control character": b'{"code": "a\x00b"}',
    "UTF-16": '{"code": "x"}'.encode("utf-16"),
    "byte order mark": codecs.BOM_UTF8 + b'{"code": "x"}',
    "gzip": gzip.compress(b'{"code": "x"}'),
    "deep list": b'{"code": "x", "y": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep object": b'{"x":' * DEEP + b"1" + b"}" * DEEP,
    "unclosed list": b"[" * DEEP,
    "long number": b'{"code": "x", "y": ' + b"9" * 100_000 + b"x}",
}

NOT_OBJECTS = [b"[]", b'"x"', b"5", b"null", b"true", b"NaN", b'[{"code": "x"}]']

FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"language": "python"}, "code"),
    ({"code": None}, "code"),
    ({"code": 5}, "code"),
    ({"code": True}, "code"),
    ({"code": ["print(1)"]}, "code"),
    ({"code": {}}, "code"),
    ({"code": float("nan")}, "code"),
    ({"Code": "print(1)"}, "code"),
    ({"code": "", "language": "javascript"}, "language"),
    ({"code": "", "language": "Python"}, "language"),
    ({"code": "", "language": ""}, "language"),
    ({"code": "", "language": None}, "language"),
    ({"code": "", "language": 3}, "language"),
    ({"code": "", "language": 'py"\\\u2603'}, "language"),
    ({"code": "", "session_id": 5}, "session_id"),
    ({"code": "", "session_id": True}, "session_id"),
    ({"code": "", "session_id": []}, "session_id"),
    ({"code": "", "session_id": {"id": "x"}}, "session_id"),
    *[({"code": "", "timeout": value}, "timeout") for value in ("5", True, 0, -1, [], {}, float("inf"))],
    ({"code": "", "files": {}}, "files"),
    ({"code": "", "files": "x"}, "files"),
    ({"code": "", "files": 5}, "files"),
    ({"code": "", "files": [None]}, "files.0"),
    ({"code": "", "files": ["x"]}, "files.0"),
    ({"code": "", "files": [[]]}, "files.0"),
    ({"code": "", "files": [{}]}, "files.0.name"),
    ({"code": "", "files": [{"encoding": "string", "content": ""}]}, "files.0.name"),
    ({"code": "", "files": [{"name": 5, "encoding": "string", "content": ""}]}, "files.0.name"),
    ({"code": "", "files": [{"name": None, "encoding": "string", "content": ""}]}, "files.0.name"),
    ({"code": "", "files": [{"name": "f", "content": ""}]}, "files.0.encoding"),
    ({"code": "", "files": [{"name": "f", "encoding": None, "content": ""}]}, "files.0.encoding"),
    ({"code": "", "files": [{"name": "f", "encoding": "utf-8", "content": ""}]}, "files.0.encoding"),
    ({"code": "", "files": [{"name": "f", "encoding": "BASE64", "content": ""}]}, "files.0.encoding"),
    ({"code": "", "files": [{"name": "f", "encoding": "string"}]}, "files.0.content"),
    ({"code": "", "files": [{"name": "f", "encoding": "string", "content": None}]}, "files.0.content"),
    ({"code": "", "files": [{"name": "f", "encoding": "string", "content": 5}]}, "files.0.content"),
    ({"code": "", "files": [{"name": "f", "encoding": "base64", "content": ["eA=="]}]}, "files.0.content"),
    ({"code": "", "files": [file_of("ok", "x"), file_of("../x", "x")]}, "files.1.name"),
]

NAMES = {
    "absolute": "/etc/passwd",
    "slash": "/",
    "double slash": "//x",
    "parent": "../x",
    "only parent": "..",
    "parent inside": "a/../../x",
    "parent that stays": "a/../x",
    "parent at the end": "a/..",
    "empty": "",
    "dot": ".",
    "dot part": "./x",
    "dot inside": "a/./x",
    "empty part": "a//x",
    "trailing slash": "a/",
    "NUL": "a\0b",
    "long part": "x" * 256,
    "long part of wide characters": "\N{SNOWMAN}" * 90,
    "long": "a/" * 2500 + "x",
    "many parts": "/".join("a" * 600),
}

BAD_BASE64 = [
    "!",
    "YQ",
    "YQ=",
    "=",
    "====",
    "YQ==YQ==",
    "Y",
    "YW-_",
    "\N{SNOWMAN}",
    "YQ=\N{SNOWMAN}",
    "data:;base64,YQ==",
]


@pytest.mark.parametrize("content", MALFORMED.values(), ids=list(MALFORMED))
def test_malformed_body_is_refused(service: Service, content: bytes) -> None:
    answer = service.client.post("/tci/execute", content=content)
    assert_failure(answer, 400, "invalid_request")


@pytest.mark.parametrize("content", NOT_OBJECTS)
def test_body_that_is_no_object_is_refused(service: Service, content: bytes) -> None:
    assert_failure(service.client.post("/tci/execute", content=content), 400, "invalid_request")


@pytest.mark.parametrize(("body", "param"), FIELDS)
def test_field_of_wrong_type_is_named(service: Service, body: dict[str, Any], param: str) -> None:
    answer = service.client.post("/tci/execute", content=json.dumps(body))
    message = assert_failure(answer, 400, "invalid_request", param=param)
    assert param in message


def test_lone_surrogate_in_a_file_is_refused(service: Service) -> None:
    for file in ({"name": "\ud800", "content": ""}, {"name": "f", "content": "\udfff"}):
        body = json.dumps({"code": "", "files": [{"encoding": "string", **file}]})
        assert_failure(service.client.post("/tci/execute", content=body), 400, "invalid_request")


def test_duplicated_field_is_taken_once(service: Service, session_id: str) -> None:
    content = f'{{"code": "print(1)", "code": "print(2)", "session_id": null, "session_id": "{session_id}"}}'
    answer = service.client.post("/tci/execute", content=content)
    assert answer.json()["data"]["outputs"] == [{"type": "stdout", "data": "2\n"}]


def test_refused_files_leave_the_session_untouched(service: Service, session_id: str) -> None:
    service.run("import os; ran = 0; before = sorted(os.listdir())", session_id)
    good = file_of("good.txt", "x")
    bad = [file_of(name, "x") for name in NAMES.values()]
    bad += [{"name": "f", "encoding": "base64", "content": content} for content in BAD_BASE64]
    bad += [{"name": "f", "encoding": "hex", "content": "00"}, {"name": "f"}]
    for file in bad:
        for files in ([file], [good, file], [file, good]):
            answer = service.post({"code": "ran += 1", "session_id": session_id, "files": files})
            assert answer.status_code == 400, file
    assert service.stdout("print(ran, sorted(os.listdir()) == before)", session_id) == "0 True\n"


@pytest.mark.parametrize("name", NAMES.values(), ids=list(NAMES))
def test_file_name_that_no_file_may_have_is_refused(service: Service, name: str) -> None:
    answer = service.post({"code": "", "files": [file_of(name, "x")]})
    message = assert_failure(answer, 400, "invalid_request", param="files.0.name")
    assert "files.0.name" in message


@pytest.mark.parametrize("content", BAD_BASE64)
def test_bad_base64_is_refused(service: Service, content: str) -> None:
    file = {"name": "f", "encoding": "base64", "content": content}
    answer = service.post({"code": "", "files": [file]})
    message = assert_failure(answer, 400, "invalid_request", param=answer.json()["error"]["param"])
    assert answer.json()["error"]["param"] in ("files.0", "files.0.content")
    assert "base64" in message


def test_refused_request_opens_no_session(service: Service, stranger: httpx.Client) -> None:
    before = stranger.get("/tci/sessions").json()
    for files in ([file_of("../x", "x")], [{"name": "f", "encoding": "base64", "content": "!"}]):
        assert stranger.post("/tci/execute", json={"code": "1", "files": files}).status_code == 400
    assert stranger.get("/tci/sessions").json() == before
    assert service.client.get("/health").status_code == 200


@pytest.mark.parametrize(("item", "param"), [("{}", "files.0.name"), ("0", "files.0")])
def test_million_bad_files_are_refused_at_the_first(service: Service, item: str, param: str) -> None:
    """To tell of each would take half a minute and gigabytes."""

    def peak() -> int:
        return sum(
            int(line.split()[1])
            for line in Path(f"/proc/{service.process.pid}/status").read_text().splitlines()
            if line.startswith("VmHWM")
        )

    before = peak()
    answer = service.client.post("/tci/execute", content=f'{{"code": "", "files": [{",".join([item] * 1_000_000)}]}}')
    assert_failure(answer, 400, "invalid_request", param=param)
    assert peak() - before < 300_000, "in KiB"


def test_too_many_files_are_refused(service: Service) -> None:
    files = [file_of(f"f{number}", "") for number in range(10_001)]
    answer = service.post({"code": "", "files": files})
    assert "at most 10000" in assert_failure(answer, 400, "invalid_request", param="files")
