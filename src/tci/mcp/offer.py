"""A tool as a value."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from mcp.types import CallToolResult
from pydantic import BaseModel

from tci.mcp.arguments import Arguments
from tci.storage.account_store import Caller


@dataclass(frozen=True, slots=True)
class Offer:
    """A tool as it is offered, and what carries it out."""

    arguments: type[Arguments]
    result: type[BaseModel]
    carry_out: Callable[[Caller, Any], Awaitable[CallToolResult]]
    description: str
    only_reads: bool = False
    destroys: bool = False
