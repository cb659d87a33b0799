"""The two pages for people: the playground at `/`, the operators' page at `/dashboard`, and what they load.

The pages hold no secret and need no key; the key that is typed into them goes with their calls to the API.
"""

import hashlib
import mimetypes
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request, Response

from tci.resources import web

router = APIRouter(include_in_schema=False)

METHODS = ["GET", "HEAD"]

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Nothing inline, nothing from elsewhere, and no text becomes markup or script."""

OUTPUT_FRAME = "output.html"

OUTPUT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'unsafe-inline'; img-src data: blob:; font-src data:; media-src data: blob:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'"
)
"""Of the frame that shows HTML of untrusted code: its scripts run, in an origin of their own, and reach no network.

It is a document of its own since a `srcdoc` inherits its page's policy, under which no script of an output would run.
"""

OWN_CONNECTIONS = "(response-origin)"
NO_CONNECTION = "()"
"""Where a page and the frame may connect, WebRTC included, of which CSP knows nothing. Chromium has this since 152."""

HEADERS = {
    "cache-control": "no-cache",  # kept, and asked for again by its ETag
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file of the pages, as it is sent."""

    content: bytes
    media_type: str
    headers: dict[str, str]


def read_file(path: Path) -> StaticFile:
    """Read a file with the headers it is sent with."""
    content = path.read_bytes()
    is_frame = path.name == OUTPUT_FRAME
    policies = {
        "content-security-policy": OUTPUT_POLICY if is_frame else PAGE_POLICY,
        "connection-allowlist": NO_CONNECTION if is_frame else OWN_CONNECTIONS,
    }
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    media_type = mimetypes.types_map.get(path.suffix, "text/plain")
    return StaticFile(content, media_type, HEADERS | policies | {"etag": etag})


def read_files(directory: Path) -> dict[str, StaticFile]:
    """Read every file: what is not in this table can't be asked for, whatever the path says."""
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {path.relative_to(directory).as_posix(): read_file(path) for path in files}


FILES = read_files(web())


@router.api_route("/", methods=METHODS)
async def playground(request: Request) -> Response:
    """Serve the playground."""
    return send(request, "playground.html")


@router.api_route("/dashboard", methods=METHODS)
async def dashboard(request: Request) -> Response:
    """Serve the operators' page."""
    return send(request, "dashboard.html")


@router.api_route("/static/{path:path}", methods=METHODS)
async def static(request: Request, path: str) -> Response:
    """Serve what the pages load."""
    return send(request, path)


def send(request: Request, name: str) -> Response:
    """Answer with a file, or with 304 where the browser has it."""
    file = FILES.get(name)
    if file is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if file.headers["etag"] in known:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=file.headers)
    return Response(file.content, media_type=file.media_type, headers=file.headers)
