"""Text files that people write: their encodings, and JSON in which no key occurs twice."""

from __future__ import annotations

import codecs
import json
from typing import Any

_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def decoded(data: bytes) -> str:
    """Decode a file: UTF-8, or what its byte order mark says.

    Args:
        data: its bytes.

    Returns:
        Its text, without the mark.

    Raises:
        UnicodeDecodeError: which names the encoding.
    """
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if data.startswith(mark)), "utf-8")
    return data.decode(encoding)


def strict_json(text: str | bytes | bytearray) -> Any:
    """Read a JSON text.

    Args:
        text: of one value.

    Returns:
        The value.

    Raises:
        ValueError: for what is no JSON, is nested too deep, or gives a key twice: the last one would win.
    """
    try:
        return json.loads(text, object_pairs_hook=_each_once)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:80]!r} occurs twice")
        found[key] = value
    return found
