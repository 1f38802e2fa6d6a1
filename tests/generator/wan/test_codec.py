"""The Wan codec at toy width: 9 frames of 64 pixels."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan

from ft2ray.generator.wan.codec import WanCodec, lip_pixels, to_latent_grid
from ft2ray.media.face import LIPS_OUTER, POINTS


@pytest.fixture(scope="module")
def codec() -> WanCodec:
    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    return WanCodec(vae, 64)


def film(frames: int = 9, size: int = 64) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (frames, size, size, 3), dtype=np.uint8)


def test_shapes_there_and_back(codec):
    x_CFHW = codec.encode_video(film())
    assert tuple(x_CFHW.shape) == codec.latent_shape(9) == (16, 3, 8, 8)
    assert x_CFHW.dtype == torch.float32
    decoded = codec.decode_frames(x_CFHW)
    assert decoded.shape == (9, 64, 64, 3) and decoded.dtype == np.uint8


def test_latents_are_normalised_as_in_wan(codec):
    video = torch.from_numpy(film()).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.no_grad():
        z = codec.vae.encode(video).latent_dist.mode()[0]
    mean = torch.tensor(codec.vae.config.latents_mean)[:, None, None, None]
    std = torch.tensor(codec.vae.config.latents_std)[:, None, None, None]
    torch.testing.assert_close(codec.encode_video(film()), (z - mean) / std)


def test_the_first_latent_frame_sees_the_first_picture_only(codec):
    changed = film()
    changed[1:] = 255 - changed[1:]
    before, after = codec.encode_video(film()), codec.encode_video(changed)
    torch.testing.assert_close(before[:, 0], after[:, 0])
    assert not torch.allclose(before[:, 1:], after[:, 1:])


def test_wrong_sizes_are_refused(codec):
    with pytest.raises(ValueError, match="4 \\* n \\+ 1"):
        codec.latent_shape(8)
    with pytest.raises(ValueError, match="frames must be"):
        codec.encode_video(film(size=32))
    with pytest.raises(ValueError, match="multiple of 8"):
        WanCodec(codec.vae, 60)


def face_with_lips_at(x: float, y: float) -> np.ndarray:
    mesh_P3 = np.zeros((POINTS, 3), np.float32)
    angle = np.linspace(0, 2 * np.pi, len(LIPS_OUTER), endpoint=False)
    mesh_P3[list(LIPS_OUTER), 0] = x + 8 * np.cos(angle)
    mesh_P3[list(LIPS_OUTER), 1] = y + 4 * np.sin(angle)
    return mesh_P3


def test_lip_mask_follows_the_lips_on_the_latent_grid():
    mesh_FP3 = np.stack([face_with_lips_at(20, 40)] * 5 + [face_with_lips_at(44, 40)] * 4)
    mask_FHW = to_latent_grid(lip_pixels(mesh_FP3, 64), (3, 8, 8))
    assert mask_FHW.shape == (3, 8, 8) and mask_FHW.min() >= 0 and mask_FHW.max() <= 1
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    for frame, x in ((0, 20), (2, 44)):
        mass = mask_FHW[frame] / mask_FHW[frame].sum()
        assert abs(float((mass * columns).sum()) * 8 + 3.5 - x) < 2
        assert abs(float((mass * rows).sum()) * 8 + 3.5 - 40) < 2


def test_lip_mask_of_a_video_without_a_face_is_an_error(codec):
    with pytest.raises(ValueError, match="face"):
        codec.lip_mask(codec.encode_video(film()))
