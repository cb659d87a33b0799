"""Sessions as a whole: how tests open, show, list and end them."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.conftest import Service

UNKNOWN = "ses_" + "3" * 21

FIVE = ["id", "started_at", "last_execute_at", "expires_at", "execute_count"]
"""What the vendor documents, in its order."""


@contextmanager
def client_of(service: Service, key: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=120, headers={"Authorization": f"Bearer {key}"}) as client:
        yield client


@contextmanager
def new_account(service: Service) -> Iterator[httpx.Client]:
    """Give a caller of an account of its own."""
    with client_of(service, service.new_key(f"account {uuid.uuid4()}")) as client:
        yield client


def data_of(answer: httpx.Response, status: int = 200) -> dict[str, Any]:
    """Return the `data` of a success."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    data: dict[str, Any] = body["data"]
    assert body == {"data": data, "errors": None}
    return data


def opened(client: httpx.Client, **terms: Any) -> dict[str, Any]:
    """Open a session ahead."""
    data = data_of(client.post("/tci/sessions", json=terms), 201)
    session: dict[str, Any] = data["session"]
    assert data == {"session": session}
    return session


def shown(client: httpx.Client, session_id: str) -> dict[str, Any]:
    session: dict[str, Any] = data_of(client.get(f"/tci/sessions/{session_id}"))["session"]
    return session


def ended(client: httpx.Client, session_id: str) -> None:
    data = data_of(client.delete(f"/tci/sessions/{session_id}"))
    assert data == {"session_id": session_id, "ended": True}


def run(client: httpx.Client, code: str, session_id: str) -> dict[str, Any]:
    return data_of(client.post("/tci/execute", json={"code": code, "session_id": session_id}))


def text(client: httpx.Client, code: str, session_id: str) -> str:
    """Run code and return what it printed."""
    outputs = run(client, code, session_id)["outputs"]
    assert [output["type"] for output in outputs] == ["stdout"], outputs
    return str(outputs[0]["data"])


def bills(client: httpx.Client) -> list[dict[str, Any]]:
    """Return the account's bills of this month and the last."""
    found: list[dict[str, Any]] = client.get("/tci/usage").json()["data"]["sessions"]
    return found
