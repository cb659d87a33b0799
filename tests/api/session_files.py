"""The files of one session, as a caller reaches them."""

import textwrap
from typing import Any
from urllib.parse import quote

import httpx

from tests.conftest import Service

MIB = 1024**2
ALL_BYTES = bytes(range(256))


class Files:
    """The files of one session, over HTTP."""

    def __init__(self, service: Service, session_id: str, client: httpx.Client | None = None) -> None:
        self.service, self.session_id = service, session_id
        self.client = client or service.client
        self.path = f"/tci/sessions/{session_id}/files"

    def url(self, name: str) -> str:
        return f"{self.path}/{quote(name)}"

    def put(self, name: str, content: Any = b"", **options: Any) -> httpx.Response:
        return self.client.put(self.url(name), content=content, **options)

    def get(self, name: str, **headers: str) -> httpx.Response:
        return self.client.get(self.url(name), headers=headers)

    def delete(self, name: str) -> httpx.Response:
        return self.client.delete(self.url(name))

    def list(self) -> dict[str, Any]:
        answer = self.client.get(self.path)
        assert answer.status_code == 200, answer.text
        data: dict[str, Any] = answer.json()["data"]
        return data

    def types(self) -> dict[str, str]:
        return {file["name"]: file["type"] for file in self.list()["files"]}

    def run(self, code: str) -> str:
        return self.service.stdout(textwrap.dedent(code), self.session_id)
