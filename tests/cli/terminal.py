"""A program on a terminal of its own, as a person has it."""

import os
import pty
import select
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

PATIENCE_SECONDS = 60.0


@dataclass
class Terminal:
    """What is typed goes in, what is shown comes out."""

    master: int
    process: subprocess.Popen[bytes]
    seen: str = ""

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.master, text.encode())

    def expect(self, text: str) -> str:
        """Wait until a text is shown; return all that was shown up to its end."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        while text not in self.seen:
            assert time.monotonic() < give_up, f"{text!r} was not shown: {self.seen!r}"
            self._read()
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def end(self) -> int:
        """Wait for the program's end and return its exit status."""
        return self.process.wait(timeout=PATIENCE_SECONDS)

    def _read(self) -> None:
        if select.select([self.master], [], [], 1)[0]:
            try:
                self.seen += os.read(self.master, 65536).decode(errors="replace")
            except OSError:  # the program has ended, and what it showed was read
                time.sleep(0.1)


@contextmanager
def terminal(command: Sequence[str], environment: dict[str, str]) -> Iterator[Terminal]:
    """Start a program on a new terminal, which is its controlling one: Ctrl-C is a key."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", *command],
        env=environment | {"TERM": "xterm"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=environment["HOME"],
    )
    os.close(slave)
    try:
        yield Terminal(master, process)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(master)
