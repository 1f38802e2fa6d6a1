"""The generator: from portrait and speech to frames."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from ft2ray.errors import WeightsError
from ft2ray.generator.checkpoint import save_generator
from ft2ray.generator.portrait.generator import PortraitGenerator
from ft2ray.generator.portrait.motion import MotionBasis
from ft2ray.generator.sampler import Conditions
from ft2ray.generator.settings import SamplerSettings
from ft2ray.generator.transformer import AudioWanTransformer
from ft2ray.media.audio import SAMPLE_RATE, read_audio
from ft2ray.media.face import mouth_gap
from ft2ray.media.speech import speech_tokens
from tests.conftest import ASSETS

FAST = SamplerSettings(steps=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny generator with random weights."""
    torch.manual_seed(0)
    channels = MotionBasis.load().channels
    transformer = AudioWanTransformer(
        patch_size=(1, 1, 1), num_attention_heads=2, attention_head_dim=12, in_channels=channels,
        out_channels=channels, text_dim=4, freq_dim=16, ffn_dim=32, num_layers=2, audio_features=384,
        audio_dim=16, audio_stride=1, audio_margin=4, audio_places=11,
    )  # fmt: skip
    for name, parameter in transformer.named_parameters():
        if ".processor." in name:
            torch.nn.init.normal_(parameter, std=0.5)
    folder = tmp_path_factory.mktemp("generator")
    save_generator(folder, transformer, "portrait", [2.0] * channels, [0.5] * channels)
    return folder


@pytest.fixture(scope="module")
def tiny(folder) -> PortraitGenerator:
    return PortraitGenerator.load(folder)


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    path = sorted((ASSETS / "speech").glob("*.flac"))[0]
    return read_audio(path)[: 2 * SAMPLE_RATE]


def test_speech_tokens_are_two_per_frame():
    for samples, frames in ((640, 1), (960, 2), (32000, 50), (31990, 50)):
        encoder = lambda wav_T: np.ones((len(wav_T) // 320, 3), np.float32)  # noqa: E731
        assert speech_tokens(np.zeros(samples, np.float32), encoder).shape == (2 * frames, 3)
    with pytest.raises(ValueError, match="less than one video frame"):
        speech_tokens(np.zeros(100, np.float32), lambda wav_T: np.zeros((0, 3)))


def test_from_prompt_to_frames(tiny, hopper, speech):
    cond = tiny.encode_prompt(hopper, speech)
    assert cond.frames == 50 and cond.audio_LD.shape == (100, 384) and cond.text_LD is None
    x_CFHW = tiny.sample(cond, 5, FAST)
    assert tuple(x_CFHW.shape) == tiny.codec.latent_shape(50)
    assert torch.equal(x_CFHW, tiny.sample(cond, 5, FAST))
    frames_FHW3 = tiny.decode(hopper, x_CFHW[:, :3])
    assert frames_FHW3.shape == (3, *hopper.image_HW3.shape) and frames_FHW3.dtype == np.uint8


def test_latents_are_the_codecs_numbers_divided_by_the_scale(tiny, hopper):
    x_CFHW = torch.randn(tiny.codec.latent_shape(2)) * 0.2
    assert np.array_equal(tiny.decode(hopper, x_CFHW), tiny.codec.decode(hopper, 2.0 * x_CFHW))


def test_the_weights_of_the_channels_come_with_the_weights(tiny, folder, tmp_path):
    assert tiny.channel_weights.tolist() == [0.5] * tiny.codec.channels
    config = json.loads((folder / "config.json").read_text())
    without = PortraitGenerator(tiny.transformer, tiny.codec, config["latent_scale"], "f")
    assert without.channel_weights is None
    for weights, message in (([1.0], "1 channel weights for"), ([0.0] * tiny.codec.channels, "above 0")):
        with pytest.raises(WeightsError, match=message):
            PortraitGenerator(tiny.transformer, tiny.codec, config["latent_scale"], "f", weights)


def test_lip_mask_is_the_mouth_channels(tiny):
    mask = tiny.lip_mask(torch.zeros(tiny.codec.latent_shape(4)))
    mouth = MotionBasis.load().mouth
    assert mask[mouth].min() == 1 and mask.sum() == mask[mouth].numel()


def test_without_sound_the_velocity_is_that_of_the_null_pass(tiny):
    """What condition dropout trains is what guidance samples: v0 + s (v - v0)."""
    g = torch.Generator().manual_seed(0)
    cond = Conditions(None, torch.randn(24, 384, generator=g), 12)
    x, t = torch.randn(1, *tiny.codec.latent_shape(12), generator=g), torch.tensor([1.0])
    v, v0 = (tiny.velocity(x, t, [replace(cond, part=part)])[0] for part in ("all", "text"))
    other = replace(cond, audio_LD=-cond.audio_LD)
    assert torch.equal(tiny.velocity(x, t, [replace(other, part="text")])[0], v0)
    assert not torch.allclose(tiny.velocity(x, t, [other])[0], v)
    one_step = SamplerSettings(steps=1, audio_scale=3.0)
    noise = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(7))
    v, v0 = (tiny.velocity(noise[None], t, [replace(cond, part=part)])[0] for part in ("all", "text"))
    torch.testing.assert_close(
        tiny.sample(cond, 7, one_step), noise - (v0 + 3 * (v - v0)), atol=1e-4, rtol=1e-3
    )


def test_velocity_of_a_batch_is_that_of_each_sample(tiny):
    generator = torch.Generator().manual_seed(0)
    conds = [Conditions(None, torch.randn(24, 384, generator=generator), 12) for _ in range(3)]
    x = torch.randn(3, *tiny.codec.latent_shape(12), generator=generator, requires_grad=True)
    t = torch.tensor([0.2, 0.5, 0.9])
    v = tiny.velocity(x, t, conds)
    assert v.requires_grad
    for i in range(3):
        torch.testing.assert_close(v[i], tiny.velocity(x[i : i + 1], t[i : i + 1], conds[i : i + 1])[0])
    assert not torch.allclose(v[0], tiny.velocity(x[:1], t[:1], conds[1:2])[0])


def test_the_base_is_frozen(tiny):
    assert not any(parameter.requires_grad for parameter in tiny.transformer.parameters())


def test_fingerprint_tells_weights_and_settings_apart(folder, tiny, tmp_path):
    assert PortraitGenerator.load(folder).fingerprint == tiny.fingerprint and len(tiny.fingerprint) == 16
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((folder / file).read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["latent_scale"][0] = 1.5
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert PortraitGenerator.load(tmp_path).fingerprint != tiny.fingerprint


def test_folders_that_hold_no_generator(folder, tmp_path):
    with pytest.raises(ValueError, match="give a folder"):
        PortraitGenerator.load(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "codec": "mpeg"}))
    with pytest.raises(ValueError, match="codec 'mpeg'"):
        PortraitGenerator.load(tmp_path)


def test_the_embedded_generator_moves_the_mouth_with_speech_and_rests_in_silence(hopper, speech):
    generator, config = PortraitGenerator.load(), SamplerSettings(steps=10, audio_scale=2.0)
    opening = {}
    for name, wav_T in (("speech", speech), ("silence", np.zeros_like(speech))):
        x_CFHW = generator.sample(generator.encode_prompt(hopper, wav_T), 0, config)
        mesh_FP3 = generator.codec.decode_mesh(hopper, x_CFHW * generator.scale_C111)
        opening[name] = mouth_gap(mesh_FP3)
    assert opening["silence"].max() < 0.02 < 0.04 < opening["speech"].max()
    assert opening["speech"].std() > 5 * opening["silence"].std()


def test_two_bases_are_packaged_with_one_architecture():
    curated, uncurated = (PortraitGenerator.load(name) for name in ("embedded", "embedded-uncurated"))
    assert curated.fingerprint != uncurated.fingerprint
    assert PortraitGenerator.fingerprint_of("embedded-uncurated") == uncurated.fingerprint
    assert dict(curated.transformer.config) == dict(uncurated.transformer.config)


def test_regions_of_the_loss_are_channels_and_lids_belong_to_the_head():
    generator = PortraitGenerator.load()
    basis, regions = generator.codec.basis, generator.regions
    assert set(regions) == {"head", "shape"}
    assert not (regions["head"] * regions["shape"]).any()
    assert regions["head"][basis.lid] == 1 and regions["head"][basis.pose].all()
    assert regions["head"][basis.mouth].sum() == 0 < regions["shape"][basis.mouth].sum()
