"""Rewards for code that a model wrote: 1.0 right, 0.0 wrong, null where a machine failed and nothing is known.

    TCI_BASE_URL=http://127.0.0.1:8000 TCI_API_KEY=tci_... python examples/rl_rewards.py problems.jsonl

A line of the file is {"answer": the model's code, "tests": code that prints what is judged, "expected": what that must
be}. The expected text is compared here and never enters the sandbox, so no answer can print it without computing it.
Prints a line of JSON for each answer once its reward is known, and the counts at the end. Needs httpx.
"""

import argparse
import asyncio
import json
import os
import random
import secrets
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

WORKERS = 32

SILENCE_SECONDS = 60.0
"""The service sends a byte every ten seconds: a connection that is silent for longer than this is broken."""


@dataclass(frozen=True, slots=True)
class Problem:
    """An answer of the model, and how it is judged."""

    answer: str
    tests: str
    expected: str


@dataclass(frozen=True, slots=True)
class Reward:
    """What an answer is worth. None: mask it, for nothing is known of it."""

    value: float | None
    reason: str


class MachineFailedError(Exception):
    """The answer was not judged, and that says nothing about it."""


class Grader:
    """Judges answers, each in a session of its own."""

    def __init__(self, client: httpx.AsyncClient, *, timeout: float, patience: float) -> None:
        self._client = client
        self._timeout = timeout
        self._patience = patience
        self._can_end = True

    async def reward(self, problem: Problem) -> Reward:
        """Judge one answer."""
        try:
            reward = await self._judge(problem)
            if reward.reason == "kernel_died":
                # Code that exits does that, and so does an engine that is stopped. A second session tells them apart;
                # of the first nothing is left.
                reward = await self._judge(problem)
        except MachineFailedError as failure:
            return Reward(None, str(failure))
        return reward

    async def _judge(self, problem: Problem) -> Reward:
        mark = secrets.token_hex(16)  # what stands before it was printed by the answer, not by its tests
        code = f"{problem.answer}\nprint('\\n{mark}')\n{problem.tests}"
        data = await self._execute({"code": code, "language": "python", "timeout": self._timeout})
        await self._end(data["session_id"])
        match data["execution"]["verdict"]:
            case None:  # it failed after the status had been sent
                raise MachineFailedError(data["execution"]["failure"]["code"])
            case "interrupted":  # the session expired, or an operator ended it
                raise MachineFailedError("interrupted")
            case "ok":
                printed = "".join(output["data"] for output in data["outputs"] if output["type"] == "stdout")
                is_right = printed.partition(f"\n{mark}\n")[2].strip() == problem.expected.strip()
                return Reward(1.0, "right") if is_right else Reward(0.0, "wrong")
            case verdict:  # error, timeout, oom, kernel_died, output_limit: the code's own doing
                return Reward(0.0, verdict)

    async def _execute(self, body: dict[str, Any]) -> dict[str, Any]:
        """Send code once; again only where none of it ran. Raises MachineFailedError."""
        give_up = time.monotonic() + self._patience
        while True:
            try:
                answer = await self._client.post("/tci/execute", json=body)
            except (httpx.ConnectError, httpx.ConnectTimeout):  # nobody got it
                reason, wait = "no connection", 1.0
            except httpx.TransportError as error:  # it may have run
                raise MachineFailedError(type(error).__name__) from None
            else:
                if answer.is_success:
                    return _data(answer)
                if answer.status_code == httpx.codes.UNAUTHORIZED:
                    sys.exit("The API key is not valid.")  # a mistake of ours, which must not look like bad luck
                reason, wait = _code(answer), float(answer.headers.get("retry-after", 1))
                if answer.status_code != httpx.codes.TOO_MANY_REQUESTS and reason != "no_capacity":
                    raise MachineFailedError(reason)
            if time.monotonic() + wait > give_up:
                raise MachineFailedError(reason)
            await asyncio.sleep(wait * random.uniform(1, 1.5))  # noqa: S311 (so that not all come back at once)

    async def _end(self, session_id: str) -> None:
        """End a session, where the server has a route for it; it expires anyway."""
        if not (self._can_end and session_id):
            return
        try:
            answer = await self._client.delete(f"/tci/sessions/{session_id}")
        except httpx.TransportError:
            return
        if answer.is_error and _code(answer) in {"not_found", "method_not_allowed"}:
            self._can_end = False


def _data(answer: httpx.Response) -> dict[str, Any]:
    try:
        data: dict[str, Any] = answer.json()["data"]
    except ValueError:  # it was cut off
        raise MachineFailedError("broken answer") from None
    return data


def _code(answer: httpx.Response) -> str:
    """Return the code of a failure; of one that a proxy in between made, the status."""
    try:
        return str(answer.json()["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status_code}"


async def grade(problems: list[Problem], *, url: str, key: str, workers: int, timeout: float, patience: float) -> None:
    """Print the rewards of answers as they become known."""
    headers = {"Authorization": f"Bearer {key}"}
    limits = httpx.Limits(max_connections=workers)
    counts: Counter[str] = Counter()
    async with httpx.AsyncClient(
        base_url=url, headers=headers, limits=limits, timeout=httpx.Timeout(SILENCE_SECONDS, pool=None)
    ) as client:
        grader = Grader(client, timeout=timeout, patience=patience)
        places = asyncio.Semaphore(workers)

        async def one(number: int, problem: Problem) -> tuple[int, Reward]:
            async with places:
                return number, await grader.reward(problem)

        for done in asyncio.as_completed([one(number, problem) for number, problem in enumerate(problems)]):
            number, reward = await done
            counts["masked" if reward.value is None else "right" if reward.value else "wrong"] += 1
            print(json.dumps({"line": number, "reward": reward.value, "reason": reward.reason}), flush=True)
    print(json.dumps({name: counts[name] for name in ("right", "wrong", "masked")}), file=sys.stderr)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Rewards for code that a model wrote.")
    parser.add_argument("problems", type=Path, help="JSON lines: answer, tests, expected")
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--timeout", type=float, default=30.0, help="of one answer, in seconds")
    parser.add_argument("--patience", type=float, default=300.0, help="with a server that is away or full, in seconds")
    given = parser.parse_args()
    problems = [Problem(**json.loads(line)) for line in given.problems.read_text().splitlines()]
    url, key = os.environ.get("TCI_BASE_URL", "http://127.0.0.1:8000"), os.environ["TCI_API_KEY"]
    asyncio.run(
        grade(problems, url=url, key=key, workers=given.workers, timeout=given.timeout, patience=given.patience)
    )


if __name__ == "__main__":
    main()
