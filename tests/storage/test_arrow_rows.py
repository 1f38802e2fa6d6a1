"""Rows are those of `to_pylist`, wherever the table was cut, and tensors are arrays."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from ft2ray.records import CANDIDATE, TENSOR
from ft2ray.storage.arrow_rows import python_rows

SCHEMA = pa.schema(
    [
        ("group_id", pa.string()),
        ("dimensions", pa.list_(pa.string())),
        ("text", TENSOR),
        ("candidates", pa.list_(CANDIDATE)),
    ]
)
number = st.floats(-1, 1, width=32)
tensor = st.none() | st.fixed_dictionaries(
    {"shape": st.lists(st.integers(0, 9), max_size=3), "data": st.lists(number, max_size=4)}
)
candidate = st.fixed_dictionaries(
    {
        "candidate_id": st.text(max_size=2),
        "seed": st.integers(0, 9),
        "latents": tensor,
        "scores": st.none() | st.lists(number, max_size=3),
    }
)
row = st.fixed_dictionaries(
    {
        "group_id": st.text(max_size=2),
        "dimensions": st.none() | st.lists(st.text(max_size=2), max_size=2),
        "text": tensor,
        "candidates": st.none() | st.lists(candidate, max_size=3),
    }
)


def plain(value):
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


@settings(deadline=None)
@given(st.lists(row, max_size=6), st.integers(0, 6), st.integers(0, 6))
def test_rows_are_those_of_pyarrow(rows, first, count):
    table = pa.Table.from_pylist(rows, SCHEMA)
    for part in (table, table.slice(first, count), pa.concat_tables([table.slice(first), table])):
        assert plain(python_rows(part)) == part.to_pylist()


def test_a_list_of_floats_is_an_array_that_may_be_written():
    rows = [{"group_id": "a", "text": {"shape": [2], "data": [1.0, 2.0]}}]
    (found,) = python_rows(pa.Table.from_pylist(rows, SCHEMA))
    found["text"]["data"][0] = 3.0
    assert found["text"]["data"].tolist() == [3.0, 2.0] and found["text"]["shape"] == [2]
