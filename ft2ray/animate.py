"""Portrait + recording -> mp4 with sound, by the base generator or by the aligned policy of a run."""

from __future__ import annotations

from pathlib import Path

import torch

from ft2ray.config import AlignConfig
from ft2ray.generator.sampler import SamplerConfig
from ft2ray.media.audio import check_speech, read_audio
from ft2ray.media.portrait import load_portrait
from ft2ray.media.video import FPS, write_video
from ft2ray.parts import load_generator
from ft2ray.storage import is_s3, new_file
from ft2ray.tlpo.policy import apply_system, load_policy


def animate(
    config: AlignConfig,
    portrait_path: str,
    audio_path: str,
    out: str,
    seed: int = 0,
    policy_dir: str | None = None,
    system: str = "tlpo",
    weights: dict[str, float] | None = None,
) -> int:
    """Write `out`; returns its number of frames. Recordings of any length up to the configured limit.

    Portrait, recording, policy and `out` are paths or s3:// URLs.
    `policy_dir` None is the base generator; `weights` replaces the gate's weights per dimension.
    Raises ValueError (MediaError) for an unusable portrait or recording.
    """
    if Path(out).suffix.lower() != ".mp4":
        raise ValueError(f"--out {out} must end in .mp4")
    folder = None if is_s3(out) else Path(out).absolute().parent
    if folder is not None and not folder.is_dir():
        raise ValueError(f"--out {out}: the folder {folder} does not exist; make it first")
    torch.set_num_threads(1)
    portrait = load_portrait(portrait_path, size=config.prompts.size)
    wav_T = read_audio(audio_path)
    check_speech(wav_T, max_seconds=config.prompts.max_recording_seconds)
    generator = load_generator(config.generator.weights)
    if policy_dir is not None:
        apply_system(generator.transformer, load_policy(policy_dir, generator.fingerprint), system, weights)
    g = config.generator
    settings = SamplerConfig(steps=g.steps, shift=g.shift, text_scale=g.text_scale, audio_scale=g.audio_scale)
    conditions = generator.encode_prompt(portrait, wav_T)
    frames_FHW3 = generator.decode(portrait, generator.sample(conditions, seed, settings))
    with new_file(out) as file:
        write_video(file, frames_FHW3, FPS, wav_T)
    return len(frames_FHW3)
