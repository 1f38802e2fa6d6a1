"""Flow-matching Euler sampler with three-pass guidance and overlapping windows for long speech.

Flow matching as in Wan: x_t = (1 - t) x_0 + t eps, velocity v = eps - x_0, sampled from t = 1 down to 0.

Shape suffixes: B passes or windows in one batch, C latent channels, F latent frames, H W latent grid,
L tokens, D token width.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from ft2ray.generator.settings import GuidancePass, SamplerSettings
from ft2ray.generator.transformer import SpeechWanTransformer


@dataclass(frozen=True)
class Conditions:
    """What a clip is made from, encoded once per prompt.

    audio_LD: speech features of the whole clip, evenly spread over its `frames` latent frames;
    text_LD: text tokens, None for a model without text; null_text_LD: text of the pass without text (zeros if
    None); image_LD: image tokens of an I2V model; latent_CFHW: channels stacked behind the noise (mask and
    image latents of an I2V model). All float32 on the CPU.
    part: in training, the pass of the guidance that this sample stands for: "text" has no sound, "null" no
    text either.
    """

    text_LD: torch.Tensor | None
    audio_LD: torch.Tensor
    frames: int
    null_text_LD: torch.Tensor | None = None
    image_LD: torch.Tensor | None = None
    latent_CFHW: torch.Tensor | None = None
    part: GuidancePass = "all"


OnStep = Callable[[int, float], None]
"""(steps done, time t reached, from 1 down to 0), as diffusers' `callback_on_step_end`."""


def timesteps(steps: int, shift: float) -> list[float]:
    """steps + 1 times from 1 to 0, pushed towards noise by `shift` (5 in Wan, 1 = even)."""
    even = [1 - step / steps for step in range(steps + 1)]
    return [shift * t / (shift * t + (1 - t)) for t in even]


def guidance_weights(config: SamplerSettings, has_text: bool) -> dict[GuidancePass, float]:
    """Weight of each pass ("null", "text", "all") in the guided velocity; passes of weight 0 are left out.

    v = v0 + s_t (v_text - v0) + s_a (v_all - v_text) = (1 - s_t) v0 + (s_t - s_a) v_text + s_a v_all.
    Without text the first two passes are the same one.
    """
    text_scale = config.text_scale if has_text else 1.0
    weights: dict[GuidancePass, float] = {
        "null": 1.0 - text_scale,
        "text": text_scale - config.audio_scale,
        "all": config.audio_scale,
    }
    return {name: weight for name, weight in weights.items() if weight}


def window_starts(frames: int, window: int, overlap: int) -> list[int]:
    """First frames of windows of one length, evenly spread, neighbours sharing `overlap` frames or more."""
    if frames <= window:
        return [0]
    last = frames - window
    steps = math.ceil(last / (window - overlap))
    return [round(step * last / steps) for step in range(steps + 1)]


def crossfade_weights(starts: Sequence[int], frames: int, window: int) -> torch.Tensor:
    """Share of each window in each frame, [windows, frames]: ramps where windows overlap, sums to 1."""
    weights_KF = torch.zeros(len(starts), frames, dtype=torch.float64)
    for row, start in enumerate(starts):
        end = min(start + window, frames)
        rise = starts[row - 1] + window - start if row else 0
        fall = start + window - starts[row + 1] if row + 1 < len(starts) else 0
        place = torch.arange(end - start, dtype=torch.float64)
        ramp = torch.ones(end - start, dtype=torch.float64)
        if rise:
            ramp = torch.minimum(ramp, (place + 1) / (rise + 1))
        if fall:
            ramp = torch.minimum(ramp, (end - start - place) / (fall + 1))
        weights_KF[row, start:end] = ramp
    return (weights_KF / weights_KF.sum(dim=0)).float()


@torch.no_grad()
def sample(
    transformer: SpeechWanTransformer,
    cond: Conditions,
    shape: Sequence[int],
    seed: int,
    config: SamplerSettings,
    on_step: OnStep | None = None,
) -> torch.Tensor:
    """One clip: latent x_CFHW of `shape` (C, F, H, W), float32 on the CPU.

    The noise comes from a CPU generator seeded with `seed`, so on the CPU the same call gives the same bits.
    """
    noise = config.noise_scale * torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))
    device = next(transformer.parameters()).device
    passes = _passes(transformer, cond, config, device)

    def velocity(x_CFHW: torch.Tensor, t: float) -> torch.Tensor:
        return windowed_velocity(passes, x_CFHW, t, config)

    return integrate(velocity, noise.to(device), config, on_step).cpu()


def integrate(
    velocity: Callable[[torch.Tensor, float], torch.Tensor],
    x_CFHW: torch.Tensor,
    config: SamplerSettings,
    on_step: OnStep | None = None,
) -> torch.Tensor:
    """Euler steps of dx/dt = velocity(x, t) from t = 1 to t = 0."""
    times = timesteps(config.steps, config.shift)
    for step, (now, following) in enumerate(itertools.pairwise(times), 1):
        x_CFHW = x_CFHW + (following - now) * velocity(x_CFHW, now)
        if on_step is not None:
            on_step(step, following)
    return x_CFHW


WindowVelocity = Callable[[torch.Tensor, float, int], torch.Tensor]
"""(x_CFHW of a window, t, its first frame) -> guided velocity of the window."""


def windowed_velocity(
    velocity: WindowVelocity, x_CFHW: torch.Tensor, t: float, config: SamplerSettings
) -> torch.Tensor:
    """Velocity of a clip of any length: windows cross-faded at every Euler step, so no seam can build up."""
    frames = x_CFHW.shape[1]
    starts = window_starts(frames, config.window, config.overlap)
    if len(starts) == 1:
        return velocity(x_CFHW, t, 0)
    weights_KF = crossfade_weights(starts, frames, config.window).to(x_CFHW)
    out = torch.zeros_like(x_CFHW)
    for weight_F, start in zip(weights_KF, starts, strict=True):
        part = slice(start, start + config.window)
        out[:, part] += weight_F[None, part, None, None] * velocity(x_CFHW[:, part], t, start)
    return out


def _passes(
    transformer: SpeechWanTransformer, cond: Conditions, config: SamplerSettings, device: torch.device
) -> WindowVelocity:
    """Guided velocity of one window; all guidance passes run as one batch."""
    weights = guidance_weights(config, has_text=cond.text_LD is not None)
    text_BLD = torch.stack([text_tokens(replace(cond, part=name), transformer) for name in weights])
    text_BLD = text_BLD.to(device, transformer.dtype)
    audio_scale_B = torch.tensor([float(name == "all") for name in weights], device=device)
    weight_B1111 = torch.tensor(list(weights.values()), device=device)[:, None, None, None, None]
    batch = len(weights)
    image_BLD = None
    if cond.image_LD is not None:
        image_BLD = cond.image_LD.to(text_BLD).expand(batch, -1, -1)

    def velocity(x_CFHW: torch.Tensor, t: float, start: int) -> torch.Tensor:
        frames = x_CFHW.shape[1]
        audio_LD = audio_slice(cond, start, frames, transformer.config["audio_stride"])
        if cond.latent_CFHW is not None:
            x_CFHW = torch.cat([x_CFHW, cond.latent_CFHW[:, start : start + frames].to(x_CFHW)])
        v_BCFHW = transformer(
            x_CFHW.to(text_BLD).expand(batch, -1, -1, -1, -1),
            torch.full((batch,), 1000.0 * t, device=device),
            text_BLD,
            encoder_hidden_states_image=image_BLD,
            audio=audio_LD.to(text_BLD).expand(batch, -1, -1),
            audio_scale=audio_scale_B,
            return_dict=False,
        )[0]
        return (weight_B1111 * v_BCFHW.float()).sum(dim=0)

    return velocity


def conditional_velocity(
    transformer: SpeechWanTransformer, x_BCFHW: torch.Tensor, t_B: torch.Tensor, conds: Sequence[Conditions]
) -> torch.Tensor:
    """Velocity of each sample's own `part` of the conditions, without guidance, differentiable, for training.

    x_BCFHW: noisy latents; t_B in [0, 1]; conds: one per sample, all of the same length. The transformer
    works on its own device and in its own precision, the result has those of `x_BCFHW`.
    """
    device = next(transformer.parameters()).device

    def batch(tensors: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
        given = [tensor for tensor in tensors if tensor is not None]
        if len(given) not in (0, len(tensors)):
            raise ValueError("velocity: some samples of the batch have a condition that others lack")
        return torch.stack(given).to(device, transformer.dtype) if given else None

    text_BLD = batch([text_tokens(cond, transformer) for cond in conds])
    assert text_BLD is not None
    stacked_BCFHW = batch([cond.latent_CFHW for cond in conds])
    model_in = x_BCFHW.to(text_BLD)
    heard_B = torch.tensor([float(cond.part == "all") for cond in conds], device=device)
    return transformer(
        model_in if stacked_BCFHW is None else torch.cat([model_in, stacked_BCFHW], dim=1),
        1000 * t_B.to(device),
        text_BLD,
        encoder_hidden_states_image=batch([cond.image_LD for cond in conds]),
        audio=batch([cond.audio_LD for cond in conds]),
        audio_scale=heard_B,
        return_dict=False,
    )[0].to(x_BCFHW)


def text_tokens(cond: Conditions, transformer: SpeechWanTransformer) -> torch.Tensor:
    """The text of a clip or of its null pass, [L, text_dim]; a single zero token for a model without text."""
    if cond.text_LD is None:
        return torch.zeros(1, transformer.config["text_dim"])
    if cond.part != "null":
        return cond.text_LD
    return cond.null_text_LD if cond.null_text_LD is not None else torch.zeros_like(cond.text_LD)


def audio_slice(cond: Conditions, start: int, frames: int, stride: int) -> torch.Tensor:
    """Speech features of `frames` latent frames from `start` on.

    The first latent frame of a window stands for one video frame, each following one for `stride` of them.
    """
    video_frames = stride * (cond.frames - 1) + 1
    per_frame = cond.audio_LD.shape[0] / video_frames
    first = round(stride * start * per_frame)
    last = round((stride * (start + frames - 1) + 1) * per_frame)
    return cond.audio_LD[first:last]
