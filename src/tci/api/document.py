"""The OpenAPI document: FastAPI's, with the request that we parse ourselves and the one body of every failure."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from tci.api.models import ExecuteRequest
from tci.api.session_models import OpenRequest


class FailureError(BaseModel):
    """What went wrong, for the SDKs."""

    message: str
    type: str
    param: str | None
    code: str


class Failure(BaseModel):
    """The body of every answer that is not 2xx."""

    error: FailureError
    message: str
    data: None
    errors: list[str]


FAILURES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Failure, "description": "The request was refused; nothing was run."},
    "5XX": {"model": Failure, "description": "The service failed; nothing is billed."},
}


PARSED_BY_US: tuple[type[BaseModel], ...] = (ExecuteRequest, OpenRequest)


def install(app: FastAPI) -> None:
    """Have the app's document describe the requests that FastAPI does not see as well."""
    made_by_fastapi = app.openapi

    def openapi() -> dict[str, Any]:
        document = made_by_fastapi()
        for model in PARSED_BY_US:
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            document["components"]["schemas"] |= {**schema.pop("$defs", {}), model.__name__: schema}
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # the way that FastAPI's documentation shows
