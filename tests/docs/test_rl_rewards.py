"""The training loop of docs/clients.md gives no wrong reward, though its service is killed in the middle."""

import contextlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from examples import rl_rewards
from tests.conftest import KEY, ROOT, Service
from tests.recovery.conftest import best_driver  # noqa: F401 (a fixture)
from tests.stack import Kind, stack

SCRIPT = ROOT / "examples/rl_rewards.py"
TESTS = "print(double(21), double(-1))"
EXPECTED = "42 -2"
ANSWERS = (
    ("def double(x):\n    return 2 * x", 1.0, {"right"}),
    ("import time\ntime.sleep(2)\nprint('42 -2')\ndef double(x):\n    return x + x", 1.0, {"right"}),
    ("import time\ntime.sleep(1)\ndef double(x):\n    return x ** 2", 0.0, {"wrong"}),
    ("print('42 -2')\ndouble = lambda x: None", 0.0, {"wrong"}),
    ("def double(x):\n    return undefined", 0.0, {"error"}),
    ("import os\nos._exit(0)", 0.0, {"kernel_died"}),
)
"""Answers, what each is worth, and why."""

ROUNDS = 10
KILLED_AFTER = 6
"""Rewards that are known when the service is killed; all workers are in the middle of others then."""


def write_problems(path: Path, answers: Iterator[str]) -> None:
    """Write answers to the one problem as the script reads them."""
    lines = (json.dumps({"answer": answer, "tests": TESTS, "expected": EXPECTED}) for answer in answers)
    path.write_text("".join(f"{line}\n" for line in lines))


@contextlib.contextmanager
def grading(url: str, problems: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Run the script as its reader would."""
    environment = {"PATH": os.environ["PATH"], "TCI_BASE_URL": url, "TCI_API_KEY": KEY}
    command = [sys.executable, str(SCRIPT), str(problems), *options]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.timeout(600)
def test_service_killed_and_restarted_no_reward_is_wrong_and_masked_ones_are_counted(
    best_driver: str,  # noqa: F811
    tmp_path: Path,
) -> None:
    known = list(ANSWERS) * ROUNDS
    write_problems(tmp_path / "problems.jsonl", (answer for answer, _, _ in known))
    settings: dict[str, Any] = {"preload": "json", "session_ttl_seconds": 120, "max_sandboxes": 100}
    with (
        stack(best_driver, Kind.EMBEDDED, workers=(1,), **settings) as built,
        grading(built.instances[0].url, tmp_path / "problems.jsonl", "--timeout", "60") as process,
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [process.stdout.readline() for _ in range(KILLED_AFTER)]
        built.instances[0].kill()
        built.instances[0].start()
        lines += process.stdout.readlines()
        counts = json.loads(process.stderr.read().splitlines()[-1])
    rewards = [json.loads(line) for line in lines]
    assert sorted(reward["line"] for reward in rewards) == list(range(len(known)))
    for reward in rewards:
        answer, worth, reasons = known[reward["line"]]
        if reward["reward"] is not None:
            assert (reward["reward"], reward["reason"]) == (worth, *reasons), answer
    seen = Counter("masked" if reward["reward"] is None else reward["reason"] for reward in rewards)
    assert counts["masked"] == seen["masked"] > 0, "the workers were in the middle"
    assert counts["right"] == seen["right"] > 0
    assert counts["wrong"] == len(known) - counts["masked"] - counts["right"] > 0


def test_session_is_ended_where_the_server_has_the_route(live_service: Service, tmp_path: Path) -> None:
    before = live_service.client.get("/tci/sessions").json()["data"]["sessions"]
    write_problems(tmp_path / "problems.jsonl", iter([ANSWERS[0][0]]))
    with grading(live_service.url, tmp_path / "problems.jsonl") as process:
        printed, _ = process.communicate()
    assert json.loads(printed) == {"line": 0, "reward": 1.0, "reason": "right"}
    left = live_service.client.get("/tci/sessions").json()["data"]["sessions"]
    routes = live_service.client.get("/openapi.json").json()["paths"]
    can_end = "delete" in routes.get("/tci/sessions/{session_id}", {})
    assert len(left) - len(before) == (0 if can_end else 1)


OK = {"session_id": "", "outputs": [], "execution": {"verdict": "ok"}}
LATE = {**OK, "execution": {"verdict": None, "failure": {"code": "unavailable", "message": "The service is stopping."}}}


def answered(data: dict[str, Any]) -> httpx.Response:
    """Return an answer with these data."""
    return httpx.Response(200, json={"data": data, "errors": None})


def refused(status: int, code: str) -> httpx.Response:
    """Return a failure."""
    return httpx.Response(status, json={"error": {"code": code}}, headers={"retry-after": "0"})


async def reward_from(*answers: httpx.Response | Exception) -> tuple[rl_rewards.Reward, int]:
    """Judge an answer on a machine that says these things in turn; return the reward and the number of requests."""
    left = list(answers)

    def say(_request: httpx.Request) -> httpx.Response:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with httpx.AsyncClient(transport=httpx.MockTransport(say), base_url="http://machine") as client:
        grader = rl_rewards.Grader(client, timeout=1, patience=60)
        reward = await grader.reward(rl_rewards.Problem(answer="", tests="", expected=""))
    return reward, len(answers) - len(left)


@pytest.mark.parametrize(
    "broken",
    [
        refused(500, "internal_error"),
        refused(500, "sandbox_failed"),
        refused(502, "kernel_failed"),
        refused(503, "unavailable"),
        refused(504, "sandbox_timeout"),
        httpx.Response(502, text="a proxy's own page"),
        httpx.ReadError("reset"),
        httpx.ReadTimeout("silent"),
        httpx.RemoteProtocolError("closed"),
        httpx.Response(200, text=' {"data": {"session_id"'),
        answered(LATE),
        answered({**OK, "execution": {"verdict": "interrupted"}}),
    ],
    ids=repr,
)
async def test_broken_machine_is_masked_and_asked_once(broken: httpx.Response | Exception) -> None:
    reward, requests = await reward_from(broken, answered(OK))
    assert reward.value is None
    assert requests == 1


@pytest.mark.parametrize(
    "refusal",
    [refused(429, "quota_exceeded"), refused(429, "rate_limited"), refused(503, "no_capacity"), httpx.ConnectError("")],
    ids=repr,
)
async def test_what_never_ran_is_sent_again(
    refusal: httpx.Response | Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def sleep(_seconds: float) -> None: ...

    monkeypatch.setattr(rl_rewards.asyncio, "sleep", sleep)
    reward, requests = await reward_from(refusal, answered({**OK, "execution": {"verdict": "error"}}))
    assert reward == rl_rewards.Reward(0.0, "error")
    assert requests == 2


async def test_kernel_that_dies_once_is_not_held_against_the_answer() -> None:
    died = answered({**OK, "execution": {"verdict": "kernel_died"}})
    assert await reward_from(died, refused(503, "unavailable")) == (rl_rewards.Reward(None, "unavailable"), 2)
    assert await reward_from(died, died) == (rl_rewards.Reward(0.0, "kernel_died"), 2)
