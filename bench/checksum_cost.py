"""What it costs to write and check the digests of stored groups, as a share of the work that made them.

    python bench/checksum_cost.py

The work is sampling alone, by the packaged generator at the default settings: decoding, looking and scoring
come on top of it in a curation, so that the share there is smaller.
"""

from __future__ import annotations

import tempfile
from typing import Any
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import torch
from figures import Figure, in_turns, main
from pair_reader import filled_group

from ft2ray.config import AlignConfig
from ft2ray.generator.sampler import Conditions
from ft2ray.loaders import load_generator
from ft2ray.run import group_store
from ft2ray.storage import rows

GROUPS = 8


def measure(repetitions: int) -> list[Figure]:
    torch.set_num_threads(1)
    config, generator = AlignConfig(), load_generator("embedded")
    frames, width = 75, generator.transformer.config.audio_features
    conditions = Conditions(None, torch.randn(2 * frames, width), frames)
    shape = tuple(generator.sample(conditions, 0, config.generator.sampling).shape)
    count = config.curation.candidates
    groups = [filled_group(n, shape, count) for n in range(GROUPS)]

    def store() -> None:
        with tempfile.TemporaryDirectory() as folder:
            kept = group_store(folder)
            for group in groups:
                kept.commit_once([group.to_row()])
                kept.get(group.group_id)

    write = pq.write_table

    def unchecked(table: Any, sink: Any, write_page_checksum: bool, **options: Any) -> None:
        write(table, sink, **options)

    def store_unchecked() -> None:
        with (
            mock.patch.object(rows, "with_digest", lambda parquet: parquet),
            mock.patch.object(rows, "fault", lambda parquet: None),
            mock.patch.object(pq, "write_table", unchecked),
        ):
            store()

    def sample() -> None:
        for seed in range(count):
            generator.sample(conditions, seed, config.generator.sampling)

    times = in_turns({"checked": store, "unchecked": store_unchecked, "sampling": sample}, repetitions)
    checked, plain, sampling = (np.array(times[name]) for name in ("checked", "unchecked", "sampling"))
    shares = 100 * (checked - plain) / GROUPS / sampling
    return [
        Figure("digests written and checked", "sampling a group", shares.tolist(), " %", "<= 3"),
        Figure("a group stored and read", "no digests", (checked / plain).tolist(), "x"),
    ]


if __name__ == "__main__":
    main("checksums", measure)
