"""The tools by name: lists them with their schemas, and has a call carried out once its arguments are checked."""

from collections.abc import Iterable
from typing import Any

from mcp.types import CallToolResult, Tool, ToolAnnotations
from pydantic import ValidationError

from tci.errors import InvalidRequest
from tci.mcp.offer import Offer
from tci.storage.account_store import Caller


class Tools:
    """All that is offered."""

    def __init__(self, offers: Iterable[tuple[str, Offer]]) -> None:
        self._offers = dict(offers)

    def listed(self) -> list[Tool]:
        """Return the tools with their schemas."""
        return [
            Tool(
                name=name,
                description=offer.description,
                input_schema=offer.arguments.model_json_schema(),
                output_schema=offer.result.model_json_schema(mode="serialization"),
                annotations=ToolAnnotations(read_only_hint=offer.only_reads, destructive_hint=offer.destroys),
            )
            for name, offer in self._offers.items()
        ]

    def has(self, name: str) -> bool:
        """Whether there is such a tool."""
        return name in self._offers

    async def call(self, caller: Caller, name: str, arguments: dict[str, Any]) -> CallToolResult:
        """Carry out a tool; raises ServiceError."""
        offer = self._offers[name]
        try:
            checked = offer.arguments.model_validate(arguments)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            param = ".".join(str(part) for part in first["loc"]) or None
            reason = first["msg"].removeprefix("Value error, ")
            raise InvalidRequest(f"{param or name}: {reason}", param=param) from None
        return await offer.carry_out(caller, checked)
