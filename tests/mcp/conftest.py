"""Clients of the protocol: the official SDK's own, in both forms that are in use."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.types import CallToolResult, ImageContent, TextContent

from tests.conftest import Service

Connect = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture(params=["legacy", "auto"])
def mode(request: pytest.FixtureRequest) -> str:
    """How client and server agree: by the handshake of 2025, or without one, as since 2026-07-28."""
    found: str = request.param
    return found


@asynccontextmanager
async def connected(service: Service, *, key: str | None = None, mode: str = "auto") -> AsyncIterator[Client]:
    """Connect a client to a service."""
    headers = {"Authorization": f"Bearer {key or service.key}"}
    async with (
        create_mcp_http_client(headers=headers) as http,
        Client(streamable_http_client(f"{service.url}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


def texts(result: CallToolResult) -> list[str]:
    """Return the texts that an agent reads."""
    return [block.text for block in result.content if isinstance(block, TextContent)]


def images(result: CallToolResult) -> list[ImageContent]:
    """Return the images that an agent sees."""
    return [block for block in result.content if isinstance(block, ImageContent)]
