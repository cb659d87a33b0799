"""HTTP that no ordinary client sends: answered in the one form, and never the next caller's trouble."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.api.failures import assert_failure
from tests.api.raw import bearer, connection, request
from tests.conftest import Service

POST = b"POST /tci/execute HTTP/1.1\r\nhost: x\r\n"

MALFORMED = {
    "no HTTP": b"hello\r\n\r\n",
    "future version": b"GET /tci/sessions HTTP/9.9\r\nhost: x\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "negative length": POST + b"content-length: -1\r\n\r\n",
    "endless length": POST + b"content-length: " + b"9" * 40 + b"\r\n\r\n",
    "two lengths": POST + b"content-length: 1\r\ncontent-length: 2\r\n\r\n{}",
    "length and chunks": POST + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "bad chunk": POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n",
    "space in a header's name": b"GET /tci/sessions HTTP/1.1\r\nhost : x\r\n\r\n",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=list(MALFORMED))
def test_malformed_http_is_refused_in_the_one_form(service: Service, data: bytes) -> None:
    with connection(service) as opened:
        opened.send(data)
        answer = opened.read()
        assert 400 <= answer.status_code < 500
        body = answer.json()
        assert body == {
            "error": {**body["error"], "message": body["message"], "param": None},
            "message": body["message"],
            "data": None,
            "errors": [body["message"]],
        }


def test_pipelined_requests_are_answered_in_order(service: Service, session_id: str) -> None:
    bodies = [{"code": f"print({number})", "session_id": session_id} for number in range(5)]
    with connection(service) as opened:
        opened.send(b"".join(request("POST", "/tci/execute", body, authorization=bearer(service)) for body in bodies))
        printed = [opened.read().json()["data"]["outputs"][0]["data"] for _ in bodies]
    assert printed == [f"{number}\n" for number in range(5)]


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
@pytest.mark.parametrize("kept", ["close", "keep-alive"])
def test_connection_is_closed_or_kept_as_asked(service: Service, session_id: str, version: bytes, kept: str) -> None:
    body = {"code": "print(1)", "session_id": session_id}
    data = request("POST", "/tci/execute", body, authorization=bearer(service), connection=kept)
    with connection(service) as opened:
        opened.send(data.replace(b"HTTP/1.1", version, 1))
        answer = opened.read()
        assert answer.json()["data"]["outputs"] == [{"type": "stdout", "data": "1\n"}]
        if kept == "close" or answer.headers.get("connection") == "close" or version == b"HTTP/1.0":
            assert opened.is_closed()
        else:
            opened.send(request("GET", "/nowhere"))
            assert_failure(opened.read(), 404, "not_found")


def test_request_sent_byte_by_byte_runs(service: Service, session_id: str) -> None:
    data = request(
        "POST",
        "/v1//tci/execute",
        {"code": "print(1)", "session_id": session_id},
        authorization=bearer(service),
    )
    with connection(service) as opened:
        for byte in data:
            opened.send(bytes([byte]))
        assert opened.read().status_code == 200


def test_length_is_invited_once_the_key_is_good(service: Service, session_id: str) -> None:
    content = json.dumps({"code": "", "session_id": session_id}).encode()
    length = str(len(content))
    for key, status in ((bearer(service), 200), ("Bearer unknown", 401)):
        with connection(service) as opened:
            head = request("POST", "/tci/execute", authorization=key, expect="100-continue", content_length=length)
            opened.send(head)
            line = opened.stream.readline()
            if status == 200:
                assert line.startswith(b"HTTP/1.1 100")
                assert opened.stream.readline() == b"\r\n"
                opened.send(content)
                assert opened.read().status_code == 200
            else:
                assert line.startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize("path", ["/tci/execute", "/v1//tci/sessions", "/nowhere"])
def test_upgrade_is_refused_in_the_one_form(service: Service, path: str) -> None:
    headers = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec_websocket_version": "13",
        "sec_websocket_key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    with connection(service) as opened:
        opened.send(request("GET", path, **headers))
        answer = opened.read()
        assert 400 <= answer.status_code < 500
        assert answer.json()["data"] is None


def test_client_that_leaves_in_the_middle_of_its_body_is_not_a_bug(service: Service) -> None:
    before = service.log.read_text().count("Traceback")
    for _ in range(3):
        with connection(service) as opened:
            head = {"authorization": bearer(service), "content_length": "1000"}
            opened.send(request("POST", "/tci/execute", b'{"code"', **head))
            time.sleep(0.05)
    time.sleep(0.3)
    assert service.client.get("/health").status_code == 200
    assert service.log.read_text().count("Traceback") == before


def test_client_that_leaves_while_its_code_runs_leaves_the_session_usable(service: Service, session_id: str) -> None:
    body = {"code": "import time; time.sleep(1.5)", "session_id": session_id}
    with connection(service) as opened:
        opened.send(request("POST", "/tci/execute", body, authorization=bearer(service)))
        time.sleep(0.2)
    assert service.stdout("print('still here')", session_id) == "still here\n"


def test_calls_at_once_on_one_session_run_one_after_the_other(service: Service, session_id: str) -> None:
    service.run("log = []", session_id)
    code = "import time; log.append('in'); time.sleep(0.02); log.append('out'); print(len(log))"
    with ThreadPoolExecutor(10) as pool:
        printed = list(pool.map(lambda _: service.stdout(code, session_id), range(10)))
    assert sorted(int(text) for text in printed) == list(range(2, 21, 2))
    assert service.stdout("print(log == ['in', 'out'] * 10)", session_id) == "True\n"


def test_new_sessions_at_once_are_apart(service: Service) -> None:
    codes = [f"import os; number = {number}; print(number, os.listdir())" for number in range(6)]
    with ThreadPoolExecutor(len(codes)) as pool:
        answers = list(pool.map(service.run, codes))
    assert [answer["outputs"] for answer in answers] == [
        [{"type": "stdout", "data": f"{number} []\n"}] for number in range(6)
    ]
    assert len({answer["session_id"] for answer in answers}) == len(codes)
    for answer in answers:  # their places are wanted by other tests
        service.run("import os; os._exit(0)", answer["session_id"])


def test_headers_without_end_are_refused(service: Service) -> None:
    sent = 0
    with connection(service, timeout=5) as opened:
        opened.send(b"GET /tci/sessions HTTP/1.1\r\nhost: x\r\n")
        try:
            while sent < 4 * 1024**2:
                opened.send(b"x-filler: " + b"x" * 65000 + b"\r\n")
                sent += 65000
        except (ConnectionResetError, BrokenPipeError):
            return
        assert 400 <= opened.read().status_code < 500
