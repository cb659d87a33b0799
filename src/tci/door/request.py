"""What may be asked at the door: a pure function from a request's method and target to what it means.

Nothing of a request is passed on. What is understood is asked of the engine anew, in our own words, so that nothing
depends on two programs reading the same bytes alike.
"""

import json
import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl

from tci.sandbox.docker_image import image_tag
from tci.sandbox.docker_spec import DEPLOYMENT_LABEL

VERSION = r"/v1\.(?:4[1-9]|[5-9][0-9])"
"""Versions of the Engine API from the one that `container_config` is written for."""

NAME = r"tci-(sbx_[1-9A-HJ-NP-Za-km-z]{16})"
"""A sandbox's container; a container's id, which would name any, does not fit."""

DEPLOYMENT = re.compile(r"[A-Za-z0-9_-]{1,64}")

Verb = Literal["inspect", "stats", "start", "delete"]

ON_CONTAINERS: dict[Verb, tuple[str, str, dict[str, str]]] = {
    "inspect": ("GET", "/json", {}),
    "stats": ("GET", "/stats", {"stream": "0", "one-shot": "1"}),
    "start": ("POST", "/start", {}),
    "delete": ("DELETE", "", {"force": "1", "v": "1"}),
}
"""Of each verb the method, the end of the path, and the whole query."""


class Refused(Exception):
    """The request is none that the driver makes; the message says why."""


@dataclass(frozen=True, slots=True)
class AskEngine:
    """Ask whether the engine is there, and what it is."""

    what: Literal["_ping", "version", "info"]


@dataclass(frozen=True, slots=True)
class AskImage:
    """Ask for the sandbox image of this version, the only one."""


@dataclass(frozen=True, slots=True)
class ListContainers:
    """List the containers of a deployment."""

    deployment: str


@dataclass(frozen=True, slots=True)
class Create:
    """Create a sandbox's container from a body that is still to be read."""

    sandbox_id: str


@dataclass(frozen=True, slots=True)
class OnContainer:
    """Do something to a sandbox's container."""

    verb: Verb
    sandbox_id: str


Meaning = AskEngine | AskImage | ListContainers | Create | OnContainer


def read_request(method: str, target: str) -> Meaning:
    """Return what a request means; `target` is as it came, not decoded. Raises Refused."""
    path, _, query_text = target.partition("?")
    try:
        query = parse_qsl(query_text, keep_blank_values=True, strict_parsing=True) if query_text else []
    except ValueError:
        raise Refused("The query can't be read.") from None
    meaning = _read(method, path, query)
    if meaning is None:
        raise Refused("The door lets through only what the sandbox driver asks.")
    return meaning


def _read(method: str, path: str, query: list[tuple[str, str]]) -> Meaning | None:
    if found := re.fullmatch(rf"(?:{VERSION})?/(_ping|version|info)", path):
        return AskEngine(found[1]) if method == "GET" and not query else None  # type: ignore[arg-type]
    if re.fullmatch(rf"{VERSION}/images/{re.escape(image_tag())}/json", path):
        return AskImage() if method == "GET" and not query else None
    if re.fullmatch(rf"{VERSION}/containers/json", path):
        return _read_list(query) if method == "GET" else None
    if re.fullmatch(rf"{VERSION}/containers/create", path):
        return _read_create(query) if method == "POST" else None
    for verb, (its_method, end, its_query) in ON_CONTAINERS.items():
        found = re.fullmatch(rf"{VERSION}/containers/{NAME}{end}", path)
        if found and method == its_method and sorted(query) == sorted(its_query.items()):
            return OnContainer(verb, found[1])
    return None


def _read_list(query: list[tuple[str, str]]) -> ListContainers | None:
    """Read `all=1&filters={"label": ["tci.deployment=..."]}`: without that filter it would list everybody's."""
    asked = dict(query)
    if len(query) != len(asked) or asked.keys() != {"all", "filters"} or asked["all"] != "1":
        return None
    try:
        filters = json.loads(asked["filters"])
        [label] = filters["label"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    name, _, deployment = str(label).partition("=")
    if filters.keys() != {"label"} or name != DEPLOYMENT_LABEL or not DEPLOYMENT.fullmatch(deployment):
        return None
    return ListContainers(deployment)


def _read_create(query: list[tuple[str, str]]) -> Create | None:
    [(key, name)] = query if len(query) == 1 else [("", "")]
    found = re.fullmatch(NAME, name)
    return Create(found[1]) if key == "name" and found else None
