"""Portrait + recording -> mp4 with sound, by the base generator or by the aligned policy of a run."""

from __future__ import annotations

import os
from pathlib import Path

from ft2ray.animator import Animator
from ft2ray.checks import LONGEST_NAME
from ft2ray.config import AlignConfig
from ft2ray.errors import UserError
from ft2ray.storage import local_path, new_file
from ft2ray.tlpo.policy import load_policy


def animate(
    config: AlignConfig,
    portrait_path: str,
    audio_path: str,
    out: str,
    seed: int = 0,
    policy_dir: str | None = None,
    system: str | None = None,
    weights: dict[str, float] | None = None,
    allow_code: bool = False,
) -> int:
    """Write `out`; returns its number of frames. Recordings of any length up to the configured limit.

    Portrait, recording, policy and `out` are paths or s3:// URLs.
    `policy_dir` None is the base generator; `system` None the best system that there is; `weights` multiplies
    the gate's weights per dimension. `allow_code` permits a generator that is named by code.
    Raises ValueError (MediaError) for an unusable portrait or recording.
    """
    if Path(out).suffix.lower() != ".mp4":
        raise UserError(f"--out {out} must end in .mp4")
    path = local_path(out)
    if path is not None:
        _check_place(out, path.absolute())
    elif "/" not in out.removeprefix("s3://"):
        raise UserError(f"--out {out} names a bucket only; give s3://bucket/name.mp4")
    g = config.generator
    animator = Animator(g.weights, g.size, config.prompts.max_recording_seconds, allow_code)
    if policy_dir is not None:
        animator.attach(load_policy(policy_dir, animator.generator.fingerprint))
    clip = animator.animate(portrait_path, audio_path, g.sampling, seed, system, weights)
    with new_file(out) as file:
        file.write_bytes(clip.mp4)
    return clip.frames


def _check_place(out: str, path: Path) -> None:
    """Refuse before the work what the operating system would refuse after it."""
    if not path.parent.is_dir():
        raise UserError(f"--out {out}: the folder {path.parent} does not exist; make it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(f"--out {out}: {path.parent} cannot be written to; choose another folder")
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise UserError(f"--out: the name {path.name[:40]}... has more than {LONGEST_NAME} bytes; shorten it")
    if path.is_dir():
        raise UserError(f"--out {out} is a folder; give the path of a file in it")
