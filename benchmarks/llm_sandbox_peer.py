"""llm-sandbox with its Docker backend, in a process of its own environment.

Run as a program it takes one word a line (open, run, close) and answers with the seconds that each took. It imports
nothing of the project, which is not in that environment.
"""

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ENVIRONMENT = "/sandbox/.sandbox-venv/bin"
"""Where llm-sandbox looks for Python; in an image of its own it would be made ahead, here at the start."""

PREPARE = (
    f"mkdir -p {ENVIRONMENT} && ln -s /usr/bin/python3 {ENVIRONMENT}/python"
    f" && ln -s /usr/local/bin/pip {ENVIRONMENT}/pip; exec sleep infinity"
)

CLOSE_SECONDS = 30.0
"""How long it may take to remove its containers; what it leaves goes at the end of the run."""


class LlmSandbox:
    """The other process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def seconds(self, word: str) -> float:
        """Have it do something and return how long it took."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"llm-sandbox did not {word}"
        return float(line)


@contextmanager
def llm_sandbox(programs: Path, image: str, *, label: str) -> Iterator[LlmSandbox]:
    """Run llm-sandbox of the peers' environment on the service's own sandbox image."""
    # The label is for who removes what a run left behind.
    command = [programs / "python", __file__, image, label, tempfile.gettempdir()]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield LlmSandbox(process)
    finally:
        assert process.stdin
        try:
            process.stdin.close()
            process.wait(timeout=CLOSE_SECONDS)
        finally:
            process.kill()
            process.wait()


def serve(image: str, label: str, directory: str) -> None:
    """Do what is asked for, line by line."""
    from llm_sandbox import SandboxSession  # noqa: PLC0415 (only in that environment)

    # Without a network, as ours: that is the faster way to start for any container.
    options: dict[str, Any] = {
        "entrypoint": ["/bin/sh", "-c"],
        "command": [PREPARE],
        "init": True,
        "network_mode": "none",
    }
    options["labels"] = {label: directory}
    sessions = list[Any]()

    def new() -> None:
        made = SandboxSession(lang="python", image=image, skip_environment_setup=True, runtime_configs=options)
        sessions.append(made)
        made.open()

    def run() -> None:
        result = sessions[-1].run("print(1)")
        assert result.stdout == "1\n", result

    steps = {"open": new, "run": run, "close": lambda: sessions.pop().close()}
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(lambda: [left.close() for left in sessions])
        for line in sys.stdin:
            began = time.perf_counter()
            steps[line.strip()]()
            print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
