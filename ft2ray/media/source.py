"""Where a photo, recording or clip is read from: a path of this machine or an s3:// URL."""

from pathlib import Path

from ft2ray.errors import MediaError
from ft2ray.storage import base_name, local_copy


def local_media(path: str | Path) -> Path:
    """The file itself, or the local copy of an object, under its own name."""
    try:
        return local_copy(path)
    except FileNotFoundError as error:
        raise MediaError(
            "unreadable", f"{base_name(str(path))}: there is no such file; check the path."
        ) from error
