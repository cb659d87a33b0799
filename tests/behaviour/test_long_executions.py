"""Executions that outlast the heartbeat, and clients that leave: over raw sockets, on both drivers."""

import itertools
import json
import os
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from tests.conftest import Service, serving
from tests.sandbox.processes import eventually, jailed

HEARTBEAT = 1.0
GRACE = 1.0
BEFORE = 0.4
"""Long enough for a run to have begun, and before the first heartbeat."""
SOON = 4.0
"""How long a leaving client's run may go on: it is noticed at once, interrupted, and a loaded machine is slow."""

ENDLESS = """
import time
ticks = 0
while True:
    ticks += 1
    time.sleep(0.1)
"""
UNSTOPPABLE = """
import time
while True:
    try:
        time.sleep(100)
    except KeyboardInterrupt:
        pass
"""


class RawCall:
    """One execute request on a connection of its own, its answer seen byte by byte."""

    def __init__(self, service: Service, code: str, session_id: str | None = None, **fields: Any) -> None:
        url = httpx.URL(service.url)
        body = json.dumps({"code": code, "session_id": session_id, **fields}).encode()
        head = (
            "POST /tci/execute HTTP/1.1\r\nhost: tci\r\n"
            f"authorization: Bearer {service.key}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self.began = time.monotonic()
        self._socket = socket.create_connection((url.host, url.port), timeout=60)
        self._socket.sendall(head.encode() + body)
        self.pieces: list[tuple[float, bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def receive(self) -> bytes:
        """Wait for the next bytes, and note when they came."""
        data = self._socket.recv(65536)
        if data:
            self.pieces.append((time.monotonic() - self.began, data))
        return data

    def has_answer(self) -> bool:
        """Whether a byte has come that was not yet read."""
        readable, _, _ = select.select([self._socket], [], [], 0)
        return bool(readable)

    def read(self) -> httpx.Response:
        """Read to the end of a chunked answer."""
        while not self.received.endswith(b"\r\n0\r\n\r\n"):
            assert self.receive(), f"the answer was cut off after {self.received!r}"
        return self.response

    @property
    def received(self) -> bytes:
        return b"".join(data for _, data in self.pieces)

    @property
    def response(self) -> httpx.Response:
        head, _, rest = self.received.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        assert "transfer-encoding: chunked" in lines
        headers = [tuple(line.split(": ", 1)) for line in lines[1:] if not line.startswith("transfer-encoding")]
        return httpx.Response(int(lines[0].split()[1]), headers=headers, content=b"".join(chunks(rest)))

    def leave(self) -> None:
        self._socket.close()


def chunks(data: bytes) -> Iterator[bytes]:
    """Undo the chunked encoding of RFC 9112."""
    while data:
        size, _, data = data.partition(b"\r\n")
        yield data[: int(size, 16)]
        data = data[int(size, 16) + 2 :]


@pytest.fixture(scope="module")
def quick(driver: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose heartbeat and grace period are short."""
    limits = {"heartbeat_seconds": HEARTBEAT, "grace_seconds": GRACE}
    with serving(driver, tmp_path_factory.mktemp("quick") / "data", **limits) as running:
        yield running


@pytest.fixture
def session(quick: Service) -> str:
    session_id: str = quick.run("")["session_id"]
    return session_id


def late(answer: httpx.Response) -> dict[str, Any]:
    """Check a failure that came after the status was sent, and return its `data`."""
    assert answer.status_code == 200
    assert answer.content.startswith(b" ")
    body = answer.json()
    assert body["errors"] is None
    data: dict[str, Any] = body["data"]
    assert [output["type"] for output in data["outputs"]] == ["error"]
    assert data["execution"]["verdict"] is None
    assert data["outputs"][0]["data"].endswith(data["execution"]["failure"]["message"])
    return data


def test_long_execution_sends_headers_then_white_space_then_json(quick: Service, session: str) -> None:
    code = (
        f"import time\nwith open('runs', 'a') as f: x = f.write('run ')\ntime.sleep({3.5 * HEARTBEAT})\nprint('done')"
    )
    with RawCall(quick, code, session) as call:
        answer = call.read()
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.content.startswith(b"   {")  # one blank for each heartbeat
    assert answer.json()["data"]["outputs"] == [{"type": "stdout", "data": "done\n"}]
    assert answer.json()["data"]["execution"]["verdict"] == "ok"
    first, *later = call.pieces
    assert first[1].startswith(b"HTTP/1.1 200 OK\r\n")
    assert HEARTBEAT - 0.1 < first[0] < 2 * HEARTBEAT
    # Each byte came when it was due, not all at the end.
    beats = [moment for moment, data in call.pieces if b"1\r\n \r\n" in data]
    assert len(beats) == 3
    gaps = [after - before for before, after in itertools.pairwise(beats)]
    assert all(HEARTBEAT / 2 < gap < 2 * HEARTBEAT for gap in gaps), beats
    assert 3.5 * HEARTBEAT <= later[-1][0] < 6 * HEARTBEAT
    assert quick.stdout("!cat runs", session) == "run "


def test_short_execution_sends_no_white_space(quick: Service, session: str) -> None:
    answer = quick.post({"code": "print(1)", "session_id": session})
    assert answer.content.startswith(b'{"data"')
    assert int(answer.headers["content-length"]) == len(answer.content)


def test_answer_of_long_execution_is_read_by_http_libraries_on_a_kept_connection(quick: Service, session: str) -> None:
    for _ in range(2):
        data = quick.run(f"import time\ntime.sleep({1.2 * HEARTBEAT})\nprint('x' * 1_000_000)", session)
        assert data["outputs"] == [{"type": "stdout", "data": "x" * 1_000_000 + "\n"}]


@pytest.mark.parametrize("phase", ["plain", "heartbeat"])
def test_client_that_leaves_has_its_code_interrupted(quick: Service, session: str, phase: str) -> None:
    with RawCall(quick, ENDLESS, session) as call:
        if phase == "plain":
            time.sleep(BEFORE)
            assert not call.has_answer()
        else:
            call.receive()
        ran = time.monotonic() - call.began
    left = time.monotonic()
    first = int(quick.stdout("print(ticks)", session))  # waits for the interrupt, and would wait for the code
    assert time.monotonic() - left < SOON
    assert 1 <= first <= (ran + SOON) * 10
    time.sleep(0.5)
    assert quick.stdout("print(ticks)", session) == f"{first}\n"


@pytest.mark.parametrize("delay", [0, 0.0005, 0.001, 0.002, 0.004])
def test_client_that_leaves_at_once_has_its_code_interrupted(quick: Service, session: str, delay: float) -> None:
    """Whatever the service does at that moment: reading, asking Redis or SQL, sending the code."""
    quick.run("import time\nfinished = []", session)
    for number in range(20):
        with RawCall(quick, f"time.sleep(0.4)\nfinished.append({number})", session):
            time.sleep(delay)
    assert quick.stdout("print(finished)", session) == "[]\n"


def test_run_whose_client_left_is_counted(quick: Service, session: str) -> None:
    count = quick.run("print(1)", session)["execution"]["execute_count"]
    with RawCall(quick, ENDLESS, session):
        time.sleep(BEFORE)
    assert quick.run("print(1)", session)["execution"]["execute_count"] == count + 2


def test_new_session_whose_client_left_before_hearing_of_it_is_ended(quick: Service) -> None:
    def sessions() -> set[str]:
        return {listed["id"] for listed in quick.client.get("/tci/sessions").json()["data"]["sessions"]}

    before = sessions()
    with RawCall(quick, ENDLESS):
        assert eventually(lambda: bool(sessions() - before))
        time.sleep(BEFORE)
    assert eventually(lambda: sessions() == before)


def test_client_that_closes_only_its_sending_side_has_its_code_interrupted(quick: Service, session: str) -> None:
    with RawCall(quick, ENDLESS, session) as call:
        time.sleep(BEFORE)
        call._socket.shutdown(socket.SHUT_WR)
        assert 1 <= int(quick.stdout("print(ticks)", session)) <= (BEFORE + SOON) * 10


@pytest.mark.parametrize("phase", ["plain", "heartbeat"])
def test_code_that_survives_its_client_and_the_interrupt_loses_its_session(
    quick: Service, session: str, phase: str
) -> None:
    with RawCall(quick, UNSTOPPABLE, session) as call:
        if phase == "plain":
            time.sleep(BEFORE)
        else:
            call.receive()
    left = time.monotonic()
    refused = quick.post({"code": "1", "session_id": session})
    assert GRACE / 2 < time.monotonic() - left < GRACE + SOON
    if refused.status_code == 200:  # it had waited for longer than the heartbeat: its status was spent
        assert "its caller left" in late(refused)["execution"]["failure"]["message"]
    refused = quick.post({"code": "1", "session_id": session})
    assert refused.status_code == 404
    assert "its caller left" in refused.json()["message"]


@pytest.mark.parametrize("phase", ["plain", "heartbeat"])
def test_queued_call_whose_client_left_never_runs(quick: Service, session: str, phase: str) -> None:
    busy = f"import time\ntime.sleep({2 * HEARTBEAT})\nprint('first')"
    with RawCall(quick, busy, session) as first:
        time.sleep(BEFORE / 2)
        with RawCall(quick, "open('ran', 'w').close()\nran = True", session) as queued:
            if phase == "plain":
                time.sleep(BEFORE)
                assert not queued.has_answer()
            else:
                assert queued.receive().startswith(b"HTTP/1.1 200")
        # The one that is served does not notice.
        data = first.read().json()["data"]
        assert (data["outputs"][0]["data"], data["execution"]["verdict"]) == ("first\n", "ok")
    code = "import os\nprint('ran' in globals(), os.path.exists('ran'))"
    assert quick.stdout(code, session) == "False False\n"


def test_queued_call_gets_its_turn_when_the_client_before_it_leaves(quick: Service, session: str) -> None:
    with RawCall(quick, ENDLESS, session) as endless:
        time.sleep(BEFORE)
        with RawCall(quick, "print('second')", session) as queued:
            queued.receive()  # its heartbeat
            endless.leave()
            left = time.monotonic()
            assert queued.read().json()["data"]["outputs"] == [{"type": "stdout", "data": "second\n"}]
            assert time.monotonic() - left < SOON


def test_place_in_the_queue_is_free_again_when_its_client_leaves(
    start_service: Callable[..., Service],
) -> None:
    narrow = start_service(max_waiting=1, grace_seconds=GRACE)
    session = narrow.run("")["session_id"]
    with RawCall(narrow, "import time\ntime.sleep(4)", session):
        time.sleep(BEFORE)
        for _ in range(3):
            with RawCall(narrow, "1", session):
                time.sleep(0.3)
                assert narrow.post({"code": "1", "session_id": session}).status_code == 429
            time.sleep(0.3)
    assert narrow.stdout("print(1)", session) == "1\n"


def test_session_that_died_while_a_call_waited_is_a_late_failure(quick: Service, session: str) -> None:
    with RawCall(quick, f"import os, time\ntime.sleep({2 * HEARTBEAT})\nos._exit(1)", session) as first:
        time.sleep(BEFORE / 2)
        with RawCall(quick, "print('never')", session) as queued:
            data = late(queued.read())
        assert first.read().json()["data"]["execution"]["verdict"] == "kernel_died"
    assert data["session_id"] == session
    assert data["execution"]["failure"]["code"] == "session_not_found"
    assert "kernel died" in data["outputs"][0]["data"]


def test_session_that_can_not_be_opened_in_time_is_a_late_failure(start_service: Callable[..., Service]) -> None:
    hasty = start_service(heartbeat_seconds=0.02, launch_timeout_seconds=0.1)
    with RawCall(hasty, "print('never')") as call:
        data = late(call.read())
    assert data["session_id"] == ""
    assert data["execution"]["failure"]["code"] == "sandbox_timeout"
    assert eventually(lambda: sandboxes(hasty) == set())


def sandboxes(service: Service) -> set[str]:
    """Return what there is of a service's sandboxes: directories, containers, processes, control groups."""
    found = {path.name for path in (service.data_dir / "run").iterdir()}
    if service.driver == "docker":
        names = subprocess.check_output(["docker", "ps", "--all", "--no-trunc", "--format", "{{.Names}} {{.Mounts}}"])
        run_dir = str(service.data_dir / "run")
        found |= {line for line in names.decode().splitlines() if run_dir in line}
    jails = jailed(service.data_dir) | zombies_of(service.process.pid)
    return found | {f"process {pid}" for pid in jails}


def zombies_of(pid: int) -> set[int]:
    """Return the ended processes that a service has not waited for."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = stat.read_text().rsplit(")", 1)[1].split()[:2]
            if (state, parent) == ("Z", str(pid)):
                found.add(int(stat.parent.name))
    return found


@contextmanager
def one_place(start: Callable[..., Service], **settings: object) -> Iterator[Service]:
    """Start a service for one session, that cleans up nothing by itself; what is left then shows."""
    service = start(max_sandboxes=1, reconcile_interval_seconds=3600, **settings)
    assert sandboxes(service) == set()
    yield service
    assert eventually(lambda: sandboxes(service) == set()), sandboxes(service)
    time.sleep(1)
    assert sandboxes(service) == set()  # nor is there anything that was still being made
    assert service.client.get("/tci/sessions").json()["data"]["sessions"] == []
    assert service.stdout("print('a place is free')") == "a place is free\n"


@pytest.mark.parametrize("delay", [0, 0.003, 0.006, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4])
def test_client_that_leaves_while_its_session_opens_leaves_nothing(
    start_service: Callable[..., Service], delay: float
) -> None:
    with one_place(start_service) as service:
        run_dir = service.data_dir / "run"
        with RawCall(service, "import os, time\ntime.sleep(100)"):
            while not os.listdir(run_dir):  # noqa: PTH208 (the fastest look there is)
                pass
            time.sleep(delay)


def test_client_that_leaves_during_the_heartbeat_of_an_opening_session_leaves_nothing(
    start_service: Callable[..., Service],
) -> None:
    with one_place(start_service, heartbeat_seconds=0.05) as service, RawCall(service, "1") as call:
        call.receive()
        assert service.client.get("/tci/sessions").json()["data"]["sessions"] == []  # it is not open yet
