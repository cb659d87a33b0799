"""What the service itself holds of an execution's output: at most three times the limit, whatever the code does."""

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Service

MIB = 1024**2
LIMIT_BYTES = 16 * MIB
"""The default of TCI_MAX_OUTPUT_BYTES."""
BOUND_BYTES = 3 * LIMIT_BYTES

FORGED = """
k = get_ipython().kernel
for _ in range(20):
    k.session.send(k.iopub_socket, {kind!r}, {content}, parent=k.get_parent())
"""

CODES = {
    "lines": "for i in range(3_000_000): print('x' * 99)",
    "one_line": "print('x' * 300_000_000)",
    "one_line_with_wide_character": "print('\\N{GRINNING FACE}' + 'x' * 100_000_000)",
    "one_line_in_chinese": "print('\\u4e2d' * 100_000_000)",
    "control_characters": "print('\\x01' * 100_000_000)",
    "display": "from IPython.display import HTML\ndisplay(HTML('z' * 300_000_000))",
    "largest_display": f"from IPython.display import HTML\ndisplay(HTML('z' * {LIMIT_BYTES - 4096}))",
    "many_displays": "from IPython.display import HTML\nfor i in range(300): display(HTML('z' * 1_000_000))",
    "tiny_displays": "for i in range(100_000): display(i)",
    "endless": "while True: print('again and again')",
    "descriptor": "import os\nfor i in range(3000): x = os.write(1, b'y' * 100_000)",
    "command": "!yes | head -c 300000000",
    "forged_streams": FORGED.format(kind="stream", content=f"{{'name': 'stdout', 'text': 'f' * {15 * MIB}}}"),
    "forged_displays": FORGED.format(
        kind="display_data", content=f"{{'data': {{'text/html': 'f' * {15 * MIB}}}, 'metadata': {{}}}}"
    ),
    "forged_errors": FORGED.format(
        kind="error", content=f"{{'ename': 'E', 'evalue': 'v', 'traceback': ['t' * {15 * MIB}]}}"
    ),
    "forged_unknown": FORGED.format(kind="comm_msg", content=f"{{'data': 'f' * {15 * MIB}}}"),
    "forged_keys": FORGED.format(
        kind="display_data", content="{'data': {str(i): '' for i in range(400_000)}, 'metadata': {}}"
    ),
    "forged_json": FORGED.format(
        kind="display_data", content=f"{{'data': {{'application/json': {{'a': [0] * {5 * MIB}}}}}, 'metadata': {{}}}}"
    ),
}


def memory(service: Service, name: str) -> int:
    """Return a figure of /proc/PID/status (proc_pid_status(5)) in bytes."""
    lines = Path(f"/proc/{service.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def grown_while(service: Service, work: Callable[[], Any]) -> int:
    """Return by how many bytes the service's resident memory exceeded, at its peak, what it was before."""
    before = memory(service, "VmRSS")
    Path(f"/proc/{service.process.pid}/clear_refs").write_text("5")  # sets the peak back to what is resident now
    work()
    return memory(service, "VmHWM") - before


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_flood_grows_the_service_by_no_more_than_three_times_the_limit(
    start_service: Callable[..., Service], code: str, request: pytest.FixtureRequest
) -> None:
    service = start_service()  # new: one that has held much before would hide what it takes
    session = service.run("print('warm')")["session_id"]
    answers: list[Any] = []

    def flood() -> None:
        answers.append(service.post({"code": code, "session_id": session, "timeout": 5}))

    grown = grown_while(service, flood)
    answer = answers[0]
    figures = f"{request.node.callspec.id}: {grown / MIB:.1f} MiB for an answer of {len(answer.content) / MIB:.1f} MiB"
    print(figures, file=sys.stderr)
    assert answer.status_code == 200
    assert answer.json()["data"]["execution"]["verdict"] in {"output_limit", "ok", "timeout"}
    assert service.run("print('alive')")["execution"]["verdict"] == "ok"
    assert grown <= BOUND_BYTES, figures


def test_floods_at_once_grow_the_service_by_no_more_than_their_number_allows(
    start_service: Callable[..., Service],
) -> None:
    service = start_service()
    sessions = [service.run("print('warm')")["session_id"] for _ in range(3)]

    def flood() -> None:
        body = {"code": CODES["lines"], "timeout": 5}
        threads = [threading.Thread(target=service.post, args=[{**body, "session_id": name}]) for name in sessions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert grown_while(service, flood) <= len(sessions) * BOUND_BYTES
