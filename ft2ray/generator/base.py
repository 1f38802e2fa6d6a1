"""What a generator is: the base class of the packaged one, of Wan, and of your own.

Name your own by `generator.weights=package.module:Class`; it is built without arguments, once per process. A
complete example of 30 lines is docs/examples/own_generator.py.

Shape suffixes: B batch, C latent channels, F latent frames (in pictures: video frames), H W latent grid or
picture, L tokens, D token width, T audio samples, 3 rgb.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ft2ray.errors import NonFiniteError
from ft2ray.generator.sampler import Conditions, OnStep, conditional_velocity
from ft2ray.generator.settings import SamplerSettings
from ft2ray.media.portrait import Portrait
from ft2ray.media.video import FPS


class Generator(ABC):
    """Turns a portrait and speech into a clip.

    Attributes:
        transformer: the frozen base on which experts hang: diffusers' WanTransformer3DModel or a subclass.
        fingerprint: identity of everything that decides what a seed gives, without the experts: two
            generators of one fingerprint make the same clips.
        fps: frames a second of the clips.
        channel_weights: what each latent channel weighed in the loss that the base was trained with, [C];
            None where all weighed the same. Preferences are learnt with them too (`tlpo.loss.weighted`).
    """

    transformer: Any
    fingerprint: str
    fps: float = FPS
    channel_weights: torch.Tensor | None = None

    @abstractmethod
    def encode_prompt(self, portrait: Portrait, wav_T: np.ndarray) -> Conditions:
        """Encode what one clip is made from; the clip is as long as the speech.

        Args:
            portrait: the loaded photo.
            wav_T: speech, float32, 16 kHz mono.

        Raises:
            MediaError: for speech that is too short.
        """

    @abstractmethod
    def sample(
        self, cond: Conditions, seed: int, config: SamplerSettings, on_step: OnStep | None = None
    ) -> torch.Tensor:
        """Sample one candidate.

        Args:
            cond: the conditions of the clip.
            seed: of the noise; the same seed gives the same latent.
            config: steps, guidance and noise.
            on_step: called at the end of every step (see `OnStep`); what it raises ends the sampling.

        Returns:
            x_CFHW, float32 on the CPU.
        """

    def finite_sample(
        self, cond: Conditions, seed: int, config: SamplerSettings, on_step: OnStep | None = None
    ) -> torch.Tensor:
        """`sample`; NonFiniteError for a latent with NaN or infinity: a codec would make pictures of it."""
        x_CFHW = self.sample(cond, seed, config, on_step)
        if not torch.isfinite(x_CFHW).all():
            raise NonFiniteError(
                f"generator: the latent of seed {seed} is not finite: the sampler diverged, lower "
                "generator.sampling.audio_scale; or the weights of the base or of the policy are broken"
            )
        return x_CFHW

    @abstractmethod
    def decode(self, portrait: Portrait, x_CFHW: torch.Tensor) -> np.ndarray:
        """Turn a latent of `sample` into pictures of this portrait: uint8 RGB frames_FHW3."""

    def lip_mask(self, x_CFHW: torch.Tensor) -> torch.Tensor:
        """Mark what belongs to the mouth: float32 [C or 1, F, H, W], 1 there and 0 elsewhere.

        Dimensions with `mask="lips"` are trained on that part alone. By default everything counts.

        Raises:
            MediaError: no_face, where the mouth has to be found in the pictures and cannot be.
        """
        return torch.ones(1, *x_CFHW.shape[1:])

    @property
    def regions(self) -> Mapping[str, torch.Tensor]:
        """Regions of the loss that are channels of the latents, each a mask [C] (see ft2ray.tlpo.masks).

        By default there are none: `head` is all but the lips, and `shape` the whole frame.
        """
        return {}

    def velocity(self, x_BCFHW: torch.Tensor, t_B: torch.Tensor, conds: Sequence[Conditions]) -> torch.Tensor:
        """Predict the velocity with all conditions and without guidance, differentiable, for training.

        The default fits the transformers of this package; override it for one with other arguments.

        Args:
            x_BCFHW: noisy latents (1 - t) x_0 + t noise.
            t_B: flow-matching times in [0, 1]; 1 is noise.
            conds: one per sample, all of the same length.

        Returns:
            v_BCFHW of the same shape, device and dtype as `x_BCFHW`.
        """
        return conditional_velocity(self.transformer, x_BCFHW, t_B, conds)
