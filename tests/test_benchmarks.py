"""The benchmarks end, whatever hangs in them, and leave nothing behind."""

import secrets
import subprocess
import sys

from tests.conftest import ROOT
from tests.sandbox import processes

HANGS = """
import asyncio, subprocess, zmq
from benchmarks.report import Report
from benchmarks.steps import Steps

report = Report()
steps = Steps(report)
silent = zmq.Context.instance().socket(zmq.PULL)
silent.bind("inproc://silent")
steps.take("in ZeroMQ", silent.recv, seconds=0.1)
steps.take("in a child", lambda: subprocess.run(["sleep", "600"]), seconds=0.1)
steps.take("in an event loop", lambda: asyncio.run(asyncio.sleep(600)), seconds=0.1)
steps.take("in a part", lambda: steps.take("its step", silent.recv, seconds=600), seconds=0.1)
steps.take("late", lambda: 1, seconds=-1)
print(steps.take("well", lambda: "measured", seconds=600))
print(report.as_text())
"""

LEAVES = """
import subprocess, sys
from benchmarks import guard

guard.STOP_SECONDS = 1
stays = '''
import signal, subprocess, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen(["sleep", "{mark}"], start_new_session=True)
print("left", flush=True)
time.sleep(600)
'''
sys.exit(guard.guarded([sys.executable, "-c", stays], seconds=1))
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_step_that_hangs_is_told_and_the_next_is_taken() -> None:
    said = run(HANGS)
    for name in ("in ZeroMQ", "in a child", "in an event loop", "its step", "late"):
        assert f"{name}: not measured" in said.stdout, said
    assert said.stdout.startswith("measured\n"), said


def test_run_that_does_not_end_leaves_no_process() -> None:
    mark = f"600.{secrets.randbelow(10**9):09}"
    said = run(LEAVES.replace("{mark}", mark))
    assert (said.returncode, said.stdout) == (1, "left\n"), said
    assert not processes.with_command(mark)
