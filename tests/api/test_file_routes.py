"""The files of a session: list, read, write, remove, and all that code may put in the way."""

import hashlib
import json
import socket
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.api.failures import assert_failure
from tests.conftest import Service, file_of

MIB = 1024**2
ALL_BYTES = bytes(range(256))
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


class Files:
    """The files of one session, over HTTP."""

    def __init__(self, service: Service, session_id: str, client: httpx.Client | None = None) -> None:
        self.service, self.session_id = service, session_id
        self.client = client or service.client
        self.path = f"/tci/sessions/{session_id}/files"

    def url(self, name: str) -> str:
        return f"{self.path}/{quote(name)}"

    def put(self, name: str, content: Any = b"", **options: Any) -> httpx.Response:
        return self.client.put(self.url(name), content=content, **options)

    def get(self, name: str, **headers: str) -> httpx.Response:
        return self.client.get(self.url(name), headers=headers)

    def delete(self, name: str) -> httpx.Response:
        return self.client.delete(self.url(name))

    def list(self) -> dict[str, Any]:
        answer = self.client.get(self.path)
        assert answer.status_code == 200, answer.text
        data: dict[str, Any] = answer.json()["data"]
        return data

    def types(self) -> dict[str, str]:
        return {file["name"]: file["type"] for file in self.list()["files"]}

    def run(self, code: str) -> str:
        return self.service.stdout(textwrap.dedent(code), self.session_id)


@pytest.fixture
def files(service: Service, session_id: str) -> Iterator[Files]:
    """The files of the shared session, emptied before."""
    service.run("!rm -rf ~/* ~/.hidden ~/... 2>/dev/null; true", session_id)
    return Files(service, session_id)


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


SPECIAL = ["away", "near", "dead", "loop", "pipe", "socket"]

TRAPS = """
import os, socket
open('precious', 'w').write('precious'); os.mkdir('real'); open('real/inside', 'w').write('inside')
os.symlink('/etc/passwd', 'away'); os.symlink('precious', 'near'); os.symlink('nowhere', 'dead')
os.symlink('.', 'loop'); os.symlink('/proc/self/environ', 'proc'); os.symlink('real', 'way'); os.symlink('/', 'root')
os.symlink('near', 'far')
os.mkfifo('pipe')
server = socket.socket(socket.AF_UNIX); server.bind('socket')
"""


@pytest.mark.parametrize(
    "name",
    [*SPECIAL, "far", "proc", "way/inside", "root/etc/passwd", "precious/x", "real"],
)
def test_trap_is_neither_read_nor_does_it_hold_the_session(files: Files, name: str) -> None:
    files.run(TRAPS)
    message = assert_failure(files.get(name), 400, "invalid_request", param="path")
    assert "root:" not in message
    assert_failure(files.get(name, range="bytes=0-5"), 400, "invalid_request", param="path")
    assert files.client.head(files.url(name)).status_code == 400
    assert files.get("precious").content == b"precious"


@pytest.mark.parametrize("name", SPECIAL)
def test_trap_is_replaced_and_removed_not_followed(files: Files, name: str) -> None:
    files.run(TRAPS)
    assert files.put(name, b"new").status_code == 200
    assert files.get(name).content == b"new"
    files.run("!rm -rf ~/*")
    files.run(TRAPS)
    assert files.delete(name).status_code == 200
    assert files.run("print(open('precious').read(), os.path.exists('real/inside'))") == "precious True\n"


def test_file_with_holes_is_read_whole(files: Files) -> None:
    files.run("with open('holes', 'wb') as f: f.truncate(2**20); f.seek(2**21); f.write(b'end')")
    assert files.get("holes").content == bytes(2 * MIB) + b"end"


def test_write_through_a_link_is_refused(files: Files) -> None:
    files.run(TRAPS)
    for name in ("way/planted", "root/tmp/planted", "precious/planted", "real"):
        assert_failure(files.put(name, b"x"), 400, "invalid_request", param="path")
    assert files.run("print(os.listdir('real'), os.path.exists('/tmp/planted'))") == "['inside'] False\n"
    assert_failure(files.delete("real"), 400, "invalid_request", param="path")
    assert files.run("print([name for name in os.listdir() if name.endswith('.part')])") == "[]\n"


def test_files_are_reached_while_code_runs(files: Files) -> None:
    """Also beside code that computes and never waits."""
    done: list[str] = []
    code = """
    import os, time
    end = time.time() + 60
    while not os.path.exists('stop') and time.time() < end: pass
    print('stopped')
    """
    thread = threading.Thread(target=lambda: done.append(files.run(code)))
    thread.start()
    try:
        assert files.put("during", ALL_BYTES * 8000).status_code == 200
        assert files.get("during").content == ALL_BYTES * 8000
        assert files.types() == {"during": "file"}
        assert files.delete("during").status_code == 200
        assert done == []
    finally:
        files.put("stop", b"")
        thread.join(60)
    assert done == ["stopped\n"]


def test_replaced_functions_do_not_stop_transfers(files: Files) -> None:
    names = ["open", "close", "write", "rename", "unlink", "scandir", "stat", "fstat", "pread", "mkdir", "rmdir", "dup"]
    code = f"""
    import os, json
    kept = {{name: getattr(os, name) for name in {names}}}, json.dumps
    for name in kept[0]: setattr(os, name, None)
    json.dumps = None
    """
    files.run(code)
    try:
        assert files.put("d/still", b"works").status_code == 200
        assert files.get("d/still").content == b"works"
        assert files.types() == {"d": "directory", "d/still": "file"}
        assert files.delete("d/still").status_code == 200
        assert files.delete("d").status_code == 200
    finally:
        files.run("json.dumps = kept[1]\nfor n, f in kept[0].items(): setattr(os, n, f)")


def test_name_that_is_not_utf8_is_shown_and_is_no_file(files: Files) -> None:
    files.run("import os; open(b'bad\\xff', 'w').close(); os.mkdir(b'dir\\xfe'); open(b'dir\\xfe/x', 'w').close()")
    assert files.types() == {"bad\N{REPLACEMENT CHARACTER}": "other", "dir\N{REPLACEMENT CHARACTER}": "other"}
    assert_failure(files.get("bad\N{REPLACEMENT CHARACTER}"), 404, "file_not_found", param="path")
    files.run("import os, shutil; os.remove(b'bad\\xff'); shutil.rmtree(b'dir\\xfe')")


def test_time_that_no_calendar_has_is_shown_as_one_that_it_has(files: Files) -> None:
    files.run("import os\nfor at in (-10**10, 2**62 // 10**9): open(str(at), 'w').close(); os.utime(str(at), (at, at))")
    assert len(files.list()["files"]) == 2
    assert all(files.get(name).status_code == 200 for name in files.types())


def test_list_of_very_many_files_is_cut_and_says_so(files: Files) -> None:
    code = "import os; os.mkdir('many')\nfor n in range(90_000): os.close(os.open(f'many/{n}', os.O_CREAT))"
    files.run(code)
    data = files.list()
    assert data["is_complete"] is False
    assert len(data["files"]) == 5000
    files.run("import shutil; shutil.rmtree('many')\nfor n in range(900): open(('x' * 240) + str(n), 'w').close()")
    assert (len(files.list()["files"]), files.list()["is_complete"]) == (900, True)
    files.run("import os; deep = ['d'] * 60; os.makedirs('/'.join(deep))")
    assert files.list()["is_complete"] is False


def test_download_of_a_file_that_changes_is_whole_or_cut(files: Files) -> None:
    size = 30 * MIB
    whole = f"open('changing', 'wb').write(b'a' * {size})"
    for change, is_whole in (
        ("open('changing', 'ab').write(b'b' * 1000)", True),
        ("os.truncate('changing', 1000)", False),
        ("open('other', 'wb').write(b'c'); os.rename('other', 'changing')", False),
        ("os.remove('changing')", False),
    ):
        files.run(f"import os\nx = {whole}")
        with files.client.stream("GET", files.url("changing")) as answer:
            assert answer.headers["content-length"] == str(size)
            pieces = answer.iter_raw()
            read = len(next(pieces))
            files.run(f"x = {change}")
            if is_whole:
                assert read + sum(map(len, pieces)) == size
            else:
                with pytest.raises(httpx.RemoteProtocolError):
                    read += sum(map(len, pieces))
    assert "Traceback" not in files.service.log.read_text()


def test_upload_that_its_client_leaves_leaves_nothing(files: Files) -> None:
    head = f"PUT {files.url('left')} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {files.service.key}\r\n"
    with socket.create_connection(("127.0.0.1", httpx.URL(files.service.url).port or 0)) as opened:
        opened.sendall(head.encode() + b"content-length: 9000000\r\n\r\n" + b"x" * 3_000_000)
        wait = "import os, time\nend = time.time() + 20\n"
        part = "any(name.endswith('.part') for name in os.listdir())"
        assert files.run(f"{wait}while not {part} and time.time() < end: time.sleep(.01)\nprint({part})") == "True\n"
    gone = f"{wait}while {part} and time.time() < end: time.sleep(.01)\nprint({part}, os.path.exists('left'))"
    assert files.run(gone) == "False False\n"


def test_uploads_beyond_what_a_session_takes_at_once_are_told_to_wait(files: Files) -> None:
    head = f"PUT {files.url('left')} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {files.service.key}\r\n"
    count = "sum(name.endswith('.part') for name in os.listdir())"
    wait = (
        "import os, time\nend = time.time() + 20\nwhile {0} != {1} and time.time() < end: time.sleep(.01)\nprint({0})"
    )
    with ExitStack() as stack:
        for _ in range(8):
            opened = stack.enter_context(
                socket.create_connection(("127.0.0.1", httpx.URL(files.service.url).port or 0))
            )
            opened.sendall(head.encode() + b"content-length: 9000000\r\n\r\n" + b"x" * 3_000_000)
        assert files.run(wait.format(count, 8)) == "8\n"
        answer = files.put("one-more", b"x")
        assert_failure(answer, 429, "rate_limited")
        assert answer.headers["retry-after"] == "1"
    assert files.run(wait.format(count, 0)) == "0\n"
    assert files.put("one-more", b"x").status_code == 200


def test_downloads_beyond_what_a_session_takes_at_once_are_told_to_wait(files: Files) -> None:
    files.run(f"x = open('large', 'wb').write(bytes({30 * MIB}))")
    with ExitStack() as stack:
        for _ in range(16):
            stack.enter_context(files.client.stream("GET", files.url("large")))
        assert_failure(files.get("large"), 429, "rate_limited")
    for _ in range(100):  # the service notices that they have left when it sends on
        if (answer := files.get("large")).status_code != 429:
            break
        time.sleep(0.05)
    assert answer.status_code == 200


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


@pytest.mark.parametrize("order", ["list", "get", "put", "delete"])
def test_session_whose_kernel_died_says_so(service: Service, order: str) -> None:
    files = Files(service, str(service.run("open('f', 'w').write('x')")["session_id"]))
    files.service.run("import os, threading; threading.Timer(0.2, lambda: os._exit(3)).start()", files.session_id)
    service.run("import time; time.sleep(1)")  # elsewhere; the service has not been told of the death
    calls = {"list": lambda: files.client.get(files.path), "get": lambda: files.get("f")}
    calls |= {"put": lambda: files.put("g", b"x"), "delete": lambda: files.delete("f")}
    message = assert_failure(calls[order](), 404, "session_not_found", param="session_id")
    assert "ended: its kernel died" in message
    assert "ended: its kernel died" in assert_failure(files.get("f"), 404, "session_not_found", param="session_id")


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
