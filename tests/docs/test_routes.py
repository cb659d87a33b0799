"""docs/api.md has an example of every route of the service's OpenAPI document, and of no other."""

import re

import pytest

from tests.conftest import ROOT, Service
from tests.docs.blocks import Block, blocks_of

CURL = re.compile(r"\bcurl\b.*?(?=\bcurl\b|\Z)", re.DOTALL)
PATH = re.compile(r"http://127\.0\.0\.1:8000(/[^\s\"'?|)]*)")
METHODS = (
    (re.compile(r"-X ([A-Z]+)"), None),
    (re.compile(r"\s(-T|--upload-file)\s"), "PUT"),
    (re.compile(r"\s(-I|--head)\s"), "HEAD"),
    (re.compile(r"\s(-d|--data|--data-binary|--json|-F)\s"), "POST"),
)
UNDESCRIBED = {("GET", "/openapi.json"), ("POST", "/mcp")}
"""What the document of the service does not describe."""


def requests_of(block: Block) -> set[tuple[str, str]]:
    """Return the method and path of each request that a block sends."""
    commands = CURL.findall(block.text)
    return {(_method(command), path[1]) for command in commands if (path := PATH.search(command))}


def _method(command: str) -> str:
    for pattern, method in METHODS:
        if found := pattern.search(command):
            return method or found[1]
    return "GET"


def is_of(request: tuple[str, str], route: tuple[str, str]) -> bool:
    """Whether a request is answered by a route, whose path may have parameters: the last may hold slashes."""
    pattern = re.sub(r"\\{path\\}", ".+", re.escape(route[1]))
    return request[0] == route[0] and re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", pattern), request[1]) is not None


@pytest.fixture(scope="module")
def documented() -> set[tuple[str, str]]:
    """The requests of docs/api.md."""
    blocks = [block for block in blocks_of(ROOT / "docs/api.md") if block.is_run and block.language == "sh"]
    return {request for block in blocks for request in requests_of(block)}


@pytest.fixture(scope="module")
def routes(live_service: Service) -> set[tuple[str, str]]:
    """The routes that the service describes."""
    paths = live_service.client.get("/openapi.json").json()["paths"]
    return {(method.upper(), path) for path, methods in paths.items() for method in methods}


def test_every_route_has_an_example(routes: set[tuple[str, str]], documented: set[tuple[str, str]]) -> None:
    assert {route for route in routes if not any(is_of(request, route) for request in documented)} == set()


def test_every_example_is_of_a_route(routes: set[tuple[str, str]], documented: set[tuple[str, str]]) -> None:
    known = documented - UNDESCRIBED
    assert {request for request in known if not any(is_of(request, route) for route in routes)} == set()
