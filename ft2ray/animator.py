"""One loaded generator with one policy, for many clips: portrait + recording -> mp4 with sound.

Not for two threads at once: the policy's adapters hang on the one transformer. Shapes: T audio samples,
C H W latent channels and grid, F frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path

import numpy as np

from ft2ray.errors import UserError
from ft2ray.generator.sampler import Conditions
from ft2ray.generator.settings import SamplerSettings
from ft2ray.loaders import load_generator
from ft2ray.media.audio import SAMPLE_RATE, check_speech, read_audio
from ft2ray.media.face import FaceMesher
from ft2ray.media.generated_clip import GeneratedClip
from ft2ray.media.portrait import Portrait, load_portrait
from ft2ray.media.video import write_video
from ft2ray.scratch import scratch_folder
from ft2ray.systems import BASE, TLPO, UNIFORM
from ft2ray.tlpo.experts import detach_experts
from ft2ray.tlpo.policy import AttachedPolicy, Policy

BEST = (TLPO, UNIFORM, BASE)  # what a request that names no system gets: the first that the policy has

# (state, share of it that is done) -> whether to go on; the states are encoding, sampling and decoding
Progress = Callable[[str, float], bool]


class Stopped(Exception):
    """The clip is not wanted any more."""


class Animator:
    """Loads once, animates many times; between two clips it can be given another policy."""

    def __init__(self, weights: str, size: int, max_seconds: float, allow_code: bool = False):
        self.generator = load_generator(weights, allow_code)
        self.mesher = FaceMesher()
        self.size, self.max_seconds = size, max_seconds
        self.attached: AttachedPolicy | None = None
        self._probe: Conditions | None = None

    @property
    def policy(self) -> str:
        return BASE if self.attached is None else self.attached.policy.fingerprint

    @property
    def systems(self) -> tuple[str, ...]:
        return (BASE,) if self.attached is None else tuple(self.attached.policy.systems)

    def attach(self, policy: Policy) -> None:
        """Work with this policy from the next clip on; where it does not fit, with the old one as before."""
        old = self.attached
        try:
            self.attached = AttachedPolicy(self.generator.transformer, policy)
        except Exception:
            self._go_back_to(old)
            raise

    def _go_back_to(self, old: AttachedPolicy | None) -> None:
        detach_experts(self.generator.transformer)
        self.attached = None if old is None else AttachedPolicy(self.generator.transformer, old.policy)

    def adopt(self, policy: Policy) -> None:
        """`attach` a policy that every system of it works with; else raise and keep the old one.

        Raises:
            WeightsError: the policy does not fit the generator.
            NonFiniteError: one of its systems gives numbers that are not finite.
        """
        old = self.attached
        self.attach(policy)
        try:
            for system in policy.systems:
                self._use(system, None)
                self.probe()
        except Exception:
            self._go_back_to(old)
            raise

    def animate(
        self,
        portrait_path: str | Path,
        audio_path: str | Path,
        sampler: SamplerSettings,
        seed: int = 0,
        system: str | None = None,
        weights: Mapping[str, float] | None = None,
        progress: Progress = lambda state, share: True,
    ) -> GeneratedClip:
        """Make one clip, as long as the recording.

        Args:
            portrait_path: the photo.
            audio_path: the recording.
            sampler: how to sample.
            seed: of the noise.
            system: one of `systems`; None takes the best of them.
            weights: the user's own weight of each dimension, which multiplies the gate's.
            progress: told the state and the share done; False stops the work.

        Raises:
            ValueError: for an unusable portrait or recording (MediaError), and for a system or weights that
                the policy does not have.
            Stopped: soon after `progress` returned False.
        """
        portrait = load_portrait(portrait_path, self.size, self.mesher)
        wav_T = read_audio(audio_path, self.max_seconds)
        check_speech(wav_T, Path(audio_path).name, max_seconds=self.max_seconds)
        return self.speak(portrait, wav_T, sampler, seed, system, weights, progress)

    def speak(
        self,
        portrait: Portrait,
        wav_T: np.ndarray,
        sampler: SamplerSettings,
        seed: int = 0,
        system: str | None = None,
        weights: Mapping[str, float] | None = None,
        progress: Progress = lambda state, share: True,
    ) -> GeneratedClip:
        """`animate` with a portrait and speech that are read and checked already."""
        system = system or next(name for name in BEST if name in self.systems)
        self._use(system, weights)
        _go_on(progress("encoding", 0.0))
        conditions = self.generator.encode_prompt(portrait, wav_T)
        _go_on(progress("sampling", 0.0))
        x_CFHW = self.generator.finite_sample(
            conditions,
            seed,
            sampler,
            on_step=lambda done, _: _go_on(progress("sampling", done / sampler.steps)),
        )
        _go_on(progress("decoding", 0.0))
        frames_FHW3, fps = self.generator.decode(portrait, x_CFHW), self.generator.fps
        with scratch_folder() as folder:
            mp4 = write_video(folder / "clip.mp4", frames_FHW3, fps, wav_T).read_bytes()
        policy = BASE if system == BASE else self.policy
        frames = len(frames_FHW3)
        return GeneratedClip(mp4, frames, frames / fps, system, policy, self.generator.fingerprint)

    def probe(self) -> None:
        """One sampling step of a built-in clip; NonFiniteError where its numbers are not finite."""
        if self._probe is None:
            assets = Path(str(files("ft2ray") / "assets"))
            portrait = load_portrait(assets / "portraits" / "grace_hopper.jpg", self.size, self.mesher)
            wav_T = read_audio(assets / "speech" / "sense_and_sensibility_0870.flac")[:SAMPLE_RATE]
            self._probe = self.generator.encode_prompt(portrait, wav_T)
        self.generator.finite_sample(self._probe, 0, SamplerSettings(steps=1))

    def _use(self, system: str, weights: Mapping[str, float] | None) -> None:
        if self.attached is not None:
            self.attached.use(system, weights)
        elif system != BASE or weights is not None:
            raise UserError(
                "no trained policy is loaded: only the system base can be asked for, without weights"
            )


def _go_on(wanted: bool) -> None:
    if not wanted:
        raise Stopped
