"""Preference pairs as a plain Parquet file in the manner of Talking-NSQ: one row per pair and dimension.

Every column is a string, a number or a list of numbers, so `pandas.read_parquet(path)` and
`datasets.load_dataset("parquet", data_files=path)` read it as it is. Latents are flat lists with their shape
beside them: `np.reshape(row["winner_latents"], row["latents_shape"])`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ft2ray.preference.rules import FULL, Pair, PairRule, pairs
from ft2ray.preference.wrong_pairs import WrongPair, without
from ft2ray.records import Candidate, PromptGroup
from ft2ray.storage import new_file

_SIDE = (
    ("id", pa.string()),
    ("policy", pa.string()),  # fingerprint of the adapters that made it, "base" for none
    ("seed", pa.int64()),
    ("sampler", pa.string()),  # JSON
    ("video", pa.string()),  # null where no video was kept
    ("answer", pa.string()),  # "Yes." or "No.", null in rows of the full dimension
    ("scores", pa.list_(pa.float64())),  # P(Yes) in the order of `dimensions`
    ("latents", pa.list_(pa.float32())),  # null if exported without latents
)

SCHEMA = pa.schema(
    [
        ("dimension", pa.string()),
        ("question", pa.string()),
        ("margin", pa.float64()),
        ("dimensions", pa.list_(pa.string())),
        ("group_id", pa.string()),
        ("prompt_id", pa.string()),
        ("portrait", pa.string()),
        ("speech", pa.string()),
        ("start_seconds", pa.float64()),
        ("seconds", pa.float64()),
        ("generator", pa.string()),
        ("critic", pa.string()),
        ("latents_shape", pa.list_(pa.int32())),
        *((f"{side}_{name}", kind) for side in ("winner", "loser") for name, kind in _SIDE),
    ]
)


def export_pairs(
    groups: Iterable[PromptGroup],
    rule: PairRule,
    path: str | Path,
    critic: str,
    questions: Mapping[str, str] | None = None,
    latents: bool = True,
    wrong: Collection[WrongPair] = (),
) -> dict[str, int]:
    """Write the pairs of `groups` to the Parquet file `path` and return how many each dimension has.

    `path` may be an s3:// URL. `critic`: fingerprint of the critic whose scores these are; a group of another
    one is a ValueError. `questions`: its question per dimension, for its column. `wrong`: pairs that are left
    out. The file appears
    complete or not at all; groups are taken one by one, so the store may be larger than the memory.
    """
    counts: Counter[str] = Counter()
    with new_file(path) as file, pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        for group in groups:
            group.require_critic(critic)
            rows = list(_rows(group, rule, questions or {}, latents, wrong))
            counts.update(row["dimension"] for row in rows)
            if rows:
                writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
    return dict(counts)


def _rows(
    group: PromptGroup,
    rule: PairRule,
    questions: Mapping[str, str],
    latents: bool,
    wrong: Collection[WrongPair],
) -> Iterable[dict[str, Any]]:
    p_NK = group.scores_NK()
    found = pairs(p_NK, group.dimensions, rule, [*group.dimensions, FULL])
    found = without(group.group_id, found, wrong)
    for k, dimension in enumerate(group.dimensions):
        for pair in found[dimension]:
            answers = ["Yes." if p_NK[n, k] > 0.5 else "No." for n in (pair.winner, pair.loser)]
            yield _row(group, dimension, questions.get(dimension), pair, answers, latents)
    for pair in found[FULL]:
        yield _row(group, FULL, None, pair, [None, None], latents)


def _row(
    group: PromptGroup,
    dimension: str,
    question: str | None,
    pair: Pair,
    answers: list[str] | list[None],
    latents: bool,
) -> dict[str, Any]:
    winner, loser = group.candidates[pair.winner], group.candidates[pair.loser]
    row: dict[str, Any] = {
        "dimension": dimension,
        "question": question,
        "margin": pair.margin,
        "dimensions": list(group.dimensions),
        "latents_shape": list(winner.latents_CFHW.shape) if latents else None,
    }
    shared = (
        "group_id",
        "prompt_id",
        "portrait",
        "speech",
        "start_seconds",
        "seconds",
        "generator",
        "critic",
    )
    row |= {name: getattr(group, name) for name in shared}
    for side, candidate, answer in (("winner", winner, answers[0]), ("loser", loser, answers[1])):
        row |= {f"{side}_{key}": value for key, value in _side(candidate, answer, latents).items()}
    return row


def _side(candidate: Candidate, answer: str | None, latents: bool) -> dict[str, Any]:
    return {
        "id": candidate.candidate_id,
        "policy": candidate.policy,
        "seed": candidate.seed,
        "sampler": json.dumps(candidate.sampler, sort_keys=True),
        "video": candidate.video,
        "answer": answer,
        "scores": candidate.scores,
        "latents": np.asarray(candidate.latents_CFHW, np.float32).ravel() if latents else None,
    }
