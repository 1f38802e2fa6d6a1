"""A portrait and speech through several systems of a run, by settings that fit in a link."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from pydantic import Field, ValidationError

from ft2ray.errors import UserError
from ft2ray.run import Run
from ft2ray.settings import Settings
from ft2ray.systems import BASE, TLPO, UNIFORM

if TYPE_CHECKING:  # heavy: loaded with the first clip that is asked for
    from ft2ray.animator import Animator, Progress


class PlaySettings(Settings):
    """Everything but the media that decides a clip; a link to the page holds it."""

    systems: tuple[str, ...] = (BASE, TLPO)
    seed: int = Field(0, ge=0, lt=2**31)
    steps: int = Field(10, ge=1, le=50)
    guidance: float = Field(1.0, ge=0, le=6)
    motion: float = Field(1.0, gt=0, le=2)  # size of the noise that sampling starts from
    weights: dict[str, float] = {}

    @property
    def query(self) -> str:
        """The settings as the end of a link."""
        plain = {"systems": ",".join(self.systems), "seed": self.seed, "steps": self.steps}
        plain |= {"guidance": self.guidance, "motion": self.motion}
        return urlencode(plain | {f"w_{name}": weight for name, weight in self.weights.items()})


def settings_of(query: Mapping[str, str], default: PlaySettings) -> PlaySettings:
    """The settings that a link holds; what it does not say is the default.

    Raises UserError where a value cannot be.
    """
    try:
        given: dict[str, Any] = {name: int(query[name]) for name in ("seed", "steps") if name in query}
        given |= {name: float(query[name]) for name in ("guidance", "motion") if name in query}
        if "systems" in query:
            given["systems"] = tuple(query["systems"].split(","))
        weights = {key[2:]: float(value) for key, value in query.items() if key.startswith("w_")}
        return default.replaced(**given, weights={**default.weights, **weights})
    except (ValueError, ValidationError) as error:
        raise UserError("play: the link holds a setting that cannot be; open the page without it") from error


class Player:
    """The run's generator with its policy, loaded when it is first asked; one clip at a time."""

    def __init__(self, run: Run):
        self.run, self._lock = run, threading.Lock()
        self._animator: Animator | None = None

    def play(
        self, portrait: str, speech: str, chosen: PlaySettings, progress: Progress
    ) -> Iterator[tuple[str, bytes]]:
        """Each system's clip as soon as it is made.

        Raises FT2RayError for media, systems or weights that cannot be used.
        """
        from ft2ray.media.audio import check_speech, read_audio
        from ft2ray.media.portrait import load_portrait

        with self._lock:
            animator = self._loaded()
            limit = self.run.config.prompts.max_recording_seconds
            face = load_portrait(portrait, animator.size, animator.mesher)
            wav_T = read_audio(speech, limit)
            check_speech(wav_T, Path(speech).name, max_seconds=limit)
            if unknown := set(chosen.systems) - set(animator.systems):
                raise UserError(f"play: no system {min(unknown)}; there are {', '.join(animator.systems)}")
            sampler = self.run.config.generator.sampling.replaced(
                steps=chosen.steps, audio_scale=chosen.guidance, noise_scale=chosen.motion
            )
            for system in chosen.systems:
                weights = chosen.weights if system in (TLPO, UNIFORM) else None
                shown = partial(_of_system, progress, system)
                clip = animator.speak(face, wav_T, sampler, chosen.seed, system, weights, shown)
                yield system, clip.mp4

    def _loaded(self) -> Animator:
        if self._animator is None:
            from ft2ray.animator import Animator
            from ft2ray.tlpo.policy import load_policy

            config = self.run.config
            weights, size = config.generator.weights, config.generator.size
            animator = Animator(weights, size, config.prompts.max_recording_seconds)
            animator.attach(load_policy(self.run.current_policy, animator.generator.fingerprint))
            self._animator = animator
        return self._animator


def _of_system(progress: Progress, system: str, state: str, share: float) -> bool:
    return progress(f"{system}: {state}", share)
