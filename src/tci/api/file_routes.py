"""The routes of a session's files. Each parses, makes one call, and wraps the answer."""

from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from starlette.convertors import Convertor, register_url_convertor
from typing_extensions import override

from tci.api.byte_range import wanted
from tci.api.dependencies import CallerDep, FilesDep
from tci.api.file_models import (
    FORM_BODY,
    RANGE_PARAMETER,
    RAW_BODY,
    READ_RESPONSES,
    DeletedEnvelope,
    DeletedFile,
    FileData,
    FileEnvelope,
    FileModel,
    FilesEnvelope,
    WrittenEnvelope,
    list_envelope,
    written_envelope,
)
from tci.api.multipart import Parts
from tci.api.transfer import FileAnswer, body_of, file_headers
from tci.errors import InvalidRequest, RangeNotSatisfiable


class FileName(Convertor[str]):
    """The rest of a path, whatever is in it: Starlette's own stops at the end of a line."""

    regex = r"[\s\S]*"

    @override
    def convert(self, value: str) -> str:
        return value

    @override
    def to_string(self, value: str) -> str:
        return value


register_url_convertor("file_name", FileName())

router = APIRouter(prefix="/tci/sessions/{session_id}/files", tags=["Files"])


async def body(request: Request, _caller: CallerDep) -> AsyncIterator[bytes]:
    """Return the body as it comes; after the key, so that a stranger's is not read."""
    return body_of(request, disk_bytes=request.state.settings.sandbox_disk_bytes)


BodyDep = Annotated[AsyncIterator[bytes], Depends(body)]


@router.get("")
async def list_files(caller: CallerDep, files: FilesDep, session_id: str) -> FilesEnvelope:
    """List the files of a session, also while it runs code; hidden ones (`.name`) are left out."""
    return list_envelope(await files.list(caller, session_id))


@router.post("", openapi_extra={"requestBody": FORM_BODY})
async def post_files(
    request: Request, caller: CallerDep, files: FilesDep, session_id: str, content: BodyDep
) -> WrittenEnvelope:
    """Write the files of a form, each whole or not at all; those before one that is refused stay."""
    parts = Parts(request.headers.get("content-type", ""), content)
    written = [await files.write(caller, session_id, name, data) async for name, data in parts.files()]
    if not written:
        raise InvalidRequest("files: the form has no part with a file name", param="files")
    return written_envelope(written)


@router.get(
    "/{path:file_name}",
    response_class=Response,
    responses=READ_RESPONSES,
    openapi_extra={"parameters": [RANGE_PARAMETER]},
)
async def get_file(request: Request, caller: CallerDep, files: FilesDep, session_id: str, path: str) -> Response:
    """Send a file, or one range of its bytes."""
    asked, if_range = request.headers.get("range"), request.headers.get("if-range")
    part = wanted(await files.info(caller, session_id, path), asked, if_range) if asked else None
    if part is None:
        info, pieces = await files.read(caller, session_id, path)
        return FileAnswer(pieces, size=info.size, status_code=HTTPStatus.OK, headers=file_headers(info))
    info, pieces = await files.read(caller, session_id, path, start=part.start, length=len(part))
    if info.size < part.stop:  # it became shorter between the two calls
        raise RangeNotSatisfiable(info.size)
    headers = {**file_headers(info), "content-range": f"bytes {part.start}-{part.stop - 1}/{info.size}"}
    return FileAnswer(pieces, size=len(part), status_code=HTTPStatus.PARTIAL_CONTENT, headers=headers)


@router.head("/{path:file_name}", response_class=Response)
async def head_file(caller: CallerDep, files: FilesDep, session_id: str, path: str) -> Response:
    """Say what `GET` would."""
    info = await files.info(caller, session_id, path)
    return Response(headers={**file_headers(info), "content-length": str(info.size)})


@router.put("/{path:file_name}", openapi_extra={"requestBody": RAW_BODY})
async def put_file(caller: CallerDep, files: FilesDep, session_id: str, path: str, content: BodyDep) -> FileEnvelope:
    """Write the body to a file, whole or not at all; directories are made, a file of the name is replaced."""
    info = await files.write(caller, session_id, path, content)
    return FileEnvelope(data=FileData(file=FileModel.of(info)))


@router.delete("/{path:file_name}")
async def delete_file(caller: CallerDep, files: FilesDep, session_id: str, path: str) -> DeletedEnvelope:
    """Remove a file, a link (not what it leads to) or an empty directory."""
    await files.delete(caller, session_id, path)
    return DeletedEnvelope(data=DeletedFile(name=path))
