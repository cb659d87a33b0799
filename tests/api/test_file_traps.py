"""The files of a session: all that code, and clients, may put in the way."""

import socket
import threading
import time
from contextlib import ExitStack

import httpx
import pytest

from tests.api.failures import assert_failure
from tests.api.session_files import ALL_BYTES, MIB, Files
from tests.conftest import Service

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
