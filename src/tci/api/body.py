"""Parses bodies ourselves: as JSON whatever their Content-Type says, which the SDKs need."""

import re
from itertools import takewhile
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from tci.errors import InvalidRequest

Model = TypeVar("Model", bound=BaseModel)

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
"""What a field is named, or an entry of one."""


async def parsed_body(request: Request, model: type[Model], *, empty: bytes = b"") -> Model:
    """Return the request's body; raises InvalidRequest, which names the first field that is wrong.

    `empty` is what a body without a byte means.
    """
    try:
        return model.model_validate_json(await request.body() or empty)
    except ClientDisconnect:
        raise InvalidRequest("The client left before its request was complete.") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        # A name that the caller made up is repeated only where it is one.
        param = ".".join(takewhile(NAME.fullmatch, map(str, first["loc"]))) or None
        reason = first["msg"].removeprefix("Value error, ")
        message = f"{param}: {reason}" if param else reason
        raise InvalidRequest(message, param=param) from None


def request_schema(model: type[BaseModel], *, is_required: bool = True) -> dict[str, Any]:
    """Return what the OpenAPI document says of a route with such a body."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": is_required, "content": {"application/json": {"schema": schema}}}}
