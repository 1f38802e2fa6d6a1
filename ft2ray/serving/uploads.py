"""From a request's body to media files on disk: JSON with references, or a form with files or references.

Files are recognised by their first bytes. FFmpeg and Pillow also open playlists, PostScript and other things
that name further files or run programs; those never reach them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError, WithJsonSchema
from starlette.datastructures import UploadFile
from starlette.requests import Request

from ft2ray.errors import MediaError
from ft2ray.serving import references
from ft2ray.serving.refusal import Refusal
from ft2ray.serving.settings import FrontSettings

MAX_JSON_BYTES = 64_000  # references and a few settings
HEAD_BYTES = 16
M = TypeVar("M", bound=BaseModel)

Kind = Literal["video", "audio", "picture"]
Media = Annotated[
    Any,  # an UploadFile, or the reference as a string
    WithJsonSchema({"type": "string", "format": "uri-reference", "maxLength": references.MAX_LENGTH}),
]

_MP4, _MATROSKA = "mp4", "mkv"
_CONTAINERS: dict[Kind, tuple[str, ...]] = {
    "video": (_MP4, _MATROSKA, "avi", "mpg"),
    "audio": (_MP4, _MATROSKA, "wav", "flac", "ogg", "mp3"),
    "picture": ("jpg", "png", "webp"),
}


def container(head: bytes) -> str | None:
    """The file format that a file's first bytes tell, as its usual ending; None for all others."""
    if head[4:8] in (b"ftyp", b"moov", b"wide", b"mdat"):
        return _MP4
    if head[:4] == b"RIFF":
        return {b"WAVE": "wav", b"AVI ": "avi", b"WEBP": "webp"}.get(head[8:12])
    for magic, ending in (
        (b"\x1aE\xdf\xa3", _MATROSKA),
        (b"\x00\x00\x01\xba", "mpg"),
        (b"fLaC", "flac"),
        (b"OggS", "ogg"),
        (b"ID3", "mp3"),
        (b"\xff\xfb", "mp3"),
        (b"\xff\xf3", "mp3"),
        (b"\xff\xd8\xff", "jpg"),
        (b"\x89PNG\r\n\x1a\n", "png"),
    ):
        if head.startswith(magic):
            return ending
    return None


async def read_request(request: Request, model: type[M]) -> M:
    """The fields of a JSON object or of a form, checked."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "application/json":
        fields = await _json_object(request)
    elif media_type == "multipart/form-data":
        fields = dict(await request.form(max_files=4, max_fields=16, max_part_size=MAX_JSON_BYTES))
    else:
        raise Refusal(
            415,
            "bad_content_type",
            "send application/json with references, or multipart/form-data with files.",
        )
    try:
        return model(**fields)
    except ValidationError as error:
        raise Refusal(422, "bad_field", _sentence(error)) from error


async def _json_object(request: Request) -> dict[str, Any]:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_JSON_BYTES:
            raise Refusal(
                413, "too_large", f"a JSON body may have {MAX_JSON_BYTES} bytes; send files as a form."
            )
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:  # what is nested too deep
        raise Refusal(422, "bad_json", f"the body is not valid JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise Refusal(422, "bad_json", "the body must be a JSON object.")
    return fields


def _sentence(error: ValidationError) -> str:
    """What pydantic found wrong, on one line."""
    return "; ".join(
        f"{'.'.join(map(str, problem['loc'])) or 'body'}: {problem['msg']}" for problem in error.errors()
    )


def place(media: Any, field: str, kind: Kind, folder: Path, settings: FrontSettings) -> Path:
    """The media of one field as a file in `folder`, named after the field, its format checked."""
    if isinstance(media, UploadFile):
        media.file.seek(0)
        head = media.file.read(HEAD_BYTES)
        path = folder / f"{field}.{_known(head, field, kind)}"
        media.file.seek(0)
        with open(path, "wb") as stream:
            shutil.copyfileobj(media.file, stream)
    elif isinstance(media, str):
        source = references.fetch(media, field, settings.stores, settings.max_bytes)
        with open(source, "rb") as stream:
            head = stream.read(HEAD_BYTES)
        path = folder / f"{field}.{_known(head, field, kind)}"
        path.symlink_to(source)
    else:
        raise Refusal(422, "bad_field", f"{field} must be a file, or a reference as a string.")
    return path


@contextmanager
def named_by_field(folder: Path) -> Iterator[None]:
    """What is wrong with a file in `folder`, without the folder: answers name fields, not paths."""
    try:
        yield
    except MediaError as error:
        said = error.sentence.replace(f"{folder.resolve()}/", "").replace(f"{folder}/", "")
        raise MediaError(error.reason, said) from error


def _known(head: bytes, field: str, kind: Kind) -> str:
    found = container(head)
    if found is None or found not in _CONTAINERS[kind]:
        raise Refusal(
            422,
            "unreadable",
            f"{field} is not a {kind} file that is understood ({', '.join(_CONTAINERS[kind])}): its content "
            "says otherwise, whatever its name. Export it again.",
        )
    return found
