"""`tci shell` on a real service and a real terminal."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tci.cli.shell import is_complete
from tests.cli.conftest import caller_environment
from tests.cli.terminal import Terminal, terminal
from tests.conftest import Service

PROMPT, NEXT = ">>> ", "... "


@contextmanager
def opened(service: Service, home: Path, *arguments: str, command: str = "shell") -> Iterator[Terminal]:
    program = (sys.executable, "-m", "tci", command, *arguments)
    with terminal(program, caller_environment(service, home)) as shown:
        yield shown


def test_statements_run_in_one_session(live_service: Service, tmp_path: Path) -> None:
    with opened(live_service, tmp_path) as shell:
        session_id = "ses_" + shell.expect(", until ").rpartition("ses_")[2].removesuffix(", until ")
        shell.expect(PROMPT)
        shell.type("x = 40\r")
        shell.expect(PROMPT)
        shell.type("for i in range(2):\r")
        shell.expect(NEXT)
        shell.type("    x += 1\r")
        shell.expect(NEXT)
        shell.type("\r")
        shell.expect(PROMPT)
        shell.type("x\r")
        shell.expect("\n42\r\n")
        shell.expect(PROMPT)
        shell.type("!echo $((6 * 111))\r")
        shell.expect("666\r\n")
        shell.expect(PROMPT)
        shell.type("\x04")
        assert shell.end() == 0
    assert live_service.stdout("print(x)", session_id) == "42\n"

    with opened(live_service, tmp_path, "--session", session_id) as shell:
        shell.expect(PROMPT)
        shell.type("\x1b[A")  # the key that goes up in the history
        shell.expect("!echo $((6 * 111))")


def test_ctrl_c_interrupts_the_code_and_drops_a_half_typed_statement(live_service: Service, tmp_path: Path) -> None:
    with opened(live_service, tmp_path) as shell:
        shell.expect(PROMPT)
        shell.type("y = 1\r")
        shell.expect(PROMPT)
        shell.type("while True: pass\r")
        shell.expect(NEXT)
        shell.type("\r")
        shell.expect("running, 1 s")
        shell.type("\x03")
        shell.expect("KeyboardInterrupt")
        shell.expect(PROMPT)
        shell.type("def half(:\x03")
        shell.expect("KeyboardInterrupt")
        shell.expect(PROMPT)
        shell.type("y + 1\r")
        shell.expect("\n2\r\n")


def test_error_is_red_and_what_commands_the_terminal_is_not_passed_on(live_service: Service, tmp_path: Path) -> None:
    with opened(live_service, tmp_path) as shell:
        shell.expect(PROMPT)
        shell.type("1 / 0\r")
        assert "\x1b[31m" in shell.expect("division by zero")
        shell.expect(PROMPT)
        shell.type("print('\\x1b]52;c;eA==\\x07 \\x1b[1mbold')\r")
        shell.expect("\n\N{REPLACEMENT CHARACTER}]52;c;eA==\N{REPLACEMENT CHARACTER} \x1b[1mbold")


def test_session_that_has_ended_ends_the_shell(live_service: Service, tmp_path: Path) -> None:
    with opened(live_service, tmp_path) as shell:
        shell.expect(PROMPT)
        shell.type("exit()\r")
        shell.expect(PROMPT)
        shell.type("1\r")
        shell.expect("was not found")
        assert shell.end() == 2


def test_run_on_a_terminal_counts_the_seconds_and_says_how_it_ended(live_service: Service, tmp_path: Path) -> None:
    with opened(live_service, tmp_path, "-c", "import time; time.sleep(2.5); print('done')", command="run") as shown:
        shown.expect("running, 1 s")
        shown.expect("done\r\n")
        shown.expect(": ok, ")
        assert shown.end() == 0


def test_statements_from_a_pipe_run_without_prompts(live_service: Service, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tci", "shell"],
        env=caller_environment(live_service, tmp_path),
        input="x = 1\nfor i in range(2):\n    x += 1\n\nprint(x)\nif x:\n    print('last')",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "3\nlast\n", "")


def test_shell_without_a_service_is_status_2(live_service: Service, tmp_path: Path) -> None:
    environment = caller_environment(live_service, tmp_path) | {"TCI_BASE_URL": "http://127.0.0.1:1"}
    command = [sys.executable, "-m", "tci", "shell"]
    result = subprocess.run(command, env=environment, input="1\n", capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "There is no service" in result.stderr


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("1", True),
        ("if x:", False),
        ("if x:\n    y", False),
        ("if x:\n    y\n", True),
        ("'''", False),
        ("f(1,", False),
        ("await f()", True),
        ("async with f():", False),
        ("!ls (", True),
        ("%timeit 1", True),
        ("%%bash", False),
        ("%%bash\nls\n", True),
        ("x = ", True),
        ("'\0'", True),
        ("(" * 1000, True),
        ("'\\d'", True),
    ],
)
def test_source_is_complete_by_the_rules_of_pythons_prompt(source: str, expected: bool) -> None:
    assert is_complete(source) is expected
