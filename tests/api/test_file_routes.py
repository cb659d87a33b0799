"""The files of a session: list, read, write, remove."""

import hashlib
import json
from urllib.parse import quote

import httpx
import pytest

from tests.api.failures import assert_failure
from tests.api.session_files import ALL_BYTES, MIB, Files
from tests.conftest import Service, file_of

ODD_NAMES = [
    "plain.txt",
    "a/b/c.txt",
    "snow\N{SNOWMAN}.txt",
    "a b'\"\\n.txt",
    "new\nline",
    "100%?#&=;.txt",
    ".hidden",
    "...",
    "-rf",
    "%2e%2e",
    "c:\\x",
    "x" * 200,
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_file_that_is_put_is_read_by_code_and_sent_back(files: Files, name: str) -> None:
    answer = files.put(name, ALL_BYTES)
    assert answer.status_code == 200, answer.text
    put = answer.json()
    assert put["errors"] is None
    assert (put["data"]["file"]["name"], put["data"]["file"]["size"]) == (name, 256)
    assert files.run(f"print(open({name!r}, 'rb').read() == bytes(range(256)))") == "True\n"
    answer = files.get(name)
    assert (answer.status_code, answer.content) == (200, ALL_BYTES)
    assert answer.headers["content-length"] == "256"
    assert answer.headers["content-disposition"].startswith("attachment; filename*=UTF-8''")
    shown = [file["name"] for file in files.list()["files"]]
    assert (name in shown) == (not name.startswith("."))
    answer = files.delete(name)
    assert answer.json() == {"data": {"name": name, "deleted": True}, "errors": None}
    assert_failure(files.get(name), 404, "file_not_found", param="path")
    assert_failure(files.delete(name), 404, "file_not_found", param="path")


@pytest.mark.parametrize("name", ["page.html", "image.svg", "page.xhtml", "code.js", "page"])
def test_page_that_code_wrote_is_no_page_of_the_service(files: Files, name: str) -> None:
    files.put(name, b"<script>alert(1)</script>")
    for answer in (files.get(name), files.get(name, range="bytes=0-9"), files.client.head(files.url(name))):
        assert answer.headers["content-disposition"].startswith("attachment;")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"


def test_list_tells_names_sizes_times_and_types(files: Files) -> None:
    code = """
    import os
    os.makedirs('d/e'); open('d/e/f.csv', 'w').write('x' * 12); open('.env', 'w'); os.utime('d/e/f.csv', (5, 5.25))
    os.symlink('/etc/passwd', 'way'); os.mkfifo('pipe'); open('big', 'w').close()
    """
    files.run(code)
    data = files.list()
    assert data["is_complete"] is True
    assert [(file["name"], file["type"], file["size"]) for file in data["files"]] == [
        ("big", "file", 0),
        ("d", "directory", 0),
        ("d/e", "directory", 0),
        ("d/e/f.csv", "file", 12),
        ("pipe", "other", 0),
        ("way", "link", 0),
    ]
    csv = data["files"][3]
    assert (csv["mime"], csv["modified_at"]) == ("text/csv", "1970-01-01T00:00:05.250000Z")
    assert data["files"][1]["mime"] is None


@pytest.mark.parametrize("prefix", ["", "/v1", "/v1/"])
def test_every_route_answers_below_each_prefix(files: Files, prefix: str) -> None:
    client, path = files.client, prefix + files.url("p.json")
    assert client.put(path, content=b"{}").status_code == 200
    assert client.get(path).headers["content-type"] == "application/json"
    assert client.head(path).headers["content-length"] == "2"
    assert client.post(prefix + files.path, files={"files": ("q", b"1")}).status_code == 200
    assert client.get(prefix + files.path).status_code == 200
    assert client.delete(path).status_code == 200


def test_put_replaces_whole(files: Files) -> None:
    for content in (b"a long first content", b"short", b"", b"\0" * MIB, b"x" * (MIB + 1)):
        assert files.put("again", content).json()["data"]["file"]["size"] == len(content)
        assert files.get("again").content == content


def test_put_in_chunks_without_a_length_survives_whole(files: Files) -> None:
    piece = ALL_BYTES * 1000
    assert files.put("chunked", iter([piece] * 20)).status_code == 200
    assert hashlib.sha256(files.get("chunked").content).digest() == hashlib.sha256(piece * 20).digest()


def test_put_is_not_bound_by_the_limit_of_bodies(tight_service: Service) -> None:
    files = Files(tight_service, str(tight_service.run("")["session_id"]))
    try:
        assert files.put("large", b"x" * 300_000).status_code == 200
        assert len(files.get("large").content) == 300_000
        assert files.client.post(files.path, files={"files": ("l", b"y" * 300_000)}).status_code == 200
        answer = files.client.request("DELETE", files.url("large"), content=b"x" * 300_000)
        assert_failure(answer, 413, "body_too_large")
    finally:
        tight_service.tci("sessions", "end", files.session_id)


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-", 0, 255),
        ("bytes=10-19", 10, 19),
        ("bytes=250-9999999999", 250, 255),
        ("bytes=255-", 255, 255),
        ("bytes=-1", 255, 255),
        ("bytes=-300", 0, 255),
        ("Bytes=1-2", 1, 2),
    ],
)
def test_one_range_is_answered_with_it(files: Files, asked: str, first: int, last: int) -> None:
    files.put("r", ALL_BYTES)
    answer = files.get("r", range=asked)
    assert (answer.status_code, answer.content) == (206, ALL_BYTES[first : last + 1])
    assert answer.headers["content-range"] == f"bytes {first}-{last}/256"
    assert answer.headers["content-length"] == str(last - first + 1)


@pytest.mark.parametrize("asked", ["bytes=256-", "bytes=999-1000", "bytes=-0"])
def test_range_behind_the_end_is_refused(files: Files, asked: str) -> None:
    files.put("r", ALL_BYTES)
    answer = files.get("r", range=asked)
    assert_failure(answer, 416, "range_not_satisfiable", param="range")
    assert answer.headers["content-range"] == "bytes */256"
    files.put("r", b"")
    assert_failure(files.get("r", range="bytes=0-"), 416, "range_not_satisfiable", param="range")


@pytest.mark.parametrize("asked", ["", "bytes=", "bytes=-", "bytes=5-4", "bytes=0-1,3-4", "lines=0-1", "bytes=a-b"])
def test_other_ranges_are_answered_with_the_whole(files: Files, asked: str) -> None:
    files.put("r", ALL_BYTES)
    answer = files.get("r", range=asked)
    assert (answer.status_code, answer.content) == (200, ALL_BYTES)


def test_range_of_another_version_is_answered_with_the_whole(files: Files) -> None:
    files.put("r", ALL_BYTES)
    tag = files.get("r").headers["etag"]
    assert files.get("r", **{"range": "bytes=0-1", "if-range": tag}).status_code == 206
    files.put("r", ALL_BYTES * 2)
    assert files.get("r", **{"range": "bytes=0-1", "if-range": tag}).status_code == 200


def test_head_says_what_get_would(files: Files) -> None:
    files.put("h.png", ALL_BYTES)
    head, got = files.client.head(files.url("h.png")), files.get("h.png")
    assert (head.status_code, head.content) == (200, b"")
    names = ["content-type", "content-length", "etag", "last-modified", "accept-ranges", "content-disposition"]
    assert [head.headers[name] for name in names] == [got.headers[name] for name in names]
    assert files.client.head(files.url("missing")).status_code == 404


def test_form_writes_each_of_its_files(files: Files) -> None:
    content = ALL_BYTES * 5000
    parts = [("files", ("one.bin", content)), ("files", ("sub/two.txt", b"two")), ("files", ("empty", b""))]
    answer = files.client.post(files.path, files=parts, data={"note": "ignored"})
    assert answer.status_code == 200, answer.text
    found = [(file["name"], file["size"]) for file in answer.json()["data"]["files"]]
    assert found == [("one.bin", len(content)), ("sub/two.txt", 3), ("empty", 0)]
    assert files.get("one.bin").content == content


@pytest.mark.parametrize(
    ("content_type", "content"),
    [
        ("", b""),
        ("application/json", b"{}"),
        ("multipart/form-data", b"--x\r\n"),
        ("multipart/form-data; boundary=" + "x" * 3000, b""),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b"nonsense"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nno file\r\n--x--\r\n',
        ),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: " + b"x" * 100_000),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"x" * 100_000,
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; filename="\xff"\r\n\r\n1\r\n--x--',
        ),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; filename="cut"\r\n\r\n1234'),
    ],
)
def test_body_that_is_no_form_of_files_is_refused(files: Files, content_type: str, content: bytes) -> None:
    answer = files.client.post(files.path, content=content, headers={"content-type": content_type})
    assert_failure(answer, 400, "invalid_request", param="files")
    assert "cut" not in files.types()


@pytest.mark.parametrize(
    "name", ["..", "../x", "a/../../x", ".", "a/./b", "", "/", "a\0b", "x" * 256, "y/" * 2100 + "y"]
)
def test_name_that_no_file_inside_can_have_is_refused(files: Files, name: str) -> None:
    path = files.path + "/" + quote(name, safe="").replace(".", "%2E")
    for method, options in (("GET", {}), ("PUT", {"content": b"x"}), ("DELETE", {})):
        answer = files.client.request(method, path, **options)
        if name == "/":  # repeated slashes are one
            assert answer.status_code == 400, answer.text
        assert_failure(answer, 400, "invalid_request", param="path")
    parts = {"files": (name or "x/", b"x")}
    if "\0" not in name:
        assert files.client.post(files.path, files=parts).status_code == 400


def test_stranger_meets_the_same_404_on_every_route(files: Files, stranger: httpx.Client) -> None:
    files.put("mine", b"mine")
    for session_id in (files.session_id, "ses_" + "1" * 21, "nonsense"):
        theirs = Files(files.service, session_id, stranger)
        answers = [stranger.get(theirs.path), theirs.get("mine"), theirs.get("missing"), theirs.put("mine", b"x")]
        answers += [theirs.delete("mine"), stranger.post(theirs.path, files={"files": ("mine", b"x")})]
        answers += [theirs.get("mine", range="bytes=0-1"), theirs.get("..%2Fx")]
        for answer in answers:
            message = assert_failure(answer, 404, "session_not_found", param="session_id")
            assert message == f"Session {session_id} was not found. Leave session_id out to open a new one."
    assert files.get("mine").content == b"mine"


def test_no_route_answers_without_a_key(files: Files, anonymous: httpx.Client) -> None:
    theirs = Files(files.service, files.session_id, anonymous)
    answers = [anonymous.get(theirs.path), theirs.get("x"), theirs.put("x", b"x"), theirs.delete("x")]
    answers.append(anonymous.post(theirs.path, content=b"nonsense"))
    for answer in answers:
        assert_failure(answer, 401, "invalid_api_key")
    assert anonymous.head(theirs.url("x")).status_code == 401


def test_document_describes_the_routes(service: Service) -> None:
    paths = service.client.get("/openapi.json").json()["paths"]
    assert set(paths["/tci/sessions/{session_id}/files"]) == {"get", "post"}
    one = paths["/tci/sessions/{session_id}/files/{path}"]
    assert set(one) == {"get", "head", "put", "delete"}
    assert set(one["get"]["responses"]) >= {"200", "206", "4XX"}
    assert "application/octet-stream" in one["put"]["requestBody"]["content"]
    assert "examples" in json.dumps(
        service.client.get("/openapi.json").json()["components"]["schemas"]["FilesEnvelope"]
    )


def test_file_of_an_execution_is_the_same_file(files: Files) -> None:
    files.service.run("", files.session_id, files=[file_of("up/f", "before")])
    assert files.get("up/f").content == b"before"
