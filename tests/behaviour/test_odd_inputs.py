"""Every line of the design's table of odd inputs, in real sandboxes of both drivers."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import Service, file_of


@pytest.fixture(scope="module")
def session(service: Service) -> str:
    """A session that the tests of this module share; none of them may break it."""
    session_id: str = service.run("")["session_id"]
    return session_id


@pytest.fixture(scope="module")
def impatient(driver: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose limits are reached soon."""
    from tests.conftest import serving  # noqa: PLC0415 (a context, not a fixture)

    limits = {"grace_seconds": 1, "max_output_bytes": 100_000, "sandbox_memory_bytes": 512 * 1024**2, "max_waiting": 2}
    with serving(driver, tmp_path_factory.mktemp("impatient") / "data", **limits) as running:
        yield running


def types(data: dict[str, Any]) -> list[str]:
    return [output["type"] for output in data["outputs"]]


def text(data: dict[str, Any]) -> str:
    return "".join(output["data"] for output in data["outputs"] if output["type"] in {"stdout", "stderr", "error"})


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def f(:", "SyntaxError"),
        ("%no_such_magic", "UsageError"),
        ("raise ExceptionGroup('several', [ValueError('a'), TypeError('b')])", "ExceptionGroup"),
        ("class E(Exception):\n    def __str__(self): raise RuntimeError('no')\nraise E", "E"),
        ("import sys\nsys.exit(3)", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("input('name? ')", "StdinNotImplementedError"),
        ("async def f(): raise ValueError('later')\nawait f()", "ValueError: later"),
        ("def f(): f()\nf()", "RecursionError"),
        ("class R:\n    def __repr__(self): raise ValueError('unshowable')\nR()", "unshowable"),
    ],
)
def test_failing_code_gives_one_error(service: Service, session: str, code: str, expected: str) -> None:
    data = service.run(code, session)
    assert types(data) == ["error"], data["outputs"]
    assert expected in data["outputs"][0]["data"]
    assert "\x1b" not in data["outputs"][0]["data"]
    assert data["execution"]["verdict"] == "error"


def test_forked_process_ends_where_the_code_ends(service: Service) -> None:
    """It must not become a second kernel on the same sockets."""
    session = service.run("")["session_id"]
    code = "import os\npid = os.fork()\nif not pid: print('child')\nelse: print(os.waitpid(pid, 0)[1])"
    for _ in range(3):
        data = service.run(code, session)
        assert data["execution"]["verdict"] == "ok", data
        printed = "".join(output["data"] for output in data["outputs"] if output["type"] == "stdout")
        assert sorted(printed.split()) == ["0", "child"]  # Python itself warns of threads, on stderr
    data = service.run("if os.fork(): print(os.wait()[1] >> 8)\nelse: 1 / 0", session)
    assert "1\n" in text(data)
    assert service.stdout("print(1 + 1)", session) == "2\n"


def test_source_larger_than_the_output_limit_runs(service: Service) -> None:
    code = f"x = '{'a' * 20_000_000}'\nprint(len(x))"
    data = service.run(code)
    assert (data["outputs"], data["execution"]["verdict"]) == ([{"type": "stdout", "data": "20000000\n"}], "ok")


def test_kernel_that_no_longer_says_that_it_is_idle_has_died(service: Service) -> None:
    data = service.run("kernel = get_ipython().kernel\nkernel._publish_status = lambda *a, **k: None\nprint('said')")
    assert data["execution"]["verdict"] == "kernel_died", data
    assert types(data) == ["stdout", "error"]
    refused = service.post({"code": "1", "session_id": data["session_id"]})
    assert (refused.status_code, "kernel died" in refused.text) == (404, True)


@pytest.mark.parametrize("code", ["", "# only a comment", "1;", "None", "\n\n"])
def test_code_without_result_gives_no_output(service: Service, session: str, code: str) -> None:
    data = service.run(code, session)
    assert (data["outputs"], data["execution"]["verdict"]) == ([], "ok")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import asyncio\nasync def main(): await asyncio.sleep(0); print('ran')\nasyncio.run(main())", "ran\n"),
        ("import asyncio\nasync def f(): return 'x'\nprint(asyncio.get_event_loop().run_until_complete(f()))", "x\n"),
        ("import asyncio\nawait asyncio.sleep(0)\nprint('awaited')", "awaited\n"),
        ("    a = 1\n    print(a)", "1\n"),
        ("print(1)\r\nprint(2)\r\n", "1\n2\n"),
        ("!printf 'a\\r\\nb\\n'", "a\nb\n"),
        ('!read line; echo "got [$line] $?"', "got [] 1\n"),
        ("!echo out; echo err >&2", "out\nerr\n"),
        ("import os\nx = os.write(1, b'raw\\n')", "raw\n"),
        ("import subprocess\np = subprocess.run(['echo', 'child'])", "child\n"),
        ("import os\nx = os.system('echo system')", "system\n"),
        ("print('\\ud800')", "\ufffd\n"),
        ("print('nul\\0')", "nul\0\n"),
        ("import sys\nx = sys.stdout.buffer if hasattr(sys.stdout, 'buffer') else None\nprint('ok')", "ok\n"),
        ("import os\nx = os.write(1, b'\\xff\\xfe\\n')", "\ufffd\ufffd\n"),
        ("x = !echo captured\nprint(x)", "['captured']\n"),
        ("x = '" + "y" * 1_000_000 + "'\nprint(len(x))", "1000000\n"),
        ("print('\\N{GRINNING FACE}' * 3)", "\U0001f600" * 3 + "\n"),
    ],
)
def test_unusual_code_prints(service: Service, session: str, code: str, expected: str) -> None:
    assert service.stdout(code, session) == expected


def test_last_expression_string_keeps_its_quotes(service: Service, session: str) -> None:
    outputs = service.run("'quoted'", session)["outputs"]
    assert outputs == [{"type": "execute_result", "data": {"text/plain": "'quoted'"}}]


def test_plot_without_show_gives_one_png(service: Service, session: str) -> None:
    data = service.run("import matplotlib.pyplot as plt\nplt.plot([1, 2])", session)
    images = [output["data"]["image/png"] for output in data["outputs"] if "image/png" in output["data"]]
    assert len(images) == 1
    assert base64.b64decode(images[0]).startswith(b"\x89PNG")
    assert "\n" not in images[0]


def test_nan_in_json_display_is_valid_json(service: Service, session: str) -> None:
    code = "from IPython.display import display\ndisplay({'application/json': {'x': float('nan')}}, raw=True)"
    answer = service.post({"code": code, "session_id": session})
    body = json.loads(answer.content, parse_constant=pytest.fail)
    assert body["data"]["outputs"] == [{"type": "display_data", "data": {"application/json": {"x": None}}}]


def test_json_display_that_is_no_object_is_left_out(service: Service, session: str) -> None:
    code = "display({'application/json': [1], 'text/plain': 'list'}, raw=True)"
    assert service.run(code, session)["outputs"] == [{"type": "display_data", "data": {"text/plain": "list"}}]


@pytest.mark.parametrize(
    "code", ["import sys\nsys.stdout.close()", "import sys, io\nsys.stdout = io.StringIO()", "import os\nos.close(1)"]
)
def test_closed_or_replaced_stdout_is_back_in_the_next_call(service: Service, session: str, code: str) -> None:
    service.run(code, session)
    assert service.stdout("print('back')", session) == "back\n"


def test_broken_builtins_do_not_break_uploads(service: Service) -> None:
    session = service.run("import builtins\nopen = None\nbuiltins.open = None\ndel builtins.print")["session_id"]
    data = service.run("import os\nos.listdir('.')", session, files=[file_of("data.txt", "x")])
    assert data["outputs"][0]["data"]["text/plain"] == "['data.txt']"


def test_late_thread_prints_into_the_next_call_of_its_session(service: Service) -> None:
    session = service.run("import threading\nthreading.Timer(0.5, lambda: print('late')).start()")["session_id"]
    assert service.stdout("import time\ntime.sleep(1)", session) == "late\n"
    assert service.stdout("time.sleep(0.1)", session) == ""


def test_late_thread_is_never_seen_by_another_session(service: Service, session: str) -> None:
    code = "import threading\nthreading.Timer(0.3, lambda: print('late')).start()"
    assert service.stdout(code, session) == ""
    assert "late" not in service.stdout("import time\ntime.sleep(0.6)")


def test_background_process_lives_until_the_session_ends(service: Service) -> None:
    session = service.run("!sleep 1000 & echo started")["session_id"]
    assert "sleep" in service.stdout("!cat /proc/[0-9]*/comm", session)
    service.tci("sessions", "end", session)
    assert service.post({"code": "1", "session_id": session}).status_code == 404


DEATHS = {
    "exit": "print('bye')\nexit()",
    "quit": "print('bye')\nquit()",
    "os_exit": "import os\nos._exit(7)",
    "signal": "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)",
    "kill": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    "segfault": "import ctypes\nctypes.string_at(0)",
}


@pytest.mark.parametrize("code", DEATHS.values(), ids=DEATHS)
def test_dying_kernel_is_told_and_the_session_is_gone(service: Service, code: str) -> None:
    session = service.run("x = 1")["session_id"]
    began = time.monotonic()
    data = service.run(code, session)
    assert time.monotonic() - began < 30
    assert data["execution"]["verdict"] == "kernel_died"
    assert types(data)[-1] == "error"
    assert "kernel" in data["outputs"][-1]["data"].lower()
    if "bye" in code:
        assert data["outputs"][0] == {"type": "stdout", "data": "bye\n"}
    refused = service.post({"code": "x", "session_id": session})
    assert refused.status_code == 404
    assert "kernel died" in refused.json()["message"]


def test_kernel_that_died_between_calls_is_not_found(service: Service) -> None:
    session = service.run("import os, threading\nthreading.Timer(0.2, os._exit, [1]).start()")["session_id"]
    time.sleep(1)
    refused = service.post({"code": "print('blank kernel?')", "session_id": session})
    assert refused.status_code == 404
    assert "kernel died" in refused.json()["message"]


def test_memory_over_the_limit_is_named(impatient: Service) -> None:
    session = impatient.run("x = 1")["session_id"]
    data = impatient.run("x = bytearray(3 * 1024**3)\nfor i in range(0, len(x), 4096): x[i] = 1", session)
    assert data["execution"]["verdict"] == "oom"
    assert "512 MiB" in data["outputs"][-1]["data"]
    assert "out of memory" in impatient.post({"code": "x", "session_id": session}).json()["message"]


ENDLESS = {
    "sleep": ("import time\ntime.sleep(1000)", True),
    "busy": ("while True: pass", True),
    "await": ("import asyncio\nawait asyncio.sleep(1000)", True),
    "command": ("!sleep 1000", True),
    "swallows": ("import time\nwhile True:\n    try: time.sleep(100)\n    except BaseException: pass", False),
    "long_c_call": ("sum(range(10**12))", False),
    "uninterruptible_c": ("import ctypes\nctypes.PyDLL(None).sleep(1000)", False),
    "sigstop": ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", False),
    "closed_sockets": ("import os\nos.closerange(3, 1000)", False),
}


@pytest.mark.parametrize(("code", "survives"), ENDLESS.values(), ids=ENDLESS)
def test_code_past_its_limit_ends_in_time(impatient: Service, code: str, survives: bool) -> None:
    session = impatient.run("x = 'kept'")["session_id"]
    began = time.monotonic()
    data = impatient.run(code, session, timeout=1)
    assert time.monotonic() - began < 1 + 1 + 2 + 1  # limit, grace, the promise, a loaded machine
    assert data["execution"]["verdict"] in ({"timeout"} if survives else {"timeout", "kernel_died"})
    assert types(data)[-1] == "error"
    after = impatient.post({"code": "print(x)", "session_id": session})
    if survives:
        assert after.json()["data"]["outputs"] == [{"type": "stdout", "data": "kept\n"}]
    else:
        assert after.status_code == 404


FLOODS = {
    "print": "for i in range(100_000): print('line', i)",
    "one_line": "print('x' * 300_000_000)",
    "stderr": "import sys\nfor i in range(100_000): print('line', i, file=sys.stderr)",
    "descriptor": "import os\nfor i in range(3000): os.write(1, b'y' * 1000)",
    "displays": "for i in range(20_000): display(i)",
    "command": "!yes | head -c 3000000",
    "display": "from IPython.display import HTML\ndisplay(HTML('z' * 100_000_000))",
}


@pytest.mark.parametrize("code", FLOODS.values(), ids=FLOODS)
def test_flood_is_cut_and_the_session_goes_on(impatient: Service, code: str) -> None:
    session = impatient.run("x = 'kept'")["session_id"]
    answer = impatient.post({"code": "print('head')\n" + code + "\nprint('tail')", "session_id": session})
    assert len(answer.content) < 3 * 100_000
    data = answer.json()["data"]
    assert data["execution"]["verdict"] == "output_limit", data["execution"]
    shown = text(data)
    assert shown.startswith("head\n")
    assert "tail\n" in shown[-200:]
    assert "bytes of output left out" in shown
    assert impatient.stdout("print(x)", session) == "kept\n"


def test_endless_print_is_cut_at_the_deadline(impatient: Service) -> None:
    data = impatient.run("while True: print('again')", timeout=2)
    assert data["execution"]["verdict"] == "output_limit"
    assert types(data)[-1] == "error"


def test_two_calls_at_once_are_served_in_order(impatient: Service) -> None:
    session = impatient.run("order = []")["session_id"]
    answers: dict[str, Any] = {}

    def call(name: str) -> None:
        code = f"import time\norder.append('{name}')\ntime.sleep(0.7)\norder.append('{name}')"
        answers[name] = impatient.post({"code": code, "session_id": session, "timeout": 1.2})

    threads = [threading.Thread(target=call, args=[name]) for name in "ab"]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    # Each had its whole limit: it counts from the start of its own run.
    assert [answers[name].json()["data"]["execution"]["verdict"] for name in "ab"] == ["ok", "ok"]
    assert impatient.stdout("print(order)", session) == "['a', 'a', 'b', 'b']\n"


def test_more_calls_than_may_wait_are_refused(impatient: Service) -> None:
    session = impatient.run("")["session_id"]
    statuses: list[int] = []

    def call() -> None:
        statuses.append(impatient.post({"code": "import time\ntime.sleep(1)", "session_id": session}).status_code)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, 200, 200, 429]


FORGERIES: dict[str, str] = {
    "fake_idle": "k.session.send(k.iopub_socket, 'status', {'execution_state': 'idle'}, parent=k.get_parent())",
    "fake_reply": "k.session.send(k.shell_stream, 'execute_reply', {'status': 'ok'}, parent=k.get_parent())",
    "fake_welcome_with_parent": "k.session.send(k.iopub_socket, 'iopub_welcome', {}, parent=k.get_parent())",
    "deep_json": "display({'application/json': eval('[' * 90 + ']' * 90), 'text/plain': 'd'}, raw=True)",
    "wrong_types": "k.session.send(k.iopub_socket, 'stream', {'name': 1, 'text': []}, parent=k.get_parent())",
    "unsigned": "k.iopub_socket.send_multipart([b'<IDS|MSG>', b'no', b'{}', b'{}', b'{}', b'{}'])",
    "garbage": "k.iopub_socket.send_multipart([b'garbage'])",
    "negative_left_out": "k.session.send(k.iopub_socket, 'stream', {'name': 'stdout', 'text': 'x'},"
    " parent=k.get_parent(), metadata={'tci_left_out': -5})",
}


@pytest.mark.parametrize("code", FORGERIES.values(), ids=FORGERIES)
def test_forged_message_harms_nobody_else(service: Service, code: str) -> None:
    session = service.run("import time\nk = get_ipython().kernel")["session_id"]
    neighbour = service.run("y = 2")["session_id"]
    service.run(code + "\ntime.sleep(0.2)\nprint('end')", session)
    assert service.stdout("print(1 + 1)", session) == "2\n"
    assert service.stdout("print(y)", neighbour) == "2\n"


def test_message_over_the_size_limit_ends_that_session(impatient: Service) -> None:
    session = impatient.run("k = get_ipython().kernel")["session_id"]
    forged = (
        "k.session.send(k.iopub_socket, 'stream', {'name': 'stdout', 'text': 'x' * 9_000_000}, parent=k.get_parent())"
    )
    data = impatient.run(forged, session)
    assert data["execution"]["verdict"] == "output_limit"
    assert types(data)[-1] == "error"
    assert impatient.post({"code": "1", "session_id": session}).status_code == 404
    assert impatient.stdout("print(1)") == "1\n"


def test_timeout_over_the_maximum_is_refused(service: Service) -> None:
    refused = service.post({"code": "1", "timeout": 10**6})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "timeout"


def test_execution_extension_has_every_figure(service: Service, session: str) -> None:
    code = "import time\nstart = time.process_time()\nwhile time.process_time() - start < 0.3: pass"
    execution = service.run(code, session)["execution"]
    assert set(execution) == {"verdict", "duration_ms", "cpu_ms", "peak_memory_bytes", "execute_count", "expires_at"}
    assert execution["cpu_ms"] > 250
    assert execution["duration_ms"] > 250
    assert execution["peak_memory_bytes"] > 10 * 1024**2
