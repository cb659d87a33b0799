"""The service against requests made from its own OpenAPI document: whatever comes, the answer is a documented one."""

import json
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from tests.api.failures import assert_failure
from tests.conftest import Service, serving

HARMLESS = "1+1"
"""What runs wherever code would run."""

CODES = {
    400: {"invalid_request", "invalid_file"},
    401: {"invalid_api_key"},
    404: {"session_not_found", "account_not_found", "file_not_found"},
    405: {"method_not_allowed"},
    413: {"body_too_large", "disk_full"},
    416: {"range_not_satisfiable"},
    429: {"quota_exceeded", "rate_limited"},
    503: {"no_capacity", "unavailable"},
}
"""Every failure that a request may meet, by its status."""

BOUNDED = settings(
    max_examples=25,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
"""The same requests in every run: this suite guards, it does not explore."""

PREFIXES = ["", "/v1"]
MODES = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
CHECKS = [content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="session")
def fuzzed(driver: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with short limits, of time above all."""
    limits = {
        "timeout_seconds": 5,
        "max_timeout_seconds": 10,
        "grace_seconds": 1,
        "max_body_bytes": 100_000,
        "max_sessions_per_account": 2,
        "max_sandboxes": 2,
    }
    with serving(driver, tmp_path_factory.mktemp(f"fuzz-{driver}") / "data", **limits) as running:
        yield running


@pytest.fixture(scope="session")
def document(fuzzed: Service) -> dict[str, Any]:
    """The service's own description."""
    found: dict[str, Any] = fuzzed.client.get("/openapi.json").json()
    return found


class Sessions:
    """One session that all requests share, opened again when a request has ended it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._id: str | None = None

    def current(self) -> str:
        if self._id is None or self._service.post({"code": "", "session_id": self._id}).status_code != HTTPStatus.OK:
            self._id = str(self._service.run("")["session_id"])
        return self._id


@pytest.fixture(scope="session")
def sessions(fuzzed: Service) -> Sessions:
    return Sessions(fuzzed)


def test_every_reference_of_the_document_resolves(document: dict[str, Any]) -> None:
    for reference in references(document):
        place: Any = document
        for key in reference.removeprefix("#/").split("/"):
            assert key in place, reference
            place = place[key]


def references(value: Any) -> Iterator[str]:
    """Give every `$ref` of a document."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def operation_of(document: dict[str, Any], prefix: str, path: str, method: str) -> Any:
    """Return an operation below a prefix; only the paths without one are in the document."""
    body = document["paths"]["/tci/execute"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    hoisted = {"$defs": body["$defs"]} if "$defs" in body else {}
    paths = {f"{prefix}{name}": item for name, item in document["paths"].items()}
    schema = schemathesis.openapi.from_dict({**document, **hoisted, "paths": paths})
    return schema[f"{prefix}{path}"][method]


def harmless(body: Any, session_id: str) -> Any:
    """Return a body that runs nothing but harmless code, in a session that is there or in none."""
    if not isinstance(body, dict):
        return body
    if isinstance(body.get("code"), str):
        body = {**body, "code": HARMLESS}
    # Without one each request would open a session; a text of the generator's own names none.
    if body.get("session_id") is None:
        body = {**body, "session_id": session_id}
    return body


def assert_documented(answer: httpx.Response, case: Case | None = None) -> None:
    """Check an answer: a success fits its schema, anything else is a failure in its one form."""
    if answer.status_code == HTTPStatus.OK:
        if case is not None:
            case.validate_response(answer, checks=CHECKS)
        return
    assert answer.status_code in CODES, f"{answer.status_code}: {answer.text}"
    error = answer.json()["error"]
    assert error["code"] in CODES[answer.status_code]
    assert_failure(answer, answer.status_code, error["code"], param=error["param"])


def as_json(body: Any) -> bytes:
    """Return a body as Python writes JSON: ASCII, so that lone surrogates can be sent."""
    return json.dumps(body, default=str).encode()


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("prefix", PREFIXES, ids=["plain", "v1"])
def test_any_body_gets_a_documented_answer(
    fuzzed: Service, document: dict[str, Any], sessions: Sessions, prefix: str, mode: GenerationMode
) -> None:
    statuses: set[int] = set()

    @BOUNDED
    @given(operation_of(document, prefix, "/tci/execute", "POST").as_strategy(generation_mode=mode), st.booleans())
    def check(case: Case, has_session: bool) -> None:
        body = harmless(case.body, sessions.current())
        if has_session and isinstance(body, dict):
            body["session_id"] = sessions.current()
        answer = fuzzed.client.post(f"{prefix}/tci/execute", content=as_json(body))
        statuses.add(answer.status_code)
        assert_documented(answer, case)

    check()
    assert HTTPStatus.BAD_REQUEST in statuses or mode is GenerationMode.POSITIVE
    assert HTTPStatus.OK in statuses or mode is GenerationMode.NEGATIVE


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("prefix", PREFIXES, ids=["plain", "v1"])
def test_any_body_without_a_key_is_refused(
    fuzzed: Service, document: dict[str, Any], prefix: str, mode: GenerationMode
) -> None:
    with httpx.Client(base_url=fuzzed.url) as anonymous:

        @BOUNDED
        @given(operation_of(document, prefix, "/tci/execute", "POST").as_strategy(generation_mode=mode))
        def check(case: Case) -> None:
            answer = anonymous.post(f"{prefix}/tci/execute", content=as_json(case.body))
            assert_failure(answer, 401, "invalid_api_key")

        check()


HEADER_NAMES = st.sampled_from(
    ["accept", "content-type", "x-stainless-lang", "x-request-id", "accept-encoding", "cookie", "x-forwarded-for"]
)
HEADERS = st.dictionaries(HEADER_NAMES, st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1))
PARAMETERS = st.dictionaries(st.text(max_size=10), st.text(max_size=10), max_size=3)
UNENCODABLE = st.characters(codec="utf-8")


@pytest.mark.parametrize("path", ["/tci/sessions", "/v1/tci/sessions", "/health"])
def test_any_headers_and_query_get_the_list(fuzzed: Service, document: dict[str, Any], path: str) -> None:
    prefix = "/v1" if path.startswith("/v1") else ""
    operation = operation_of(document, prefix, path.removeprefix(prefix), "GET")

    @BOUNDED
    @given(operation.as_strategy(), HEADERS, PARAMETERS)
    def check(case: Case, headers: dict[str, str], query: dict[str, str]) -> None:
        query = {name.encode("utf-8", "replace").decode(): text for name, text in query.items()}
        answer = fuzzed.client.get(path, headers=headers, params=query)
        assert answer.status_code == HTTPStatus.OK
        assert_documented(answer, case)

    check()


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("prefix", PREFIXES, ids=["plain", "v1"])
@pytest.mark.parametrize("path", ["/tci/usage", "/tci/sessions"], ids=["usage", "sessions"])
def test_any_query_gets_a_documented_answer(
    fuzzed: Service, document: dict[str, Any], path: str, prefix: str, mode: GenerationMode
) -> None:
    operation = operation_of(document, prefix, path, "GET")
    statuses: set[int] = set()

    @BOUNDED
    @given(operation.as_strategy(generation_mode=mode))
    def check(case: Case) -> None:
        query = {name: str(value).encode("utf-8", "replace").decode() for name, value in (case.query or {}).items()}
        answer = fuzzed.client.get(f"{prefix}{path}", params=query)
        statuses.add(answer.status_code)
        assert_documented(answer, case)

    check()
    assert HTTPStatus.BAD_REQUEST in statuses or mode is GenerationMode.POSITIVE
    assert HTTPStatus.OK in statuses or mode is GenerationMode.NEGATIVE


@pytest.mark.parametrize("prefix", PREFIXES, ids=["plain", "v1"])
def test_any_bytes_and_headers_get_a_documented_answer(fuzzed: Service, prefix: str) -> None:
    @BOUNDED
    @given(st.binary(max_size=200) | st.text(UNENCODABLE, max_size=50).map(str.encode), HEADERS)
    def check(content: bytes, headers: dict[str, str]) -> None:
        answer = fuzzed.client.post(f"{prefix}/tci/execute", content=content, headers=headers)
        assert_failure(answer, 400, "invalid_request", param=answer.json()["error"]["param"])

    check()


TIMEOUTS = st.floats(min_value=1e-9, max_value=20) | st.sampled_from([5e-324, 1e308, 10, 10.000001])


def test_any_timeout_gets_a_documented_answer(fuzzed: Service, sessions: Sessions) -> None:
    @settings(BOUNDED, max_examples=10)
    @given(TIMEOUTS)
    def check(timeout: float) -> None:
        body = {"code": HARMLESS, "session_id": sessions.current(), "timeout": timeout}
        answer = fuzzed.post(body)
        assert_documented(answer)
        assert (answer.status_code == HTTPStatus.BAD_REQUEST) is (timeout > 10)

    check()


FILE_NAMES = st.text(st.characters(), max_size=20).map(lambda name: name.encode("utf-8", "surrogatepass")) | st.binary()
RANGES = (
    st.none() | st.from_regex(r"bytes=\d{0,3}-\d{0,3}(,\d-)?", fullmatch=True) | st.sampled_from(["bytes", "x=1-2"])
)


@pytest.mark.parametrize("prefix", PREFIXES, ids=["plain", "v1"])
def test_any_file_name_and_range_get_a_documented_answer(fuzzed: Service, sessions: Sessions, prefix: str) -> None:
    statuses: set[int] = set()

    @settings(BOUNDED, max_examples=50)
    @given(
        FILE_NAMES, RANGES, st.sampled_from(["PUT", "GET", "HEAD", "DELETE", "POST", "PATCH"]), st.binary(max_size=99)
    )
    def check(name: bytes, asked: str | None, method: str, content: bytes) -> None:
        headers = {} if asked is None else {b"range": asked.encode()}
        path = f"{prefix}/tci/sessions/{sessions.current()}/files/{quote(name[:100])}"
        for each in (method, "GET"):
            sent = content if each in {"PUT", "POST"} else b""
            answer = fuzzed.client.request(each, path, headers=headers, content=sent)
            statuses.add(answer.status_code)
            if each == "HEAD" or answer.status_code == HTTPStatus.PARTIAL_CONTENT:
                assert answer.status_code in {200, 206, *CODES}
            else:
                assert_documented(answer)

    check()
    assert {200, 404} <= statuses


def test_service_is_as_it_was(fuzzed: Service, sessions: Sessions) -> None:
    assert fuzzed.stdout("print(6 * 7)", sessions.current()) == "42\n"
    assert len(fuzzed.client.get("/tci/sessions").json()["data"]["sessions"]) <= 2
    assert "Traceback" not in fuzzed.log.read_text()
