from pathlib import Path

import numpy as np

import ft2ray
from ft2ray.evaluation.phones import OPENNESS, bilabial_closure, openness_curve, recognise
from ft2ray.media.audio import read_audio


def test_bilabials_close_the_mouth_and_open_vowels_open_it():
    phones = [("M", 0, 29), ("AA", 30, 59), ("P", 60, 89)]
    curve = openness_curve(phones, frames=22, fps=25)
    assert curve[10] > 0.8 and curve[2] < 0.1 and curve[19] < 0.1


def test_the_lips_lead_the_sound():
    phones = [("M", 0, 49), ("AA", 50, 99)]
    early, late = (openness_curve(phones, 25, 25, lead_steps=lead) for lead in (8, 0))
    assert np.argmax(early > 0.5) == np.argmax(late > 0.5) - 2


def test_unknown_marks_and_silence_count_as_closed():
    assert openness_curve([("SIL", 0, 50), ("+NSN+", 51, 99)], 20, 25).max() == 0
    assert openness_curve([], 20, 25).shape == (20,)


def test_table_is_within_bounds_and_covers_the_phones():
    assert len(OPENNESS) == 39 and all(0 <= value <= 1 for value in OPENNESS.values())


def test_silence_keeps_the_mouth_nearly_closed():
    assert openness_curve(recognise(np.zeros(16000, np.float32)), 25, 25).max() < 0.3


def test_a_recording_gives_the_same_phones_whatever_came_before():
    speech = read_audio(next((Path(ft2ray.__file__).parent / "assets" / "speech").glob("*.flac")))[:32000]
    first = recognise(speech)
    recognise(np.random.default_rng(0).normal(0, 0.2, 16000).astype(np.float32))
    assert recognise(speech) == first
    assert len({name for name, _, _ in first} & set(OPENNESS)) > 5


def test_lips_that_follow_the_phones_close_for_bilabials_and_still_ones_do_not():
    folder = Path(ft2ray.__file__).parent / "assets" / "speech"
    own = late = still = heard = 0
    for file in sorted(folder.glob("sense*.flac")):
        speech = read_audio(file)[:80000]
        phones = recognise(speech)
        gap = openness_curve(phones, 125, 25)
        found = bilabial_closure(phones, gap)
        heard, own = heard + found.heard, own + found.closed
        late += bilabial_closure(phones, np.roll(gap, 8)).closed
        still += bilabial_closure(phones, np.zeros(125)).closed
    assert heard > 3 and own > 0.7 * heard and own > late and still == 0
