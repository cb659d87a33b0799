"""Limits of the body, of an account and of the machine, each refused before anything is run."""

import json
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.api.conftest import BODY_LIMIT
from tests.api.failures import assert_failure
from tests.api.raw import Connection, bearer, connection, request
from tests.conftest import Service, file_of

DIE = "import os; os._exit(0)"
"""Ends its session, the quickest way to give its place back."""


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def open_chunked(opened: Connection, service: Service, **headers: str) -> None:
    opened.send(
        request("POST", "/tci/execute", b"", authorization=bearer(service), transfer_encoding="chunked", **headers)
    )


def test_body_at_the_limit_is_read(tight_service: Service) -> None:
    empty = json.dumps({"code": "", "session_id": "x"})
    body = {"code": "#" * (BODY_LIMIT - len(empty)), "session_id": "x"}
    content = json.dumps(body)
    assert len(content) == BODY_LIMIT
    assert tight_service.client.post("/tci/execute", content=content).status_code == 404
    answer = tight_service.client.post("/tci/execute", content=content + " ")
    assert_failure(answer, 413, "body_too_large")


@pytest.mark.parametrize("length", [BODY_LIMIT + 1, 10**9, 10**18])
def test_declared_length_over_the_limit_is_refused_unread(tight_service: Service, length: int) -> None:
    with connection(tight_service) as opened:
        headers = {"authorization": bearer(tight_service), "content_length": str(length)}
        opened.send(request("POST", "/tci/execute", b"{", **headers))
        message = assert_failure(opened.read(), 413, "body_too_large")
        assert str(BODY_LIMIT) in message


@pytest.mark.parametrize("length", [BODY_LIMIT + 1, 10**9])
def test_length_over_the_limit_is_not_invited(tight_service: Service, length: int) -> None:
    with connection(tight_service) as opened:
        headers = {
            "authorization": bearer(tight_service),
            "content_length": str(length),
            "expect": "100-continue",
        }
        opened.send(request("POST", "/tci/execute", b"", **headers))
        assert_failure(opened.read(), 413, "body_too_large")


def test_chunked_body_over_the_limit_is_refused_while_it_is_read(tight_service: Service) -> None:
    with connection(tight_service, timeout=10) as opened:
        open_chunked(opened, tight_service)
        for _ in range(BODY_LIMIT // 10_000):
            opened.send(chunk(b" " * 10_000))
            time.sleep(0.01)
        opened.send(chunk(b" "))
        # No last chunk is sent: a service that reads on never answers.
        answer = opened.read()
        assert_failure(answer, 413, "body_too_large")
        assert answer.headers["connection"] == "close"
        assert opened.is_closed()


def test_chunked_body_below_the_limit_runs(service: Service, session_id: str) -> None:
    content = json.dumps({"code": "print('chunked')", "session_id": session_id}).encode()
    with connection(service) as opened:
        open_chunked(opened, service)
        for byte in content:
            opened.send(chunk(bytes([byte])))
        opened.send(b"0\r\n\r\n")
        assert opened.read().json()["data"]["outputs"] == [{"type": "stdout", "data": "chunked\n"}]


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_client_that_sends_all_before_reading_hears_the_refusal(tight_service: Service, *, is_chunked: bool) -> None:
    part = b" " * 65536

    def parts() -> Iterator[bytes]:
        for _ in range(200):
            yield part

    content = parts() if is_chunked else part * 200
    headers = {"Authorization": bearer(tight_service)}
    for _ in range(5):
        with httpx.Client(base_url=tight_service.url, headers=headers) as client:
            assert_failure(client.post("/tci/execute", content=content), 413, "body_too_large")
        if is_chunked:
            content = parts()


@pytest.mark.parametrize("path", ["/tci/execute", "/tci/sessions", "/nowhere"])
def test_large_body_without_a_key_is_refused(tight_service: Service, path: str) -> None:
    answer = httpx.post(tight_service.url + path, content=b" " * (BODY_LIMIT + 1))
    assert_failure(answer, 413, "body_too_large")


def test_account_and_machine_at_their_limits_are_refused_with_a_time(tight_service: Service) -> None:
    service = tight_service
    first = service.run("x = 1")["session_id"]
    answer = service.post({"code": ""})
    assert_failure(answer, 429, "quota_exceeded")
    # The limit is of new sessions: the one there is goes on.
    assert service.stdout("print(x)", first) == "1\n"

    other = {"Authorization": f"Bearer {service.new_key('other')}"}
    answer = service.post({"code": "", "files": [file_of("f", "x")]}, headers=other)
    assert_failure(answer, 503, "no_capacity")
    assert service.client.get("/tci/sessions", headers=other).json()["data"]["sessions"] == []

    # What was refused took no place.
    service.run(DIE, first)
    answer = service.post({"code": DIE}, headers=other)
    assert answer.status_code == 200
    assert service.run(DIE)["execution"]["verdict"] == "kernel_died"


def test_refused_files_take_no_place(tight_service: Service) -> None:
    files = [file_of("f", "x"), file_of("f/g", "x")]
    for _ in range(2):
        answer = tight_service.post({"code": "", "files": files})
        assert_failure(answer, 400, "invalid_file", param="files")
    assert tight_service.run(DIE)["execution"]["verdict"] == "kernel_died"
