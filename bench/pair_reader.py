"""From the store to batches of pairs: our reader against pyarrow alone and a torch DataLoader.

    python bench/pair_reader.py

  ours         RowStore -> groups -> draws -> PairBatch, as a training takes them in
  pyarrow      decodes the same files and does nothing with them: no reader is faster
  dataloader   a map-style dataset over the same pairs, in the order of their files, each decoded once
All draw the noise of a pair, but for pyarrow, and stack eight pairs to a batch.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from figures import Figure, in_turns, main, profiled, ratios
from torch.utils.data import DataLoader, Dataset

from ft2ray.preference.draws import DrawRule, PairDraw, PairPool, draws
from ft2ray.preference.rules import PairRule, pairs
from ft2ray.records import GROUP, GROUP_INDEX, Candidate, PromptGroup, content_id
from ft2ray.storage import RowStore
from ft2ray.tlpo.step import pair_batch

GROUPS, CANDIDATES, BATCH = 48, 4, 8
SHAPES = {"portrait latents": (32, 75, 1, 1), "Wan latents": (16, 5, 30, 52)}
RULE = PairRule(kind="all", answers_differ=False, margin=0.0)


def measure(repetitions: int) -> list[Figure]:
    torch.set_num_threads(1)
    figures = []
    for name, shape in SHAPES.items():
        with tempfile.TemporaryDirectory() as folder:
            fill(folder, shape)
            ways = {
                "ours": lambda folder=folder: ours(folder),
                "pyarrow": lambda folder=folder: pyarrow(folder),
                "dataloader": lambda folder=folder: dataloader(folder),
            }
            in_turns(ways, 1)
            times = in_turns(ways, repetitions)
            why = profiled(ways["ours"])
        figures += [
            Figure(
                f"pairs read, {name}",
                "pyarrow, decoding alone",
                ratios(times["pyarrow"], times["ours"]),
                "x its rate",
                ">= 0.7",
                1.0,
                why,
            ),
            Figure(
                f"pairs read, {name}",
                "torch DataLoader",
                ratios(times["dataloader"], times["ours"]),
                "x its rate",
                ">= 1.0",
                None,
                why,
            ),
        ]
    return figures


def fill(folder: str, shape: tuple[int, ...]) -> None:
    store = RowStore(folder, GROUP, "group_id", GROUP_INDEX)
    for g in range(GROUPS):
        store.commit([filled_group(g, shape, CANDIDATES).to_row()])


def filled_group(g: int, shape: tuple[int, ...], candidates: int) -> PromptGroup:
    """A scored group of random latents of this shape [C, F, H, W]."""
    rng = np.random.default_rng(g)
    return PromptGroup(
        group_id=content_id(g),
        round=0,
        prompt_id=content_id("prompt", g),
        portrait="",
        portrait_id="",
        speech="",
        start_seconds=0.0,
        seconds=3.0,
        generator="",
        critic="",
        dimensions=("mn", "ls", "vq"),
        text_LD=None,
        audio_LD=rng.standard_normal((150, 64), np.float32),
        frames=75,
        candidates=[
            Candidate(
                candidate_id=content_id(g, n),
                policy="base",
                seed=n,
                sampler={},
                latents_CFHW=rng.standard_normal(shape, np.float32),
                lip_mask=np.ones((1, *shape[1:]), np.float32),
                scores=rng.random(3).tolist(),
            )
            for n in range(candidates)
        ],
    )


def pairs_of(p_N: list[float]) -> list:
    return pairs(np.array(p_N)[:, None], ["score"], RULE)["score"]


def ours(folder: str) -> None:
    groups = {
        row["group_id"]: PromptGroup.from_row(row)
        for row in RowStore(folder, GROUP, "group_id", GROUP_INDEX).rows()
    }
    pool = PairPool((group_id, pairs_of(group.scores_NK()[:, 0])) for group_id, group in groups.items())

    def latents(group_id: str, candidate: int) -> torch.Tensor:
        return torch.from_numpy(groups[group_id].candidates[candidate].latents_CFHW)

    def mask(group_id: str, candidate: int) -> torch.Tensor:
        return torch.from_numpy(groups[group_id].candidates[candidate].lip_mask)

    def conditions(draw: PairDraw) -> torch.Tensor:
        return torch.from_numpy(groups[draw.group_id].audio_LD)

    for cursor in range(0, GROUPS * CANDIDATES, BATCH):
        chosen = draws(DrawRule(), "mn", cursor, BATCH, pool)
        pair_batch(chosen, latents, conditions, mask)


def pyarrow(folder: str) -> None:
    for path in sorted(Path(folder).glob("*.parquet")):
        pq.read_table(path)


class PairDataset(Dataset):
    """One pair an item; the file that was read last stays in memory."""

    def __init__(self, folder: str) -> None:
        self.paths = sorted(Path(folder).glob("*.parquet"))
        self.pairs = [
            (path, pair)
            for path in self.paths
            for pair in pairs_of(
                [
                    scores[0]
                    for scores in pq.read_table(path)
                    .column("candidates")[0]
                    .values.field("scores")
                    .to_pylist()
                ]
            )[:CANDIDATES]
        ]
        self.read: Path | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        path, pair = self.pairs[index]
        if path != self.read:
            self.read, self.table = path, pq.read_table(path)
        candidates = self.table.column("candidates")[0].values
        sides = [
            tensor(candidates.field(name)[n])
            for n in (pair.winner, pair.loser)
            for name in ("latents", "lip_mask")
        ]
        return *sides, tensor(self.table.column("audio")[0]), torch.randn(sides[0].shape)


def tensor(scalar) -> torch.Tensor:
    data = scalar["data"].values.to_numpy(zero_copy_only=False)
    return torch.from_numpy(data.copy()).reshape(scalar["shape"].as_py())


def dataloader(folder: str) -> None:
    for _ in DataLoader(PairDataset(folder), batch_size=BATCH):
        pass


if __name__ == "__main__":
    main("reader", measure)
