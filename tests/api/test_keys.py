"""Keys: one answer for every bad one, a hash in the database, and the command line that makes them."""

import hashlib
import json
import time

import httpx
import pytest

from tests.api.failures import assert_failure
from tests.api.raw import bearer, connection, request
from tests.conftest import Service

BAD = [
    None,
    b"",
    b"Bearer",
    b"Bearer unknown",
    b"Bearer tci_" + b"1" * 40,
    b"Basic dGNpOnRjaQ==",
    b"Token tci_test_key_of_the_first_account",
    b"tci_test_key_of_the_first_account",
    b"Bearer tci_test_key_of_the_first_accoun",
    b"Bearer TCI_TEST_KEY_OF_THE_FIRST_ACCOUNT",
    b"Bearer tci_test_key_of_the_first_account x",
    b"Bearer \xff\xfe\x80",
    b"Bearer \xc3\xa9\xed\xa0\x80",
    b"Bearer ' OR 1=1 --",
    b"Bearer " + b"x" * 20_000,
    b"B\xe9arer x",
]


@pytest.mark.parametrize(
    "path",
    [
        "/tci/execute",
        "/v1/tci/execute",
        "/tci/sessions",
        "/v1//tci/sessions",
        "/tci/usage",
        "/tci/sessions/x/files",
        "/v1/tci/sessions/x/files/f",
    ],
)
@pytest.mark.parametrize("authorization", BAD)
def test_bad_authorization_is_refused(anonymous: httpx.Client, path: str, authorization: bytes | None) -> None:
    headers = {} if authorization is None else {b"Authorization": authorization}
    method = "POST" if path.endswith("execute") else "GET"
    answer = anonymous.request(method, str(anonymous.base_url).rstrip("/") + path, headers=headers)
    message = assert_failure(answer, 401, "invalid_api_key")
    assert message == "Invalid API key. Send a valid one as 'Authorization: Bearer <key>'."


@pytest.mark.parametrize("content", [b"", b"{", b'{"code": 5}', b'{"code": "", "session_id": "x"}'])
def test_bad_key_with_any_body_learns_nothing(anonymous: httpx.Client, content: bytes) -> None:
    assert_failure(anonymous.post("/tci/execute", content=content), 401, "invalid_api_key")


@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "BEARER {}", "Bearer   {}"])
def test_scheme_in_any_case_is_accepted(service: Service, form: str) -> None:
    answer = service.client.get("/tci/sessions", headers={"Authorization": form.format(service.key)})
    assert answer.status_code == 200


def test_key_in_second_authorization_is_refused(service: Service) -> None:
    content = json.dumps({"code": ""}).encode()
    head = f"POST /tci/execute HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n"
    keys = f"authorization: Bearer unknown\r\nauthorization: {bearer(service)}\r\n\r\n"
    with connection(service) as opened:
        opened.send((head + keys).encode() + content)
        assert_failure(opened.read(), 401, "invalid_api_key")


def test_key_in_query_or_other_header_is_refused(service: Service) -> None:
    with connection(service) as opened:
        opened.send(request("GET", f"/tci/sessions?api_key={service.key}", x_api_key=service.key))
        assert_failure(opened.read(), 401, "invalid_api_key")


def test_key_made_listed_revoked_is_refused_within_five_seconds(service: Service) -> None:
    key = service.new_key("short-lived")
    headers = {"Authorization": f"Bearer {key}"}
    assert service.client.get("/tci/sessions", headers=headers).json() == {
        "data": {"sessions": []},
        "errors": None,
    }

    lines = [line.split("\t") for line in service.tci("keys", "list").stdout.splitlines()]
    key_id, account, prefix, _made, state, *_rights = next(line for line in lines if line[1] == "short-lived")
    assert (account, prefix, state) == ("short-lived", f"{key[:8]}...", "valid")

    assert key_id in service.tci("keys", "revoke", key_id).stdout
    give_up = time.monotonic() + 5
    while service.client.get("/tci/sessions", headers=headers).status_code == httpx.codes.OK:
        assert time.monotonic() < give_up
    assert_failure(service.client.get("/tci/sessions", headers=headers), 401, "invalid_api_key")
    assert_failure(service.post({"code": ""}, headers=headers), 401, "invalid_api_key")

    lines = [line.split("\t") for line in service.tci("keys", "list").stdout.splitlines()]
    assert next(line[4] for line in lines if line[0] == key_id).startswith("revoked ")


def test_two_keys_of_one_account_see_the_same_sessions(service: Service, session_id: str) -> None:
    headers = {"Authorization": f"Bearer {service.new_key('default')}"}
    answer = service.client.get("/tci/sessions", headers=headers).json()
    assert session_id in [session["id"] for session in answer["data"]["sessions"]]


def test_only_a_hash_is_stored(service: Service) -> None:
    key = service.new_key("hashed")
    stored = b"".join(file.read_bytes() for file in service.data_dir.glob("tci.sqlite3*"))
    assert hashlib.sha256(key.encode()).hexdigest().encode() in stored
    assert key.encode() not in stored
    assert key[10:].encode() not in stored
    assert service.key.encode() not in stored
    assert key.encode() not in service.log.read_bytes()
