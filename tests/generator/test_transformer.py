"""The audio-driven Wan transformer at toy width."""

import pytest
import torch
from diffusers import WanTransformer3DModel
from peft import LoraConfig

from ft2ray.generator.transformer import AudioWanTransformer

TOY = dict(
    patch_size=(1, 2, 2),
    num_attention_heads=2,
    attention_head_dim=12,
    in_channels=4,
    out_channels=4,
    text_dim=8,
    freq_dim=16,
    ffn_dim=32,
    num_layers=2,
    rope_max_seq_len=64,
)
I2V = {**TOY, "in_channels": 36, "out_channels": 16, "image_dim": 10, "added_kv_proj_dim": 24}
AUDIO = dict(audio_features=6, audio_dim=8)


def toy(seed: int = 0, trained_audio: bool = False, **config) -> AudioWanTransformer:
    torch.manual_seed(seed)
    model = AudioWanTransformer(**{**TOY, **AUDIO, **config}).eval()
    if trained_audio:
        for name, parameter in model.named_parameters():
            if ".processor." in name:
                torch.nn.init.normal_(parameter, std=0.5)
    return model


def inputs(model: AudioWanTransformer, batch: int = 2, latent_frames: int = 3, text: int = 5) -> dict:
    torch.manual_seed(1)
    frames = model.config.audio_stride * (latent_frames - 1) + 1
    values = dict(
        hidden_states=torch.randn(batch, model.config.in_channels, latent_frames, 4, 4),
        timestep=torch.tensor([100.0, 700.0])[:batch],
        encoder_hidden_states=torch.randn(batch, text, 8),
        audio=torch.randn(batch, 2 * frames, 6),
        return_dict=False,
    )
    if model.config.image_dim:
        values["encoder_hidden_states_image"] = torch.randn(batch, 7, model.config.image_dim)
    return values


@pytest.mark.parametrize("config", [TOY, I2V], ids=["t2v", "i2v with 36 channels and image tokens"])
def test_zero_initialised_audio_is_plain_wan_to_the_bit(config):
    model = toy(**config)
    plain = WanTransformer3DModel(**config).eval()
    missing, unexpected = plain.load_state_dict(model.state_dict(), strict=False)
    assert not missing and all("audio" in key or "processor" in key for key in unexpected)
    values = inputs(model, text=512)  # diffusers' own processor takes the last 512 tokens for the text
    with torch.no_grad():
        with_audio = model(**values)[0]
        values.pop("audio")
        assert torch.equal(with_audio, plain(**values)[0])
        assert torch.equal(with_audio, model(**values)[0])


def test_audio_scale_per_sample():
    """Scale 0 is the pass without audio, and the scales of one batch do not touch each other."""
    model = toy(trained_audio=True)
    values = inputs(model)
    with torch.no_grad():
        loud = model(**values, audio_scale=1.0)[0]
        mixed = model(**values, audio_scale=torch.tensor([0.0, 1.0]))[0]
        silent = model(**{**values, "audio": None})[0]
    torch.testing.assert_close(mixed[0], silent[0])
    torch.testing.assert_close(mixed[1], loud[1])
    assert (loud - silent).abs().max() > 1e-3


def test_no_state_is_left_between_calls():
    model = toy(trained_audio=True)
    values = inputs(model)
    with torch.no_grad():
        first = model(**values)[0]
        model(**inputs(model, batch=1, latent_frames=5))
        model(**{**values, "audio": values["audio"] + 1, "audio_scale": 3.0})
        assert torch.equal(first, model(**values)[0])


def test_gradient_checkpointing_gives_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        model = toy(trained_audio=True, audio_stride=1, audio_places=11).train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        model(**inputs(model))[0].square().mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert gradient is not None and torch.equal(gradient, gradients[1][name]), name


def test_lora_adapters_hang_on_it():
    model = toy(trained_audio=True)
    values = inputs(model)
    targets = ["attn1.to_q", "attn1.to_k", "attn1.to_v", "ffn.net.0.proj", "ffn.net.2"]
    with torch.no_grad():
        base = model(**values)[0]
        model.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False), "mn")
        adapted = model(**values)[0]
        model.disable_adapters()
        assert torch.equal(base, model(**values)[0])
    assert not torch.equal(base, adapted)
    assert sum("lora_A" in name for name, _ in model.named_parameters()) == 2 * len(targets)


def test_timestep_embedding_is_the_one_the_blocks_see():
    model = toy()
    seen = []
    model.condition_embedder.register_forward_hook(lambda module, args, out: seen.append(out[0]))
    values = inputs(model)
    with torch.no_grad():
        model(**values)
        tau_BD = model.timestep_embedding(values["timestep"])
    assert tau_BD.shape == (2, 24) and torch.equal(tau_BD, seen[0])


def test_places_tell_early_from_late():
    """Without places a window is a bag of tokens: swapping two of them changes nothing there."""
    for places in (None, 3):
        model = toy(trained_audio=True, audio_stride=1, audio_margin=0, audio_places=places)
        if places:
            torch.nn.init.normal_(model.audio_place)
        values = inputs(model, latent_frames=2)
        swapped = values["audio"].clone()
        swapped[:, [1, 3]] = values["audio"][:, [3, 1]]  # the second frame's window is tokens 1, 2, 3
        with torch.no_grad():
            difference = (model(**values)[0] - model(**{**values, "audio": swapped})[0])[:, :, 1].abs().max()
        assert (difference > 1e-3) or places is None


@pytest.mark.parametrize(
    ("audio", "message"),
    [
        (torch.zeros(2, 18, 5), "audio must be"),
        (torch.zeros(1, 18, 6), "audio must be"),
        (torch.zeros(18, 6), "audio"),
    ],
)
def test_audio_that_does_not_fit_is_refused(audio, message):
    model = toy()
    with pytest.raises(ValueError, match=message):
        model(**{**inputs(model), "audio": audio})


def test_audio_of_another_length_is_refused_where_places_are_learnt():
    model = toy(audio_stride=1, audio_places=11)
    with pytest.raises(ValueError, match="exactly these frames"):
        model(**{**inputs(model), "audio": torch.zeros(2, 60, 6)})


def test_save_and_load(tmp_path):
    model = toy(trained_audio=True, audio_stride=1, audio_places=11)
    model.save_pretrained(tmp_path)
    again = AudioWanTransformer.from_pretrained(tmp_path).eval()
    values = inputs(model)
    with torch.no_grad():
        assert torch.equal(model(**values)[0], again(**values)[0])
