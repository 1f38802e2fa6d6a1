import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ft2ray.errors import MediaError, NonFiniteError
from ft2ray.generator.portrait.codec import PortraitCodec, bridge_gaps

CODEC = PortraitCodec()


@given(st.integers(1, 500))
def test_a_latent_frame_is_a_video_frame(frames):
    assert CODEC.latent_shape(frames) == (CODEC.channels, frames, 1, 1)


def test_mask_marks_the_mouth_and_only_the_mouth():
    x_CFHW = torch.randn(CODEC.latent_shape(7))
    mask_CFHW = CODEC.lip_mask(x_CFHW)
    assert mask_CFHW.shape == x_CFHW.shape and mask_CFHW.dtype == torch.float32
    mouth = CODEC.basis.mouth
    assert (mask_CFHW[mouth] == 1).all()
    assert (mask_CFHW[mouth.stop :] == 0).all()


def test_decoding_makes_frames_of_the_portrait(hopper):
    rest = torch.from_numpy(CODEC.basis.rest_C)[:, None, None, None].repeat(1, 2, 1, 1)
    frames = CODEC.decode(hopper, rest)
    assert frames.shape == (2, 256, 256, 3) and frames.dtype == np.uint8
    assert np.abs(frames[0].astype(int) - hopper.image_HW3).mean() < 0.5
    np.testing.assert_array_equal(frames[0], frames[1])


@pytest.mark.parametrize("shape", [(3, 4, 1, 1), (24, 4), (24, 4, 2, 2)])
def test_foreign_latents_are_refused(hopper, shape):
    with pytest.raises(ValueError, match="another codec"):
        CODEC.decode(hopper, torch.zeros(shape))


def test_a_diverged_latent_is_refused(hopper):
    x_CFHW = torch.zeros(CODEC.latent_shape(2))
    x_CFHW[0, 1] = float("nan")
    with pytest.raises(NonFiniteError, match="diverged"):
        CODEC.decode(hopper, x_CFHW)


def test_motion_is_found_again_in_the_decoded_pixels(hopper):
    t = torch.arange(25) / 25
    x_CFHW = torch.from_numpy(CODEC.basis.rest_C)[:, None, None, None].repeat(1, 25, 1, 1)
    yaw = CODEC.basis.pose.start + 1
    x_CFHW[0, :, 0, 0] -= 1.5 * (1 - torch.cos(2 * np.pi * 3 * t))
    x_CFHW[yaw, :, 0, 0] = 4 * torch.sin(2 * np.pi * t)
    back_CFHW = CODEC.encode_video(CODEC.decode(hopper, x_CFHW))
    assert back_CFHW.shape == x_CFHW.shape and back_CFHW.dtype == torch.float32
    for channel in (0, yaw):
        both = torch.stack([x_CFHW[channel, :, 0, 0], back_CFHW[channel, :, 0, 0]])
        assert torch.corrcoef(both)[0, 1] > 0.85, channel


def test_a_clip_without_a_face_is_named():
    with pytest.raises(MediaError) as caught:
        CODEC.encode_video(np.zeros((4, 128, 128, 3), np.uint8))
    assert caught.value.reason == "no_face"


@settings(deadline=None)
@given(st.integers(2, 40), st.data())
def test_gaps_are_bridged_on_a_line(frames, data):
    line_FP3 = (np.arange(frames)[:, None, None] * np.ones((1, 5, 3))).astype(np.float32)
    lost = data.draw(st.sets(st.integers(0, frames - 1), max_size=frames - 1))
    holed_FP3 = line_FP3.copy()
    holed_FP3[list(lost)] = np.nan
    bridged_FP3 = bridge_gaps(holed_FP3, max_lost_share=1.0)
    found = sorted(set(range(frames)) - lost)
    expected = np.clip(np.arange(frames), found[0], found[-1])  # the ends repeat
    np.testing.assert_allclose(bridged_FP3[:, 0, 0], expected, atol=1e-4)


def test_too_many_gaps_are_refused():
    mesh_FP3 = np.zeros((10, 5, 3), np.float32)
    mesh_FP3[:3] = np.nan
    with pytest.raises(MediaError) as caught:
        bridge_gaps(mesh_FP3)
    assert "7 of 10" in str(caught.value)
