"""Wan at its real size, on shapes alone: parameter counts, published key names, FantasyTalking's windows."""

import re

import pytest
import torch
from diffusers import WanTransformer3DModel
from transformers import Wav2Vec2Config, Wav2Vec2Model

from ft2ray.generator.audio_attention import AudioCrossAttention, CrossContext, audio_windows, window_ranges
from ft2ray.generator.checkpoint import from_fantasytalking
from ft2ray.generator.sampler import guidance_weights, timesteps
from ft2ray.generator.settings import SamplerSettings
from ft2ray.generator.transformer import AudioWanTransformer
from ft2ray.generator.wan.added_audio import AddedAudioTransformer
from ft2ray.media.audio import SAMPLE_RATE
from ft2ray.tlpo.experts import lora_config
from ft2ray.tlpo.gate import TimestepLayerGate
from ft2ray.tlpo.settings import TARGETS, ExpertSettings, GateSettings
from tests.generator.fantasytalking import audio_tensors, to_fantasytalking

I2V_14B = dict(
    patch_size=(1, 2, 2), num_attention_heads=40, attention_head_dim=128, in_channels=36, out_channels=16,
    text_dim=4096, freq_dim=256, ffn_dim=13824, num_layers=40, image_dim=1280, added_kv_proj_dim=5120,
)  # fmt: skip
T2V_1_3B = {
    **I2V_14B, "num_attention_heads": 12, "in_channels": 16, "ffn_dim": 8960, "num_layers": 30,
    "image_dim": None, "added_kv_proj_dim": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def wan_14b() -> AudioWanTransformer:
    with torch.device("meta"):
        return AudioWanTransformer(**I2V_14B)


@pytest.fixture(scope="module")
def added_14b() -> AddedAudioTransformer:
    with torch.device("meta"):
        return AddedAudioTransformer(audio_features=10752, audio_dim=32, **I2V_14B)


def count(tensors: dict[str, torch.Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())


def test_audio_parameters_of_fantasytalking(wan_14b):
    """2048 x 768 + 2 x 2048 of the projection, 40 blocks of two 5120 x 2048."""
    assert count(audio_tensors(wan_14b)) == 840_437_760 == 2048 * 768 + 2 * 2048 + 40 * 2 * 5120 * 2048


def test_all_else_is_wan_as_diffusers_builds_it(wan_14b, added_14b):
    with torch.device("meta"):
        plain = WanTransformer3DModel(**I2V_14B).state_dict()
    assert count(plain) == 16_394_878_784
    for model in (wan_14b, added_14b):
        own, audio = model.state_dict(), model.audio_keys()
        assert {key: own[key].shape for key in own if key not in audio} == {
            key: tensor.shape for key, tensor in plain.items()
        }


def test_published_key_names_both_ways(wan_14b):
    published = to_fantasytalking(wan_14b)
    assert len(published) == 3 + 2 * 40
    assert {key for key in published if key.startswith("proj_model.")} == {
        "proj_model.proj.weight", "proj_model.norm.weight", "proj_model.norm.bias"
    }  # fmt: skip
    assert tuple(published["proj_model.proj.weight"].shape) == (2048, 768)
    for block in range(40):
        for part in ("k_proj", "v_proj"):
            key = f"audio_processor.blocks.{block}.cross_attn.processor.{part}.weight"
            assert tuple(published[key].shape) == (5120, 2048)
    own = audio_tensors(wan_14b)
    assert {k: v.shape for k, v in from_fantasytalking(published).items()} == {
        k: v.shape for k, v in own.items()
    }


@pytest.mark.parametrize(("config", "expert"), [(I2V_14B, 351_272_960), (T2V_1_3B, 115_998_720)])
def test_parameters_of_an_expert_of_rank_128(config, expert):
    """Per block, rank x (inputs + outputs): three of D x D, then D x FFN and FFN x D."""
    with torch.device("meta"):
        model = WanTransformer3DModel(**config)
        width = config["num_attention_heads"] * config["attention_head_dim"]
        model.add_adapter(lora_config(ExpertSettings(rank=128)), "mn")
    lora = {name: p for name, p in model.named_parameters() if ".lora_" in name}
    assert count(lora) == expert
    per_block = 128 * (3 * 2 * width + 2 * (width + config["ffn_dim"]))
    assert expert == config["num_layers"] * per_block
    assert len(lora) == config["num_layers"] * 5 * 2


def test_experts_sit_on_the_same_linears_of_every_backbone(wan_14b, added_14b):
    for model in (wan_14b, added_14b):
        named = [name for name, _ in model.named_modules() if re.fullmatch(TARGETS, name)]
        assert len(named) == 200


def test_gate_parameters():
    assert sum(p.numel() for p in TimestepLayerGate(40, 3, 5120).parameters()) == 614_520
    shared = TimestepLayerGate(40, 3, 5120, GateSettings(shared=True))
    assert sum(p.numel() for p in shared.parameters()) == 3 * 5120 + 40 * 3


def test_parameters_of_the_added_speech(added_14b):
    """OmniAvatar's sizes: four frames of 10,752 features to 32 numbers, 19 projections to the width."""
    own, audio = added_14b.state_dict(), added_14b.audio_keys()
    expected = 4 * 10752 * 32 + 32 + 2 * 32 + 19 * (32 * 5120 + 5120)
    assert count({key: own[key] for key in audio}) == expected == 4_586_592
    blocks = sorted({int(key.split(".")[1]) for key in audio if key.startswith("blocks.")})
    assert blocks == list(range(2, 21))


def test_tokens_of_a_clip_of_512_pixels():
    """81 frames: 21 latent frames of 64 x 64, patches of 2 x 2."""
    assert (1 + (81 - 1) // 4) * (512 // 8 // 2) ** 2 == 21_504


WINDOWS = {  # fps: (tokens of 81 frames, token width, first two windows, valid tokens of every window)
    23: (175, 17, [(-11, 5), (-3, 13)], [6, 14, *[17] * 18, 14]),
    25: (161, 15, [(-9, 5), (-3, 11)], [6, 12, *[15] * 18, 12]),
    16: (252, 21, [(-14, 6), (-2, 18)], [7, 19, *[21] * 18, 18]),
}


@pytest.mark.parametrize("fps", WINDOWS)
def test_windows_of_81_frames_to_the_token(fps):
    """Tokens as wav2vec2-base-960h gives them; ranges by the rule of FantasyTalking's code."""
    expected_tokens, width, first, lengths = WINDOWS[fps]
    samples = round(81 / fps * SAMPLE_RATE)
    with torch.device("meta"):
        encoder = Wav2Vec2Model(Wav2Vec2Config())  # its strides are those of base-960h
    tokens = int(encoder._get_feat_extract_output_lengths(samples))
    assert tokens == expected_tokens
    ranges, windows = window_ranges(tokens, 81, 4), audio_windows(tokens, 81, 4)
    assert len(ranges) == 21 and ranges[:2] == first
    assert {end - start + 1 for start, end in ranges} == {width}
    assert windows.mask_FW.sum(dim=1).tolist() == lengths
    for (start, end), index_W, mask_W in zip(ranges, windows.index_FW, windows.mask_FW, strict=True):
        assert index_W[mask_W].tolist() == list(range(max(start, 0), min(end, tokens - 1) + 1))


def test_windows_equal_the_rule_written_out():
    """paper.md's sentence, latent frame by latent frame, for many lengths."""
    for frames in (5, 21, 41, 81, 161):
        for tokens in range(frames, 4 * frames, 7):
            per_frame = tokens / frames
            half = int(4 * per_frame / 2)
            centre = [None] + [
                int((per_frame * (4 * (i - 1) + 1) + per_frame * (4 * i + 1)) / 2) - 1
                for i in range(1, (frames - 1) // 4 + 1)
            ]
            rows = [(c - half, c + half) for c in centre[1:]]
            rows = [(-(2 * half - rows[0][0]), rows[0][0]), *rows]
            assert window_ranges(tokens, frames, 4) == [(start - 4, end + 4) for start, end in rows]


def test_attention_of_a_clip_against_each_frame_alone_in_float64():
    """81 frames at 23 fps, four tokens a frame: padding beside the windows changes nothing."""
    torch.manual_seed(0)
    heads, width = 4, 32
    layer = AudioCrossAttention(width, 24).double()
    for projection in (layer.k_proj, layer.v_proj):
        torch.nn.init.normal_(projection.weight)
    audio = torch.randn(2, 175, 24, dtype=torch.float64)
    query = torch.randn(2, 21 * 4, heads, width // heads, dtype=torch.float64)
    windows = audio_windows(175, 81, 4)
    out = layer.listen(query, CrossContext(audio, audio_BLA=audio, windows=windows))
    for frame, (start, end) in enumerate(window_ranges(175, 81, 4)):
        heard = audio[:, max(start, 0) : end + 1]  # a slice of the recording, nothing padded
        key = layer.k_proj(heard).unflatten(-1, (heads, -1)).permute(0, 2, 3, 1)
        value = layer.v_proj(heard).unflatten(-1, (heads, -1)).transpose(1, 2)
        own = query[:, 4 * frame : 4 * frame + 4].transpose(1, 2)
        weight = (own @ key / (width // heads) ** 0.5).softmax(-1)
        expected = (weight @ value).transpose(1, 2).flatten(2)
        torch.testing.assert_close(out[:, 4 * frame : 4 * frame + 4], expected, rtol=1e-10, atol=1e-12)
    loud = audio.clone()
    loud[:, 0] = 1e6  # token 0 is what padding points at; the last window must not hear it
    again = layer.listen(query, CrossContext(audio, audio_BLA=loud, windows=windows))
    assert torch.equal(again[:, -4:], out[:, -4:]) and not torch.equal(again[:, :4], out[:, :4])


def test_thirty_steps_with_shift_five_and_three_passes():
    times = timesteps(30, 5.0)
    assert times[0] == 1.0 and times[-1] == 0.0 and len(times) == 31
    assert times[15] == pytest.approx(5 * 0.5 / (1 + 4 * 0.5))
    weights = guidance_weights(SamplerSettings(text_scale=5.0, audio_scale=4.5), has_text=True)
    assert weights == {"null": -4.0, "text": 0.5, "all": 4.5}
