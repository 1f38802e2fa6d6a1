"""The motion head: it hears shifted sound, sees what moves, and joins the thinker."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ft2ray.critic.talking.critic import TalkingCritic, add_head, critic_fingerprint
from ft2ray.critic.talking.motion_head import HEAD, MotionHead, correlation
from ft2ray.critic.talking.view import TalkingViewer, view_from_meshes
from ft2ray.critic.viewer import probe_clip


@pytest.fixture(scope="module")
def head() -> MotionHead:
    torch.manual_seed(0)
    return MotionHead(channels=24, mouth=12, speech=384, questions=3, sync=1).eval()


def inputs(windows: int = 2, frames: int = 75) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return (
        torch.randn(windows, 24, frames, generator=random),
        torch.randn(windows, 384, frames, generator=random),
    )


def test_sound_only_changes_the_answer_about_sync(head):
    motion, speech = inputs()
    own, late = head(motion, speech), head(motion, speech.roll(10, dims=-1))
    assert torch.equal(own[:, [0, 2]], late[:, [0, 2]])
    assert (own[:, 1] - late[:, 1]).abs().min() > 1e-4


def test_where_a_face_rests_and_how_loud_a_room_is_does_not_count(head):
    motion, speech = inputs()
    torch.testing.assert_close(head(motion + 3.0, speech - 2.0), head(motion, speech), rtol=1e-4, atol=1e-4)


def test_a_frozen_face_has_finite_margins(head):
    motion, speech = inputs()
    assert torch.isfinite(head(torch.zeros_like(motion), speech)).all()
    assert torch.isfinite(head(motion[..., :25], torch.zeros_like(speech)[..., :25])).all()


def test_correlation_is_pearsons():
    a, b = torch.randn(4, 3, 50), torch.randn(4, 3, 50)
    expected = [[np.corrcoef(a[i, j], b[i, j])[0, 1] for j in range(3)] for i in range(4)]
    np.testing.assert_allclose(correlation(a, b).numpy(), expected, atol=1e-5)
    assert correlation(torch.ones(1, 1, 9), torch.randn(1, 1, 9)).abs().item() < 1e-3


def test_it_is_read_as_it_was_written(head, tmp_path):
    head.save(tmp_path / HEAD)
    again = MotionHead.load(tmp_path / HEAD)
    assert torch.equal(again(*inputs()), head(*inputs()))


def test_the_packaged_critic_adds_it_to_the_thinkers_margins():
    critic, view = TalkingCritic.load(), TalkingViewer().probe()
    thinker = replace(critic, head=None).margins([view])
    own = critic.head(torch.from_numpy(view.motion_WCF), torch.from_numpy(view.speech_WDF)).double().numpy()
    share = critic.head.thinker_K.double().numpy()
    np.testing.assert_allclose(critic.margins([view]), share * thinker + own, rtol=1e-9)


def test_another_head_is_another_critic(tmp_path):
    for file in (Path(__file__).parents[3] / "ft2ray/assets/critic").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    before = TalkingCritic.load(tmp_path).fingerprint
    other = MotionHead(24, 12, 384, 3, 1)
    assert add_head(tmp_path, other) == TalkingCritic.load(tmp_path).fingerprint != before
    (tmp_path / HEAD).write_bytes((Path(__file__).parents[3] / "ft2ray/assets/critic" / HEAD).read_bytes())
    with pytest.raises(ValueError, match="not those that"):
        TalkingCritic.load(tmp_path)
    assert critic_fingerprint(b"a", {}, dict.fromkeys(("processor", "questions", "scaling")))


def test_the_packaged_critic_hears_sound_that_is_late():
    """Lips that the base moved for some speech, with that speech and with the same half a second late."""
    from ft2ray.generator.portrait.generator import PortraitGenerator
    from ft2ray.generator.settings import SamplerSettings
    from ft2ray.media.audio import SAMPLE_RATE, read_audio
    from ft2ray.media.portrait import load_portrait

    assets = Path(__file__).parents[3] / "ft2ray/assets"
    generator, portrait = PortraitGenerator.load(), load_portrait(assets / "portraits/grace_hopper.jpg")
    wav_T = read_audio(assets / "speech/sense_and_sensibility_0890.flac")[: 3 * SAMPLE_RATE]
    x_CFHW = generator.sample(generator.encode_prompt(portrait, wav_T), 0, SamplerSettings())
    frames_FHW3 = generator.decode(portrait, x_CFHW)
    motion_CF = (x_CFHW * generator.scale_C111)[:, :, 0, 0].numpy()
    mesh_FP3 = generator.codec.basis.decode(motion_CF, portrait.mesh_P3)
    own, late = (
        view_from_meshes(frames_FHW3, mesh_FP3, np.roll(wav_T, shift)) for shift in (0, SAMPLE_RATE // 2)
    )
    margin_NK = TalkingCritic.load().margins([own, late])
    assert margin_NK[0, 1] > margin_NK[1, 1] + 0.5


def test_the_probe_has_motion_and_speech_at_the_rate_of_the_pictures():
    frames_FHW3, mesh_FP3, wav_T = probe_clip()
    view = view_from_meshes(frames_FHW3, mesh_FP3, wav_T)
    assert view.motion_WCF.shape == (1, 24, len(frames_FHW3))
    assert view.speech_WDF.shape == (1, 384, len(frames_FHW3))
