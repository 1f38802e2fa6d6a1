"""Weights on disk: nothing missing, nothing unknown, FantasyTalking's audio layout both ways."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from ft2ray.generator.checkpoint import (
    from_fantasytalking,
    load_transformer,
    read_config,
    save_generator,
)
from ft2ray.generator.transformer import AudioWanTransformer
from tests.generator.fantasytalking import load_fantasytalking, to_fantasytalking

TOY = dict(
    patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=36, out_channels=16,
    text_dim=8, freq_dim=16, ffn_dim=32, num_layers=2, image_dim=10, added_kv_proj_dim=24,
    rope_max_seq_len=32, audio_features=12, audio_dim=20,
)  # fmt: skip


def toy(seed: int = 0) -> AudioWanTransformer:
    torch.manual_seed(seed)
    return AudioWanTransformer(**TOY)


def official(seed: int = 3) -> dict[str, torch.Tensor]:
    """FantasyTalking's released keys, at toy width."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "proj_model.proj.weight": (20, 12),
        "proj_model.norm.weight": (20,),
        "proj_model.norm.bias": (20,),
    }
    for block in range(2):
        for part in ("k_proj", "v_proj"):
            shapes[f"audio_processor.blocks.{block}.cross_attn.processor.{part}.weight"] = (24, 20)
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


@pytest.fixture
def folder(tmp_path):
    save_generator(tmp_path, toy(), "portrait", [1.0] * 16)
    return tmp_path


def test_what_is_written_is_read(folder):
    again = load_transformer(folder)
    assert not again.training
    for (name, a), (other, b) in zip(toy().state_dict().items(), again.state_dict().items(), strict=True):
        assert name == other and torch.equal(a, b)
    assert read_config(folder)["latent_scale"] == [1.0] * 16


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.pop("blocks.1.ffn.net.2.bias"), "missing blocks.1.ffn.net.2.bias"),
        (lambda t: t.update(extra=torch.zeros(2)), "unknown extra"),
        (lambda t: t.update({"proj_out.bias": torch.zeros(3)}), r"proj_out.bias has shape \[3\]"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(folder, spoil, message):
    tensors = load_file(folder / "model.safetensors")
    spoil(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        load_transformer(folder)


def test_damaged_and_absent_files(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged"):
        load_transformer(folder)
    path.unlink()
    with pytest.raises(ValueError, match="no file"):
        load_transformer(folder)
    with pytest.raises(ValueError, match="give a folder"):
        load_transformer(folder / "nowhere")


def test_unknown_architecture_keys_are_refused(folder):
    config = read_config(folder)
    config["transformer"]["num_heads"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="num_heads"):
        load_transformer(folder)


@pytest.mark.parametrize("layout", ["flattened safetensors", "nested pickle"])
def test_fantasytalking_weights_land_where_they_belong(layout):
    tensors = official()
    given = tensors
    if layout == "nested pickle":
        given = {
            part: {
                key.removeprefix(part + "."): value for key, value in tensors.items() if key.startswith(part)
            }
            for part in ("proj_model", "audio_processor")
        }
    transformer = toy()
    before = {key: value.clone() for key, value in transformer.state_dict().items()}
    load_fantasytalking(transformer, given)
    after = transformer.state_dict()
    assert torch.equal(after["audio_proj.proj.weight"], tensors["proj_model.proj.weight"])
    key = "audio_processor.blocks.1.cross_attn.processor.v_proj.weight"
    assert torch.equal(after["blocks.1.attn2.processor.v_proj.weight"], tensors[key])
    changed = {key for key in after if not torch.equal(before[key], after[key])}
    assert len(changed) == len(tensors) and changed == set(from_fantasytalking(given))


def test_fantasytalking_layout_both_ways():
    transformer = toy()
    load_fantasytalking(transformer, official())
    back = to_fantasytalking(transformer)
    assert back.keys() == official().keys()
    assert all(torch.equal(back[key], value) for key, value in official().items())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.update({"audio_processor.blocks.0.self_attn.q": torch.zeros(1)}), "unknown key"),
        (lambda t: t.pop("proj_model.norm.bias"), "missing audio_proj.norm.bias"),
        (
            lambda t: t.update(
                {"audio_processor.blocks.7.cross_attn.processor.k_proj.weight": torch.zeros(24, 20)}
            ),
            "unknown blocks.7",
        ),
    ],
)
def test_other_audio_checkpoints_are_refused(spoil, message):
    tensors = official()
    spoil(tensors)
    with pytest.raises(ValueError, match=message):
        load_fantasytalking(toy(), tensors)
