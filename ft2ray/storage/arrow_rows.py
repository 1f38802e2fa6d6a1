"""Rows of an Arrow table as Python dicts, fit for tensors.

pyarrow's own `to_pylist` makes one Python object of every number, and a group of latents has millions.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa


def python_rows(table: pa.Table) -> list[dict[str, Any]]:
    """What `table.to_pylist()` gives, but that a list of floats is a numpy array of its own."""
    columns = [[value for chunk in column.chunks for value in _values(chunk)] for column in table.columns]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(array: pa.Array) -> list[Any]:
    kind = array.type
    values: list[Any]
    if pa.types.is_struct(kind):
        fields = [_values(array.field(index)) for index in range(kind.num_fields)]
        values = [dict(zip(kind.names, row, strict=True)) for row in zip(*fields, strict=True)]
    elif pa.types.is_list(kind) and (
        pa.types.is_floating(kind.value_type) or pa.types.is_nested(kind.value_type)
    ):
        floats = pa.types.is_floating(kind.value_type)
        inner = array.values.to_numpy(zero_copy_only=False) if floats else _values(array.values)
        end = array.offsets.to_numpy()
        values = [inner[a:b].copy() for a, b in zip(end[:-1], end[1:], strict=True)]
    else:
        return array.to_pylist()
    return [value if there.as_py() else None for value, there in zip(values, array.is_valid(), strict=True)]
