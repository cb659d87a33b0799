"""What `!command` does."""

import codecs
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from IPython import get_ipython


def run_command(command: str) -> None:
    """Run `!command`: output as it comes on stdout, end-of-file on its input, its status in `_exit_code`.

    A pipe, not a terminal as in IPython: programs then print plain text, and none waits for an answer.
    """
    shell = get_ipython()
    process = subprocess.Popen(  # noqa: S602 (a shell is the point of `!`)
        shell.var_expand(command, depth=2),
        shell=True,
        executable="/bin/bash",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
        start_new_session=True,
    )
    try:
        for text in _decoded(process):
            sys.stdout.write(text)
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    finally:
        shell.user_ns["_exit_code"] = process.wait()


def _decoded(process: Any) -> Iterator[str]:
    """Give a program's output as text until its shell has ended, CR LF as LF."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    held = ""
    with process.stdout:
        while True:
            # A command left in the background keeps the pipe open: the shell's own end is what counts.
            if not select.select([process.stdout], [], [], 0.05)[0]:
                if process.poll() is None:
                    continue
                break
            data = process.stdout.read(65536)
            if not data:
                break
            text = held + decoder.decode(data)
            held = "\r" if text.endswith("\r") else ""  # its `\n` may be in the next piece
            yield text.removesuffix("\r").replace("\r\n", "\n")
    yield held + decoder.decode(b"", final=True)
