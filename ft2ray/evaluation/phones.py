"""A lip-sync predictor that needs no training: recognised phones and how far each one opens the mouth.

pocketsphinx names the phone of every 10 ms without a transcript (an English phone loop: on other languages it
still hears vowels and closures, less well). A fixed table, written from phonetics and not fitted to anything,
says how open the mouth is in each phone; smoothing stands in for coarticulation.

Shape suffixes: T audio samples, F video frames, L phone steps of 10 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from ft2ray.extras import extra

with extra("eval"):
    from pocketsphinx import Config, Decoder, get_model_path

PHONE_RATE = 100
SMOOTHING_STEPS = 5.0
LEAD_STEPS = 4
"""The lips move towards a phone before it sounds; 40 ms is within what studies of speech report."""

# Opening of the lips, 0 closed .. 1 wide open: bilabials close, labiodentals nearly, then sibilants and
# rounded vowels, then open vowels by jaw height.
OPENNESS = {
    "P": 0.0, "B": 0.0, "M": 0.0,
    "F": 0.15, "V": 0.15, "W": 0.25, "S": 0.25, "Z": 0.25,
    "CH": 0.35, "JH": 0.35, "SH": 0.35, "ZH": 0.35, "T": 0.35, "D": 0.35, "N": 0.35, "R": 0.35,
    "TH": 0.35, "DH": 0.35, "UW": 0.35, "Y": 0.4, "L": 0.45, "K": 0.45, "G": 0.45, "NG": 0.45,
    "IY": 0.45, "UH": 0.45, "IH": 0.5, "ER": 0.5, "HH": 0.5, "OW": 0.6, "OY": 0.6,
    "EY": 0.65, "AH": 0.65, "AO": 0.75, "EH": 0.75, "AW": 0.9, "AY": 0.9, "AE": 0.95, "AA": 1.0,
}  # fmt: skip
SILENCE = 0.0
BILABIALS = ("P", "B", "M")
CLOSURE_DIP = 0.3
"""Standard deviations by which the gap lies below its surroundings where the lips close for a bilabial."""
CLOSURE_REACH, CLOSURE_SLACK = 6, 2
"""Frames to either side that are the surroundings, and by which the closure may miss the phone's middle."""


def _decoder() -> Decoder:
    """A new decoder (20 ms): a used one adapts to what it heard; a score may not depend on other clips."""
    folder = get_model_path("en-us")
    beam = 1e-20
    return Decoder(
        Config(
            hmm=f"{folder}/en-us",
            allphone=f"{folder}/en-us-phone.lm.bin",
            lm=None,
            dict=None,
            lw=2.0,
            beam=beam,
            pbeam=beam,
            loglevel="FATAL",
        )
    )


def recognise(wav_T: np.ndarray) -> list[tuple[str, int, int]]:
    """Phones of a recording: (name, first step, last step) in steps of 10 ms; names as in CMUdict, no stress.

    Args:
        wav_T: 16 kHz mono float32 in [-1, 1].
    """
    decoder = _decoder()
    decoder.start_utt()
    samples = (np.clip(wav_T, -1, 1) * 32767).astype(np.int16)
    decoder.process_raw(samples.tobytes(), full_utt=True)
    decoder.end_utt()
    return [(segment.word, segment.start_frame, segment.end_frame) for segment in decoder.seg()]


def openness_curve(
    phones: Sequence[tuple[str, int, int]], frames: int, fps: float, lead_steps: int = LEAD_STEPS
) -> np.ndarray:
    """Expected opening of the mouth in each video frame, [F] in 0..1.

    Args:
        phones: what `recognise` returns; silence and noise marks count as closed.
        frames: number of video frames.
        fps: video frame rate.
        lead_steps: how many steps of 10 ms the lips are ahead of the sound.
    """
    last = max([end for _, _, end in phones], default=0)
    steps = max(last + 1, round(frames / fps * PHONE_RATE)) + lead_steps + 1
    open_L = np.zeros(steps)
    for name, start, end in phones:
        open_L[start : end + 1] = OPENNESS.get(name, SILENCE)
    smooth_L = gaussian_filter1d(open_L, SMOOTHING_STEPS)
    centres_F = np.round((np.arange(frames) + 0.5) / fps * PHONE_RATE).astype(int) + lead_steps
    return smooth_L[np.clip(centres_F, 0, steps - 1)]


@dataclass(frozen=True)
class Closure:
    """Bilabials of one clip: how many were heard, and at how many of them the lips closed."""

    heard: int
    closed: int


def bilabial_closure(phones: Sequence[tuple[str, int, int]], gap_F: np.ndarray, fps: float = 25.0) -> Closure:
    """Do the lips close where /p b m/ sound? English only, as the recogniser is.

    Args:
        phones: what `recognise` returns.
        gap_F: opening of the lips in each frame.
        fps: its rate.
    """
    spread = float(gap_F.std())
    heard = closed = 0
    for name, start, end in phones:
        if name not in BILABIALS:
            continue
        middle = round(((start + end) / 2 - LEAD_STEPS) / PHONE_RATE * fps)
        if not CLOSURE_REACH <= middle < len(gap_F) - CLOSURE_REACH:
            continue
        heard += 1
        around = gap_F[middle - CLOSURE_REACH : middle + CLOSURE_REACH + 1].mean()
        dip = gap_F[middle - CLOSURE_SLACK : middle + CLOSURE_SLACK + 1].min()
        closed += bool(spread > 0 and around - dip > CLOSURE_DIP * spread)
    return Closure(heard, closed)
