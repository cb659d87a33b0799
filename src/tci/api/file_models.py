"""The wire of files: what is told of one, of many, and of one that is gone."""

import mimetypes
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from tci.api.models import Moment
from tci.kernel.files import FileInfo, FileType, Listing

ANY_BYTES = "application/octet-stream"

PACKED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}

TYPES = mimetypes.MimeTypes()
"""Python's own table, the same on every machine."""

EXAMPLE_FILE: JsonDict = {
    "name": "results/table.csv",
    "size": 1834,
    "modified_at": "2026-11-07T09:31:12.000000Z",
    "type": "file",
    "mime": "text/csv",
}


def mime_of(name: str) -> str:
    """Guess a file's media type by its name."""
    guessed, packed = TYPES.guess_type(f"./{name}")  # not as a URL, of which a name may have the look
    if packed:
        return PACKED.get(packed, ANY_BYTES)
    return guessed or ANY_BYTES


class FileModel(BaseModel):
    """A file of a session."""

    name: str = Field(description="Relative to the working directory.")
    size: int = Field(description="In bytes; 0 for what is no file.")
    modified_at: Moment
    type: FileType = Field(description="Only a `file` can be read; `other` are pipes, sockets and the like.")
    mime: str | None = Field(description="Guessed by the name; null for what is no file.")

    @classmethod
    def of(cls, info: FileInfo) -> "FileModel":
        """Return a file as it goes on the wire."""
        mime = mime_of(info.name) if info.type is FileType.FILE else None
        return cls(name=info.name, size=info.size, modified_at=info.modified_at, type=info.type, mime=mime)


class FileData(BaseModel):
    """One file."""

    file: FileModel


class FileEnvelope(BaseModel):
    """The envelope of a file that was written."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"data": {"file": EXAMPLE_FILE}, "errors": None}]})

    data: FileData
    errors: None = None


class WrittenFiles(BaseModel):
    """The files that were written, in the order of their parts."""

    files: list[FileModel]


class WrittenEnvelope(BaseModel):
    """The envelope of files that were written."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"data": {"files": [EXAMPLE_FILE]}, "errors": None}]})

    data: WrittenFiles
    errors: None = None


class FileList(BaseModel):
    """The working directory and what is below it, by name; names that begin with a dot are left out."""

    files: list[FileModel]
    is_complete: bool = Field(description="False where there is more than a list shows: 5,000 names at most.")


class FilesEnvelope(BaseModel):
    """The envelope of a list of files."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"data": {"files": [EXAMPLE_FILE], "is_complete": True}, "errors": None}]}
    )

    data: FileList
    errors: None = None


class DeletedFile(BaseModel):
    """A file that is gone."""

    name: str
    deleted: bool = True


class DeletedEnvelope(BaseModel):
    """The envelope of a file that is gone."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"data": {"name": "results/table.csv", "deleted": True}, "errors": None}]}
    )

    data: DeletedFile
    errors: None = None


def list_envelope(listing: Listing) -> FilesEnvelope:
    """Return a list of files as it goes on the wire."""
    return FilesEnvelope(data=FileList(files=_models(listing.files), is_complete=listing.is_complete))


def written_envelope(infos: Iterable[FileInfo]) -> WrittenEnvelope:
    """Return files that were written as they go on the wire."""
    return WrittenEnvelope(data=WrittenFiles(files=_models(infos)))


def _models(infos: Iterable[FileInfo]) -> list[FileModel]:
    return [FileModel.of(info) for info in infos]


BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
"""Bytes, for the document."""

READ_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file's bytes.", "content": {"*/*": BINARY}},
    206: {"description": "The range of bytes that was asked for.", "content": {"*/*": BINARY}},
}

RANGE_PARAMETER: dict[str, Any] = {
    "name": "Range",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "One range of bytes; anything else is answered with the whole file.",
    "example": "bytes=0-1023",
}

RAW_BODY: dict[str, Any] = {"required": True, "content": {ANY_BYTES: BINARY}}

FORM_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["files"],
                "properties": {"files": {"type": "array", "items": BINARY["schema"], "minItems": 1}},
            }
        }
    },
}
