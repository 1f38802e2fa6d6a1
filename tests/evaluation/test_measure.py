"""The whole measurement on pixels: a packaged portrait warped by a known mouth and head motion."""

from pathlib import Path

import cv2
import numpy as np
import pytest

import ft2ray
from ft2ray.evaluation.judge import Judge
from ft2ray.evaluation.measure import measure_clip
from ft2ray.evaluation.observation import phone_curve
from ft2ray.generator.portrait.generator import PortraitGenerator
from ft2ray.generator.portrait.warp import render
from ft2ray.generator.settings import SamplerSettings
from ft2ray.media.audio import read_audio
from ft2ray.media.face import LIPS_INNER_LOWER, LIPS_OUTER_LOWER, FaceMesher, face_height
from ft2ray.media.portrait import load_portrait

FRAMES, FPS = 60, 25.0
ASSETS = Path(ft2ray.__file__).parent / "assets"


@pytest.fixture(scope="module")
def scene():
    mesher = FaceMesher()
    portrait = load_portrait(ASSETS / "portraits" / "grace_hopper.jpg", mesher=mesher)
    speech = sorted((ASSETS / "speech").glob("*.flac"))[0]
    wav = read_audio(speech)[16000 : 16000 + int(FRAMES / FPS * 16000)]
    return mesher, portrait, wav, Judge.load()


def talking_mesh(portrait, opening, head=3.0):
    """The portrait's mesh with lips that open by `opening` (0..1) and a head that drifts by some pixels."""
    mesh = np.repeat(portrait.mesh_P3[None], len(opening), axis=0).astype(np.float32)
    lower = list({*LIPS_INNER_LOWER[1:-1], *LIPS_OUTER_LOWER[1:-1], 152, 148, 377})
    mesh[:, lower, 1] += 0.07 * float(face_height(portrait.mesh_P3)) * opening[:, None]
    time = np.arange(len(opening)) / FPS
    drift = np.stack([np.sin(2.1 * time) + 0.4 * np.sin(7 * time), np.cos(1.3 * time), 0 * time], axis=1)
    return mesh + (head * drift)[:, None].astype(np.float32)


@pytest.fixture(scope="module")
def in_sync(scene):
    mesher, portrait, wav, judge = scene
    frames = render(portrait, talking_mesh(portrait, phone_curve(wav, FRAMES)))
    return frames, measure_clip(frames, wav, FPS, portrait, judge, mesher)


def test_lips_that_follow_the_sound_are_found_in_the_pixels(in_sync):
    _, measured = in_sync
    figures = measured.metrics()
    assert figures["face_found"] == 1.0
    assert figures["ls_phones"] > 0.6
    assert abs(figures["lag"]) <= 2, "the table's lips lead those of the judge's people a little"
    references = measured.audio_references()
    assert figures["ls"] > references["wrong_audio"]["ls"] + 0.2
    assert figures["ls"] > references["shifted_audio"]["ls"] + 0.2


def test_late_lips_are_measured_late(scene):
    mesher, portrait, wav, judge = scene
    late = np.roll(phone_curve(wav, FRAMES), 4)
    measured = measure_clip(render(portrait, talking_mesh(portrait, late)), wav, FPS, portrait, judge, mesher)
    assert 3 <= measured.metrics()["lag"] <= 5


def test_a_still_portrait_loses_motion_and_has_no_lip_sync_worth_the_name(scene, in_sync):
    mesher, portrait, wav, judge = scene
    frozen = np.repeat(portrait.image_HW3[None], FRAMES, axis=0)
    figures = measure_clip(frozen, wav, FPS, portrait, judge, mesher).metrics()
    moving = in_sync[1].metrics()
    assert figures["mn"] < moving["mn"] - 0.3
    assert figures["ls"] is None or figures["ls"] < moving["ls"] - 0.2


@pytest.mark.parametrize(
    ("fault", "part"),
    [("blur", "sharpness"), ("noise", "texture"), ("flicker", "steadiness"), ("jpeg", "vq")],
)
def test_damaged_pictures_score_lower_in_quality(scene, in_sync, fault, part):
    mesher, portrait, wav, judge = scene
    frames, clean = in_sync
    generator = np.random.default_rng(0)
    if fault == "blur":
        damaged = np.stack([cv2.GaussianBlur(frame, (0, 0), 1.5) for frame in frames])
    elif fault == "jpeg":
        damaged = np.stack([cv2.imdecode(cv2.imencode(".jpg", f, [1, 12])[1], 1) for f in frames])
    else:
        size = frames.shape if fault == "noise" else (FRAMES, 1, 1, 1)
        damaged = np.clip(frames + generator.normal(0, 8, size), 0, 255).astype(np.uint8)
    figures = measure_clip(damaged, wav, FPS, portrait, judge, mesher).metrics()
    assert figures[part] < clean.metrics()[part] - 0.05
    assert figures["vq"] < clean.metrics()["vq"] - 0.05


def test_another_face_is_not_the_same_person(scene, in_sync):
    mesher, portrait, wav, judge = scene
    other = load_portrait(ASSETS / "portraits" / "astronaut.jpg", mesher=mesher)
    figures = measure_clip(in_sync[0], wav, FPS, other, judge, mesher).metrics()
    assert figures["identity"] < in_sync[1].metrics()["identity"] - 0.3


def test_without_a_face_nothing_is_measured_and_nothing_is_zero(scene):
    mesher, portrait, wav, judge = scene
    measured = measure_clip(np.full((40, 256, 256, 3), 90, np.uint8), wav, FPS, portrait, judge, mesher)
    figures = measured.metrics()
    assert figures["face_found"] == 0
    assert figures["mn"] is None and figures["ls"] is None and figures["vq"] is None
    assert measured.audio_references()["wrong_audio"]["ls"] is None


def test_same_frames_same_figures(scene, in_sync):
    mesher, portrait, wav, judge = scene
    assert measure_clip(in_sync[0], wav, FPS, portrait, judge, mesher) == in_sync[1]


def test_stillness_gains_no_quality(scene):
    mesher, portrait, wav, judge = scene
    generator = PortraitGenerator.load()
    x = generator.sample(generator.encode_prompt(portrait, wav), 0, SamplerSettings())
    still = x.clone()
    still[generator.codec.basis.pose] *= 0
    moving, frozen = (
        measure_clip(generator.decode(portrait, latent), wav, FPS, portrait, judge, mesher).metrics()
        for latent in (x, still)
    )
    assert frozen["vq"] <= moving["vq"] + 0.02
    assert frozen["mn"] < moving["mn"] - 0.1


def test_lips_that_open_by_the_phone_table_win_nothing(scene, in_sync):
    """An average mouth: it fits its own table perfectly, and the judge's people less than the table says."""
    figures = in_sync[1].metrics()
    assert figures["ls_phones"] > 0.6
    assert figures["ls_correlation"] < figures["ls_phones"]
