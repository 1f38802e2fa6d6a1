"""From a request's body to media files on disk: JSON with references, or a form with files or references.

Whatever files are called, they are read as what their first bytes tell (`ft2ray.media.containers`, `image`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ValidationError, WithJsonSchema
from starlette.datastructures import UploadFile
from starlette.requests import Request

from ft2ray.errors import MediaError
from ft2ray.serving import references
from ft2ray.serving.refusal import Refusal
from ft2ray.serving.settings import FrontSettings
from ft2ray.texts import strict_json

MAX_JSON_BYTES = 64_000  # references and a few settings
M = TypeVar("M", bound=BaseModel)

Media = Annotated[
    Any,  # an UploadFile, or the reference as a string
    WithJsonSchema({"type": "string", "format": "uri-reference", "maxLength": references.MAX_LENGTH}),
]


async def read_request(request: Request, model: type[M]) -> M:
    """The fields of a JSON object or of a form, checked."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "application/json":
        fields = await _json_object(request)
    elif media_type == "multipart/form-data":
        form = await request.form(max_files=4, max_fields=16, max_part_size=MAX_JSON_BYTES)
        fields = dict(form)
        if len(fields) < len(form.multi_items()):
            raise Refusal(422, "bad_field", "a field of the form is given twice; send each once.")
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
        fields = strict_json(body)
    except ValueError as error:
        raise Refusal(422, "bad_json", f"the body is not valid JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise Refusal(422, "bad_json", "the body must be a JSON object.")
    return fields


def _sentence(error: ValidationError) -> str:
    """What pydantic found wrong, on one line."""
    return "; ".join(
        f"{'.'.join(map(str, problem['loc'])) or 'body'}: {problem['msg']}" for problem in error.errors()
    )


def place(media: Any, field: str, folder: Path, settings: FrontSettings) -> Path:
    """The media of one field as a file in `folder`, named after the field."""
    path = folder / field
    if isinstance(media, UploadFile):
        media.file.seek(0)
        with open(path, "wb") as stream:
            shutil.copyfileobj(media.file, stream)
    elif isinstance(media, str):
        path.symlink_to(references.fetch(media, field, settings.stores, settings.max_bytes))
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
