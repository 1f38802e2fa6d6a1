import numpy as np
import pytest

from ft2ray.evaluation.judge import (
    Judge,
    RealClip,
    fit_judge,
    fit_ridges,
)
from ft2ray.evaluation.lipsync import LipCurves, apply_ridges, correlation
from ft2ray.evaluation.motion import MotionTrack
from ft2ray.evaluation.observation import observe
from ft2ray.evaluation.real_clips import fit_folder, name_speakers


def real_clip(name, speaker, seed, frames=75):
    """A clip whose mouth follows the third mel band."""
    generator = np.random.default_rng(seed)
    mel = np.cumsum(generator.normal(size=(frames, 80)), axis=0) / 5
    motion = MotionTrack(
        rotation_F3=np.cumsum(generator.normal(size=(frames, 3)), axis=0),
        position_F2=np.cumsum(generator.normal(size=(frames, 2)), axis=0) / 100,
        brows_F=generator.normal(size=frames) / 50,
        lids_F=1 + generator.normal(size=frames) / 20,
        mouth_F=mel[:, 3] + 0.1 * generator.normal(size=frames),
        width_F=generator.normal(size=frames) / 50,
    )
    features = {"mel": mel, "whisper": generator.normal(size=(frames, 384))}
    return RealClip(name, speaker, motion, features, mel[:, 3], np.ones(frames), {"vq": 0.8})


@pytest.fixture(scope="module")
def judge():
    clips = [real_clip(f"c{i}", f"s{i // 2}", i) for i in range(6)]
    return fit_judge(clips, [c.features for c in clips], "synthetic")


def test_saved_and_read_judge_is_the_same(judge, tmp_path):
    again = Judge.load(judge.save(tmp_path / "judge.safetensors"))
    assert again.fingerprint == judge.fingerprint
    assert again.real == judge.real and again.source == "synthetic"


def test_fingerprint_changes_with_the_weights(judge):
    clips = [real_clip("a", "x", 7), real_clip("b", "y", 8)]
    other = fit_judge(clips, [c.features for c in clips], "synthetic")
    assert other.fingerprint != judge.fingerprint


def test_real_figures_come_from_fits_without_the_speaker():
    """Two clips of one speaker share a rule that is nobody else's: it may not help when he is judged."""
    clips = [real_clip(f"c{i}", f"s{i}", i) for i in range(6)]
    odd = [real_clip("odd", "odd", 9), real_clip("odd2", "odd", 10)]
    for clip in odd:
        clip.motion.mouth_F[:] = clip.features["mel"][:, 40]
    fitted = fit_judge([*clips, *odd], [clips[0].features], "synthetic")
    with_him = fit_ridges([*clips, *odd])
    seen = correlation(apply_ridges(with_him, odd[0].features), odd[0].lips.gap_F)
    assert fitted.real["odd"]["ls_correlation"] < seen - 0.2


def test_wrong_audio_is_near_zero_for_unrelated_mouths(judge):
    generator = np.random.default_rng(3)
    wrong = [judge.wrong_audio(LipCurves(*generator.normal(size=(2, 75)))) for _ in range(20)]
    assert abs(np.mean(wrong)) < 0.1


def test_one_speaker_is_refused(judge):
    with pytest.raises(ValueError, match="two people"):
        fit_judge([real_clip("a", "s", 0), real_clip("b", "s", 1)], [], "synthetic")


def test_unusable_sources_are_named(tmp_path):
    with pytest.raises(ValueError, match="No judge at"):
        Judge.load(tmp_path / "nothing")
    (tmp_path / "fake.safetensors").write_bytes(b"not a judge")
    with pytest.raises(ValueError, match="not a judge"):
        Judge.load(tmp_path / "fake.safetensors")
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match="unreadable"):
        fit_folder(tmp_path / "clips")


def test_packaged_judge_shows_real_people_whom_it_was_not_fitted_on():
    judge = Judge.load()
    people = {name.split("/")[0] for name in judge.real}
    assert len(people) == 7 and "grid_s1" not in people, "real figures are of people it was not fitted on"
    assert {(ridge.kind, ridge.target) for ridge in judge.ridges} == {
        (kind, target) for kind in ("mel", "whisper") for target in ("gap", "width")
    }
    assert "GRID" in judge.source
    assert judge.decoy_gap_NF.shape == judge.decoy_width_NF.shape


def test_speakers_are_joined_by_face_also_through_chains():
    a, b, c, far = (np.eye(4)[0] * scale for scale in (0.0, 0.5, 1.0, 9.0))
    names = name_speakers([a, far, c, b])
    assert names[0] == names[2] == names[3] != names[1]


def test_short_gaps_are_closed_and_long_ones_refuse_the_clip():
    mesh = np.random.default_rng(0).normal(size=(40, 478, 3)).astype(np.float32) + 100
    mesh[10:13] = np.nan
    seen = observe(mesh, 25.0)
    assert seen.face_found == pytest.approx(37 / 40)
    assert np.allclose(seen.mesh_FP3[11], (mesh[9] + mesh[13]) / 2, atol=1e-4)
    mesh[10:25] = np.nan
    assert observe(mesh, 25.0) is None


def test_other_frame_rates_are_brought_to_25():
    mesh = np.random.default_rng(0).normal(size=(60, 478, 3)).astype(np.float32) + 100
    seen = observe(mesh, 30.0)
    assert len(seen.motion.mouth_F) == 50 and len(seen.mesh_FP3) == 60
