"""One request of a client and what came of it; and the code that clients run."""

import json
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import httpx


class Outcome(StrEnum):
    """How a call ended, as its client saw it."""

    ANSWERED = "answered"
    FAILED = "failed"
    """An HTTP failure, or one that came when status 200 was sent already."""
    BROKEN = "connection broke"
    LEFT = "client left"
    HUNG = "no answer"


@dataclass(frozen=True, slots=True)
class Call:
    """One request. Moments are of the wall clock."""

    token: str
    """What its code writes into the session's history: found there, the code ran."""
    asked: str | None
    """The session that it named; None asks for a new one."""
    wants: str
    """The verdict that is right for its code."""
    sent: float
    ended: float
    outcome: Outcome
    status: int | None = None
    session_id: str | None = None
    """The session that the answer names."""
    verdict: str | None = None
    history: tuple[str, ...] = ()
    """The tokens that the session held when the code ran."""
    execute_count: int = 0
    code: str | None = None
    """Of a failure: its code, its sentence, and what is wrong with its form."""
    message: str = ""
    malformed: str = ""

    def __str__(self) -> str:
        moment = time.strftime("%H:%M:%S", time.gmtime(self.sent))
        took = f"{self.ended - self.sent:.1f} s"
        said = self.verdict or f"{self.status} {self.code}"
        return f"call {self.token} of {self.asked or 'new'} at {moment} ({took}): {self.outcome} {said} {self.message}"

    @property
    def may_have_run(self) -> bool:
        """Whether the code may have run although no output of it came back."""
        return "Nothing was run" not in self.message and self.code not in NEVER_RUN


NEVER_RUN = frozenset({"session_not_found", "no_capacity", "rate_limited", "quota_exceeded"})
"""Failures that say that the code did not run."""

SHOW = "import json; print(json.dumps(history))"


def code(token: str, *, is_first: bool, seconds: float = 0, fails: bool = False) -> str:
    """Return code that writes its token into the session's history and prints all of it."""
    lines = [f"history = [{token!r}]" if is_first else f"history.append({token!r})"]
    if seconds:
        lines += ["import time", f"time.sleep({seconds:.2f})"]
    lines.append(SHOW)
    if fails:
        lines.append("raise ValueError('on purpose')")
    return "\n".join(lines)


def of_answer(call: dict[str, Any], answer: httpx.Response) -> Call:
    """Return what an answer says."""
    try:
        body = answer.json()
        if answer.status_code != httpx.codes.OK:
            return _refused(call, answer, body)
        data = body["data"]
        if failure := data["execution"].get("failure"):
            return Call(**call, outcome=Outcome.FAILED, status=200, code=failure["code"], message=failure["message"])
        return Call(
            **call,
            outcome=Outcome.ANSWERED,
            status=200,
            session_id=data["session_id"],
            verdict=data["execution"]["verdict"],
            history=_history(data["outputs"]),
            execute_count=data["execution"]["execute_count"],
            message=_error(data["outputs"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        malformed = f"{error!r} in {answer.text[:300]}"
        return Call(**call, outcome=Outcome.FAILED, status=answer.status_code, malformed=malformed)


def _refused(call: dict[str, Any], answer: httpx.Response, body: dict[str, Any]) -> Call:
    error = body["error"]
    message = error["message"]
    malformed = ""
    if body["message"] != message or body["errors"] != [message] or body["data"] is not None:
        malformed = f"the parts of the body differ: {body}"
    if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR and "retry-after" not in answer.headers:
        malformed = "no retry-after"
    return Call(
        **call,
        outcome=Outcome.FAILED,
        status=answer.status_code,
        code=error["code"],
        message=message,
        malformed=malformed,
    )


def _history(outputs: list[dict[str, Any]]) -> tuple[str, ...]:
    text = "".join(output["data"] for output in outputs if output["type"] == "stdout")
    return tuple(json.loads(text)) if text else ()


def _error(outputs: list[dict[str, Any]]) -> str:
    return "".join(output["data"] for output in outputs if output["type"] == "error")[:500]
