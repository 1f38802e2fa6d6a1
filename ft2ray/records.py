"""The contract between all stages: one Arrow row is one prompt group, and identity is content.

A prompt group holds a prompt (portrait + clip of speech, its conditions encoded once) and its N candidates
(latents, seed, sampler, policy) with their scores. Generation, scoring and pairing all happen inside a row.

Shapes: C latent channels, F latent frames, H W latent grid, L tokens, D width, K dimensions.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ft2ray.errors import DataError

TENSOR = pa.struct([("shape", pa.list_(pa.int32())), ("data", pa.list_(pa.float32()))])

CANDIDATE = pa.struct(
    [
        ("candidate_id", pa.string()),
        ("policy", pa.string()),  # fingerprint of the adapters that made it, "base" for none
        ("seed", pa.int64()),
        ("sampler", pa.string()),  # JSON of the sampler's settings
        ("latents", TENSOR),  # x_CFHW
        ("lip_mask", TENSOR),  # broadcastable to x_CFHW, 1 where the lips are
        ("video", pa.string()),  # path inside the store, null where no video was kept
        ("scores", pa.list_(pa.float64())),  # P(Yes) per dimension, null where the critic failed
        ("error", pa.string()),  # why scores is null
    ]
)

GROUP = pa.schema(
    [
        ("group_id", pa.string()),
        ("round", pa.int32()),
        ("prompt_id", pa.string()),
        ("portrait", pa.string()),
        ("portrait_id", pa.string()),
        ("speech", pa.string()),
        ("start_seconds", pa.float64()),
        ("seconds", pa.float64()),
        ("generator", pa.string()),
        ("critic", pa.string()),
        ("dimensions", pa.list_(pa.string())),
        ("text", TENSOR),  # text_LD, null for a generator without text
        ("audio", TENSOR),  # audio_LD
        ("image", TENSOR),  # image_LD, null for a generator without image tokens
        ("stacked", TENSOR),  # stacked_CFHW, null for a generator without channels behind the noise
        ("frames", pa.int32()),
        ("candidates", pa.list_(CANDIDATE)),
    ]
)

# What is read of many groups at once, as paths in Parquet: all but its tensors, 1,000 times as large.
GROUP_INDEX = (
    "group_id",
    "round",
    "critic",
    "candidates.list.element.policy",
    "candidates.list.element.scores",
    "candidates.list.element.error",
)


REFUSED = pa.schema([(name, pa.string()) for name in ("group_id", "path", "reason", "message")])

MEASUREMENT = pa.schema(
    [
        ("row_id", pa.string()),
        ("prompt_id", pa.string()),
        ("seed", pa.int64()),
        ("system", pa.string()),  # a system of the configuration, or a reference such as wrong_audio
        ("policy", pa.string()),
        ("metrics", pa.map_(pa.string(), pa.float64())),  # absent or null is missing
        ("video", pa.string()),
    ]
)

SPAN = pa.schema(
    [
        ("span_id", pa.string()),
        ("kind", pa.string()),  # generate | train
        ("lane", pa.string()),  # who: an actor's node and process
        ("name", pa.string()),  # group_id, or first and last step
        ("round", pa.int32()),
        ("version", pa.int32()),  # of the policy that generated
        ("began", pa.float64()),  # seconds since 1970
        ("ended", pa.float64()),
    ]
)

BASE_POLICY = "base"  # the policy of candidates that the un-aligned generator made
VIDEOS = "store/videos"  # in the run folder


_CANONICAL = json.JSONEncoder(sort_keys=True)  # one for all: a run of 100,000 groups has a million ids


def content_id(*parts: Any) -> str:
    """First 16 hex digits of the SHA-256 of `parts` (bytes as they are, the rest as canonical JSON)."""
    digest = hashlib.sha256()
    for part in parts:
        if type(part) is int:  # the encoder takes ten times as long for a lone number
            data = b"%d" % part
        else:
            data = part if isinstance(part, bytes) else _CANONICAL.encode(part).encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Prompt:
    """A portrait and `seconds` of a recording from `start_seconds` on; `prompt_id` hashes their contents."""

    prompt_id: str
    portrait: str
    speech: str
    start_seconds: float
    seconds: float


@dataclass(frozen=True)
class Draw:
    """One candidate to make: `sampler` is a plain dict of the sampler's settings."""

    seed: int
    sampler: dict[str, Any]

    def candidate_id(self, prompt_id: str, generator: str, policy: str) -> str:
        return content_id(prompt_id, generator, policy, self.seed, self.sampler)


def video_of(candidate_id: str) -> str:
    """Where the run folder has a candidate's video, if videos are kept."""
    return f"{VIDEOS}/{candidate_id}.mp4"


@dataclass
class Candidate:
    candidate_id: str
    policy: str
    seed: int
    sampler: dict[str, Any]
    latents_CFHW: np.ndarray
    lip_mask: np.ndarray
    video: str | None = None
    scores: list[float] | None = None
    error: str | None = None


@dataclass
class PromptGroup:
    group_id: str
    round: int
    prompt_id: str
    portrait: str
    portrait_id: str
    speech: str
    start_seconds: float
    seconds: float
    generator: str
    critic: str | None
    dimensions: tuple[str, ...]
    text_LD: np.ndarray | None
    audio_LD: np.ndarray
    frames: int
    candidates: list[Candidate] = field(default_factory=list)
    image_LD: np.ndarray | None = None
    stacked_CFHW: np.ndarray | None = None

    def scores_NK(self) -> np.ndarray:
        """P(Yes) [N candidates, K dimensions]; NaN marks a missing score."""
        missing = [float("nan")] * len(self.dimensions)
        return np.array(
            [c.scores if c.scores is not None else missing for c in self.candidates], dtype=np.float64
        )

    def require_critic(self, fingerprint: str) -> None:
        """ValueError where another critic gave the scores: those of two critics do not compare."""
        if self.critic != fingerprint:
            raise DataError(
                f"prompt group {self.group_id} was scored by critic {self.critic}, now it is {fingerprint}: "
                "scores of two critics cannot be mixed. Use that critic again, or a new run_dir"
            )

    def to_row(self) -> dict[str, Any]:
        row = {name: getattr(self, name) for name in GROUP.names if name not in (*_CONDITIONS, "candidates")}
        row["dimensions"] = list(self.dimensions)
        row |= {name: _pack(getattr(self, field)) for name, field in _CONDITIONS.items()}
        row["candidates"] = [
            {
                "candidate_id": c.candidate_id,
                "policy": c.policy,
                "seed": c.seed,
                "sampler": json.dumps(c.sampler, sort_keys=True),
                "latents": _pack(c.latents_CFHW),
                "lip_mask": _pack(c.lip_mask),
                "video": c.video,
                "scores": c.scores,
                "error": c.error,
            }
            for c in self.candidates
        ]
        return row

    @staticmethod
    def from_row(row: dict[str, Any]) -> PromptGroup:
        plain = {k: v for k, v in row.items() if k not in (*_CONDITIONS, "candidates", "dimensions")}
        return PromptGroup(
            **plain,
            dimensions=tuple(row["dimensions"]),
            **{field: _unpack(row[name]) for name, field in _CONDITIONS.items()},
            candidates=[
                Candidate(
                    candidate_id=c["candidate_id"],
                    policy=c["policy"],
                    seed=c["seed"],
                    sampler=json.loads(c["sampler"]),
                    latents_CFHW=_unpack(c["latents"]),
                    lip_mask=_unpack(c["lip_mask"]),
                    video=c["video"],
                    scores=None if c["scores"] is None else list(c["scores"]),
                    error=c["error"],
                )
                for c in row["candidates"]
            ],
        )


_CONDITIONS = {"text": "text_LD", "audio": "audio_LD", "image": "image_LD", "stacked": "stacked_CFHW"}


def _pack(array: np.ndarray | None) -> dict[str, Any] | None:
    if array is None:
        return None
    array = np.ascontiguousarray(array, dtype=np.float32)
    return {"shape": list(array.shape), "data": array.ravel()}


def _unpack(tensor: dict[str, Any] | None) -> Any:
    if tensor is None:
        return None
    return np.asarray(tensor["data"], dtype=np.float32).reshape([int(n) for n in tensor["shape"]])
