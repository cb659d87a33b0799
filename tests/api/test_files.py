"""Files of a request: in the working directory before the code runs, and nowhere else."""

import base64
import textwrap

import pytest

from tests.api.failures import assert_failure
from tests.conftest import Service, file_of

ALL_BYTES = bytes(range(256))


def test_files_of_the_first_call_are_there_before_the_code(service: Service) -> None:
    files = [file_of("main.py", "print('from file')"), file_of("a/b/c.bin", ALL_BYTES), file_of("empty", "")]
    code = """
    import os, main
    print(open('a/b/c.bin', 'rb').read() == bytes(range(256)), os.path.getsize('empty'))
    print(os.getcwd() == os.path.expanduser('~'))
    """
    assert service.stdout(textwrap.dedent(code), files=files) == "from file\nTrue 0\nTrue\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("later.txt", "later"),
        ("snow\N{SNOWMAN}.txt", "\N{SNOWMAN}\N{GRINNING FACE}\r\n\0"),
        ("a b'\"\\n.txt", "odd name"),
        (".hidden", "hidden"),
        ("...", "three dots"),
        ("-rf", "dash"),
        ("x" * 200, "long name"),
        ("deep/" * 50 + "f", "deep"),
        ("\N{SNOWMAN}" * 66, "wide"),
        ("new\nline", "x"),
        ("~", "tilde"),
        ("$HOME", "dollar"),
    ],
)
def test_file_of_a_later_call_is_read_back(service: Service, session_id: str, name: str, content: str) -> None:
    code = f"print(ascii(open({name!r}, newline='').read()))"
    assert service.stdout(code, session_id, files=[file_of(name, content)]) == f"{content!a}\n"


@pytest.mark.parametrize("spaced", ["AAECAw==\n", "AAEC\r\nAw==", " AA EC Aw = = "])
def test_base64_with_white_space_is_decoded(service: Service, session_id: str, spaced: str) -> None:
    files = [{"name": "spaced", "encoding": "base64", "content": spaced}]
    code = "print(open('spaced', 'rb').read())"
    assert service.stdout(code, session_id, files=files) == "b'\\x00\\x01\\x02\\x03'\n"


def test_same_name_overwrites_whole(service: Service, session_id: str) -> None:
    for content in ("a long first content", "short", b"\0"):
        size = len(content)
        code = "import os; print(os.path.getsize('again'), os.path.islink('again'))"
        assert service.stdout(code, session_id, files=[file_of("again", content)]) == f"{size} False\n"


def test_same_name_twice_in_one_request_keeps_the_last(service: Service, session_id: str) -> None:
    files = [file_of("twice", "first"), file_of("twice", "second")]
    assert service.stdout("print(open('twice').read())", session_id, files=files) == "second\n"


def test_many_files_in_one_request_are_all_there(service: Service, session_id: str) -> None:
    files = [file_of(f"many/{number % 10}/{number}.txt", str(number)) for number in range(500)]
    code = "import glob; print(sum(int(open(f).read()) for f in glob.glob('many/*/*.txt')))"
    assert service.stdout(code, session_id, files=files) == f"{sum(range(500))}\n"


def test_large_file_survives_whole(service: Service, session_id: str) -> None:
    content = ALL_BYTES * 40_000
    code = "import hashlib; d = open('large', 'rb').read(); print(len(d), d == bytes(range(256)) * 40_000)"
    assert service.stdout(code, session_id, files=[file_of("large", content)]) == f"{len(content)} True\n"


def test_replaced_open_does_not_stop_uploads(service: Service, session_id: str) -> None:
    code = "import builtins, os; kept = os.open, builtins.open; os.open = builtins.open = None"
    service.run(code, session_id)
    service.run("os.open, builtins.open = kept", session_id, files=[file_of("still", "works")])
    assert service.stdout("print(open('still').read())", session_id) == "works\n"


@pytest.mark.parametrize("target", ["precious", "/etc/hostname", "missing", "plan", "."])
def test_symlink_under_the_name_is_replaced_not_followed(service: Service, session_id: str, target: str) -> None:
    code = f"""
    import os
    open('precious', 'w').write('precious')
    if os.path.lexists('plan'): os.unlink('plan')
    os.symlink({target!r}, 'plan')
    """
    service.run(textwrap.dedent(code), session_id)
    check = """
    print(os.path.islink('plan'), open('plan').read(), open('precious').read(), os.path.exists('missing'))
    """
    files = [file_of("plan", "new")]
    assert service.stdout(textwrap.dedent(check), session_id, files=files) == "False new precious False\n"


@pytest.mark.parametrize("target", ["real", "/tmp", "/", "..", "missing"])
def test_symlink_as_a_directory_is_refused(service: Service, session_id: str, target: str) -> None:
    code = f"""
    import os, shutil
    os.makedirs('real', exist_ok=True)
    if os.path.lexists('way'): os.unlink('way')
    os.symlink({target!r}, 'way')
    ran = 0
    """
    service.run(textwrap.dedent(code), session_id)
    answer = service.post({"code": "ran += 1", "session_id": session_id, "files": [file_of("way/planted", "x")]})
    assert_failure(answer, 400, "invalid_file", param="files")
    check = "print(ran, os.path.exists('real/planted'), os.path.exists('/tmp/planted'))"
    assert service.stdout(check, session_id) == "0 False False\n"


@pytest.mark.parametrize("kind", ["symlink", "hard link", "fifo", "directory"])
def test_trap_under_the_temporary_name_harms_nothing(service: Service, kind: str) -> None:
    code = f"""
    import os
    open('precious', 'w').write('precious')
    kind = {kind!r}
    trap = '.trapped.part'
    if kind == 'hard link': os.link('precious', trap)
    if kind == 'symlink': os.symlink('precious', trap)
    if kind == 'fifo': os.mkfifo(trap)
    if kind == 'directory': os.mkdir(trap)
    """
    session_id = service.run(textwrap.dedent(code))["session_id"]
    answer = service.post({"code": "", "session_id": session_id, "files": [file_of("trapped", "x")]}, timeout=20)
    assert answer.status_code in (200, 400), answer.text
    assert service.stdout("print(open('precious').read())", session_id) == "precious\n"
    assert service.stdout("print(1)", session_id, files=[file_of("after", "x")]) == "1\n"


def test_name_of_a_directory_is_refused(service: Service, session_id: str) -> None:
    service.run("import os; os.makedirs('taken', exist_ok=True); ran = 0", session_id)
    body = {"code": "ran += 1", "session_id": session_id}
    answer = service.post({**body, "files": [file_of("taken", "x")]})
    assert_failure(answer, 400, "invalid_file", param="files")
    answer = service.post({**body, "files": [file_of('odd"\\\N{SNOWMAN}', "x"), file_of('odd"\\\N{SNOWMAN}/x', "x")]})
    assert_failure(answer, 400, "invalid_file", param="files")
    assert service.stdout("print(ran)", session_id) == "0\n"


def test_file_that_cannot_be_written_opens_no_session(service: Service) -> None:
    headers = {"Authorization": f"Bearer {service.new_key('unwritten')}"}
    files = [file_of("f", "x"), file_of("f/g", "x")]
    answer = service.post({"code": "", "files": files}, headers=headers)
    assert_failure(answer, 400, "invalid_file", param="files")
    assert service.client.get("/tci/sessions", headers=headers).json()["data"]["sessions"] == []


def test_file_of_the_service_host_is_not_written(service: Service, session_id: str) -> None:
    marker = base64.b32encode(session_id.encode()).decode().rstrip("=")
    service.run("", session_id, files=[file_of(f"marker/{marker}", "x")])
    assert not list(service.data_dir.parent.rglob(marker))
