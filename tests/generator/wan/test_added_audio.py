"""Speech that is added to Wan's tokens: packing, where it enters, and plain Wan at the start."""

import pytest
import torch
from diffusers import WanTransformer3DModel

from ft2ray.generator.wan.added_audio import AddedAudioTransformer, AudioPack

TOY = dict(
    patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
    text_dim=8, freq_dim=16, ffn_dim=32, num_layers=6, rope_max_seq_len=64,
)  # fmt: skip
I2V = {**TOY, "in_channels": 36, "out_channels": 16, "image_dim": 10, "added_kv_proj_dim": 24}


def toy(trained: bool = False, **config) -> AddedAudioTransformer:
    torch.manual_seed(0)
    model = AddedAudioTransformer(audio_features=6, audio_dim=5, **{**TOY, **config}).eval()
    if trained:
        for name, parameter in model.named_parameters():
            if ".audio_add." in name:
                torch.nn.init.normal_(parameter, std=0.5)
    return model


def inputs(model: AddedAudioTransformer, latent_frames: int = 3, text: int = 5) -> dict:
    torch.manual_seed(1)
    values = dict(
        hidden_states=torch.randn(2, model.config.in_channels, latent_frames, 4, 4),
        timestep=torch.tensor([100.0, 700.0]),
        encoder_hidden_states=torch.randn(2, text, 8),
        audio=torch.randn(2, 2 * (4 * latent_frames - 3), 6),
        return_dict=False,
    )
    if model.config.image_dim:
        values["encoder_hidden_states_image"] = torch.randn(2, 7, model.config.image_dim)
    return values


@pytest.mark.parametrize("config", [TOY, I2V], ids=["t2v", "i2v"])
def test_projections_at_zero_are_plain_wan_to_the_bit(config):
    model = toy(**config)
    plain = WanTransformer3DModel(**config).eval()
    missing, unexpected = plain.load_state_dict(model.state_dict(), strict=False)
    assert not missing and set(unexpected) == model.audio_keys()
    values = inputs(model, text=512)
    with torch.no_grad():
        with_audio = model(**values)[0]
        values.pop("audio")
        assert torch.equal(with_audio, plain(**values)[0])


def test_speech_enters_the_first_half_but_not_the_first_two_blocks():
    model = toy()
    assert [block.audio_add is not None for block in model.blocks] == [False, False, True, True, False, False]


def test_scale_per_sample_and_none():
    model = toy(trained=True)
    values = inputs(model)
    with torch.no_grad():
        loud = model(**values)[0]
        mixed = model(**values, audio_scale=torch.tensor([0.0, 1.0]))[0]
        silent = model(**{**values, "audio": None})[0]
    torch.testing.assert_close(mixed[0], silent[0])
    torch.testing.assert_close(mixed[1], loud[1])
    assert (loud - silent).abs().max() > 1e-3


def test_pack_takes_the_first_frame_alone_and_then_four_at_a_time():
    """Against a frame by frame reference; one token per video frame, so nothing is interpolated."""
    torch.manual_seed(0)
    pack = AudioPack(6, 4, 5)
    feat = torch.randn(1, 9, 6)
    rows = [[0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8]]
    expected = torch.stack([pack.norm_out(pack.proj(feat[0, row].flatten())) for row in rows])
    torch.testing.assert_close(pack(feat, 3)[0], expected)


def test_what_is_added_belongs_to_its_own_latent_frame():
    """The input of block 2, before tokens of different frames meet, moves only where the speech moved."""
    model = toy(trained=True)
    values = inputs(model)
    seen = []
    model.blocks[2].norm1.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    changed = values["audio"].clone()
    changed[:, -2:] += 1.0  # the last video frame
    with torch.no_grad():
        model(**values)
        model(**{**values, "audio": changed})
    moved = (seen[0] - seen[1]).unflatten(1, (3, 4)).abs().amax(dim=(0, 2, 3))
    assert moved[0] == 0 and moved[1] == 0 and moved[2] > 0.1


def test_gradient_checkpointing_gives_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        model = toy(trained=True).train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        model(**inputs(model))[0].square().mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_audio_that_does_not_fit_is_refused():
    model = toy()
    with pytest.raises(ValueError, match="audio must be"):
        model(**{**inputs(model), "audio": torch.zeros(2, 18, 7)})
