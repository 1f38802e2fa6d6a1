"""Bad input for every loader of the Wan generator: one sentence, nothing executed, nothing half-loaded."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from ft2ray.generator.checkpoint import from_fantasytalking, read_audio_weights
from ft2ray.generator.transformer import AudioWanTransformer
from ft2ray.generator.wan.encoders import Wav2Vec2Features
from ft2ray.generator.wan.folder import load_backbone
from ft2ray.generator.wan.generator import WanGenerator
from ft2ray.loaders import load_generator
from ft2ray.weights import find, tensor_shapes
from tests.generator.conftest import AUDIO_DIM, SPEECH, fantasytalking_weights, write_settings

SHARD = "wan/transformer/diffusion_pytorch_model-00002-of-00003.safetensors"


@pytest.fixture
def weights(wan_weights, tmp_path) -> Path:
    """An own copy of the toy weights, to be spoilt, with a generator folder "toy"."""
    for part in ("wan", "wav2vec2"):
        shutil.copytree(wan_weights / part, tmp_path / part)
    shutil.copy(wan_weights / "audio.safetensors", tmp_path)
    write_settings(tmp_path / "toy")
    return tmp_path


def edit_json(path: Path, change: Callable[[dict], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def edit_tensors(path: Path, change: Callable[[dict], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def first_key(tensors: dict) -> str:
    return sorted(tensors)[0]


BAD = {
    "no such pipeline folder": (
        lambda w: write_settings(w / "toy", pipeline="../nothing/here/at/all"),
        "pipeline ../nothing/here/at/all is neither a folder",
    ),
    "a hub name that cannot be had": (
        lambda w: write_settings(w / "toy", pipeline="nobody/no-such-wan"),
        "hub does not give it .*download it and give its path",
    ),
    "a folder of something else": (
        lambda w: write_settings(w / "toy", pipeline="../wav2vec2"),
        "is not a Wan2.1 pipeline in diffusers' layout",
    ),
    "another pipeline": (
        lambda w: edit_json(w / "wan/model_index.json", lambda v: v.update(_class_name="FluxPipeline")),
        "is a FluxPipeline; give one of WanImageToVideoPipeline",
    ),
    "Wan2.2": (
        lambda w: edit_json(
            w / "wan/model_index.json",
            lambda v: v.update(transformer_2=["diffusers", "WanTransformer3DModel"]),
        ),
        "two transformers .Wan2.2.",
    ),
    "half a download": (lambda w: shutil.rmtree(w / "wan/vae"), "lacks vae; the download is incomplete"),
    "another transformer": (
        lambda w: edit_json(w / "wan/transformer/config.json", lambda v: v.update(_class_name="UNet")),
        "holds a UNet, not a WanTransformer3DModel",
    ),
    "an unknown key of the architecture": (
        lambda w: edit_json(w / "wan/transformer/config.json", lambda v: v.update(num_experts=2)),
        "unknown keys num_experts",
    ),
    "a missing shard": (lambda w: (w / SHARD).unlink(), "lacks diffusion_pytorch_model-00002-of-00003"),
    "a truncated shard": (lambda w: truncate(w / SHARD), "00002-of-00003.safetensors is damaged"),
    "a shard without a tensor": (
        lambda w: edit_tensors(w / SHARD, lambda t: t.pop(first_key(t))),
        r"does not fit the model: missing blocks\.",
    ),
    "a shard with a tensor too many": (
        lambda w: edit_tensors(w / SHARD, lambda t: t.update(extra=torch.zeros(2))),
        "unknown extra",
    ),
    "dimensions that do not match": (
        lambda w: edit_json(w / "wan/transformer/config.json", lambda v: v.update(ffn_dim=64)),
        r"ffn.net.0.proj.weight has shape \[32, 24\], the model wants \[64, 24\]",
    ),
    "a config that is no JSON": (
        lambda w: (w / "wan/transformer/config.json").write_text("{"),
        "transformer/config.json is not valid JSON",
    ),
    "only pickled weights": (
        lambda w: (w / "wan/vae/diffusion_pytorch_model.safetensors").rename(
            w / "wan/vae/diffusion_pytorch_model.bin"
        ),
        "wan/vae cannot be read as AutoencoderKLWan",
    ),
    "a truncated VAE": (
        lambda w: truncate(w / "wan/vae/diffusion_pytorch_model.safetensors"),
        "wan/vae cannot be read as AutoencoderKLWan",
    ),
    "a VAE of another width": (
        lambda w: edit_json(w / "wan/vae/config.json", lambda v: v.update(base_dim=16)),
        "wan/vae cannot be read as AutoencoderKLWan",
    ),
    "a VAE without a tensor": (
        lambda w: edit_tensors(
            w / "wan/vae/diffusion_pytorch_model.safetensors", lambda t: t.pop(first_key(t))
        ),
        "wan/vae .*AutoencoderKLWan: .*decoder.conv_in.bias",
    ),
    "a truncated text encoder": (
        lambda w: truncate(w / "wan/text_encoder/model.safetensors"),
        "text_encoder cannot be read as UMT5EncoderModel",
    ),
    "a text encoder without a tensor": (
        lambda w: edit_tensors(w / "wan/text_encoder/model.safetensors", lambda t: t.pop(first_key(t))),
        "text_encoder does not fit UMT5EncoderModel: missing encoder.block.0",
    ),
    "a text encoder of another width": (
        lambda w: edit_json(w / "wan/text_encoder/config.json", lambda v: v.update(d_model=32)),
        "text_encoder .*UMT5EncoderModel",
    ),
    "no tokenizer": (
        lambda w: (w / "wan/tokenizer/tokenizer.json").unlink(),
        "tokenizer cannot be read as AutoTokenizer",
    ),
    "a truncated image encoder": (
        lambda w: truncate(w / "wan/image_encoder/model.safetensors"),
        "image_encoder cannot be read as CLIPVisionModel",
    ),
    "no image encoder": (lambda w: shutil.rmtree(w / "wan/image_encoder"), "image_encoder cannot be read"),
    "no speech encoder": (lambda w: shutil.rmtree(w / "wav2vec2"), "speech ../wav2vec2 is neither"),
    "a truncated speech encoder": (
        lambda w: truncate(w / "wav2vec2/model.safetensors"),
        "wav2vec2 cannot be read as Wav2Vec2Model",
    ),
    "no audio weights": (lambda w: (w / "audio.safetensors").unlink(), "audio.safetensors is neither"),
    "truncated audio weights": (
        lambda w: truncate(w / "audio.safetensors"),
        "audio.safetensors is damaged",
    ),
    "audio weights of a wider model": (
        lambda w: save_file(fantasytalking_weights(width=48), w / "audio.safetensors"),
        r"audio checkpoint does not fit the model: blocks.0.attn2.processor.k_proj.weight has shape "
        r"\[48, 20\], the model wants \[24, 20\]",
    ),
    "audio weights of a deeper model": (
        lambda w: save_file(fantasytalking_weights(blocks=7), w / "audio.safetensors"),
        "audio checkpoint does not fit the model: unknown blocks.6",
    ),
    "audio weights without a tensor": (
        lambda w: edit_tensors(w / "audio.safetensors", lambda t: t.pop("proj_model.norm.bias")),
        "audio checkpoint does not fit the model: missing audio_proj.norm.bias",
    ),
    "a LoRA for audio weights": (
        lambda w: save_file({"blocks.0.attn1.to_q.lora_A.weight": torch.zeros(1)}, w / "audio.safetensors"),
        "FantasyTalking's audio weights: unknown key blocks.0.attn1.to_q.lora_A.weight",
    ),
    "an unknown setting": (
        lambda w: write_settings(w / "toy", frame=9),
        "unknown key frame; known: frames",
    ),
    "a setting of the wrong type": (
        lambda w: write_settings(w / "toy", fps="fast"), "fps cannot be 'fast'"
    ),
    "a conditioning that there is not": (
        lambda w: write_settings(w / "toy", conditioning="magic"),
        "conditioning must be attention or added",
    ),
    "frames that fill no latent frame": (lambda w: write_settings(w / "toy", frames=10), "4 . n . 1"),
    "a size beside the grid": (lambda w: write_settings(w / "toy", size=130), "not a multiple of"),
    "settings without weights": (
        lambda w: edit_json(w / "toy/config.json", lambda v: v.pop("pipeline")), "lacks pipeline"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence(case, weights):
    spoil, message = BAD[case]
    spoil(weights)
    with pytest.raises(ValueError, match=message) as caught:
        WanGenerator.load(weights / "toy")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


class Bomb:
    """A pickle that runs a command when it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("zipped", [False, True], ids=["plain pickle", "torch.save"])
def test_a_pickle_with_code_is_refused_and_not_run(zipped, weights):
    content = {"proj_model": {"proj.weight": torch.zeros(2)}, "bomb": Bomb(weights / "ran")}
    if zipped:
        torch.save(content, weights / "audio.ckpt")
    else:
        (weights / "audio.ckpt").write_bytes(pickle.dumps(content))
    write_settings(weights / "toy", audio="../audio.ckpt")
    with pytest.raises(ValueError, match="not a pickle of plain tensors; nothing in it was run"):
        WanGenerator.load(weights / "toy")
    assert not (weights / "ran").exists()


def nested(tensors: dict) -> dict:
    """FantasyTalking's own layout: two dicts in one pickle."""
    return {
        part: {k.removeprefix(part + "."): v for k, v in tensors.items() if k.startswith(part)}
        for part in ("proj_model", "audio_processor")
    }


def test_both_published_layouts_give_the_same_generator(weights, wan, hopper):
    torch.save(nested(fantasytalking_weights()), weights / "audio.ckpt")
    other = load_generator(str(write_settings(weights / "toy", audio="../audio.ckpt")))
    for (name, a), (again, b) in zip(
        wan.transformer.state_dict().items(), other.transformer.state_dict().items(), strict=True
    ):
        assert name == again and torch.equal(a, b)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(2)], "holds a list, not a dict"),
        ({"proj_model": {"proj.weight": "text"}}, "audio_proj.proj.weight is a str, not a tensor"),
        ({3: torch.zeros(1)}, "unknown key 3"),
    ],
)
def test_pickles_of_something_else(content, message, tmp_path):
    torch.save(content, tmp_path / "audio.pt")
    with pytest.raises(ValueError, match=message):
        from_fantasytalking(read_audio_weights(tmp_path / "audio.pt"))


@pytest.mark.parametrize("size", [0, 100, 3000])
def test_a_truncated_pickle(size, tmp_path):
    torch.save(nested(fantasytalking_weights()), tmp_path / "whole.ckpt")
    (tmp_path / "audio.ckpt").write_bytes((tmp_path / "whole.ckpt").read_bytes()[:size])
    with pytest.raises(ValueError, match="is damaged|not a pickle of plain tensors"):
        read_audio_weights(tmp_path / "audio.ckpt")


def test_the_transformer_is_what_its_files_say(weights, wan):
    """Every tensor of the shards and of the audio file has arrived, and the rotary tables are computed."""
    shards = sorted((weights / "wan/transformer").glob("*.safetensors"))
    stored = {key: value for shard in shards for key, value in load_file(shard).items()}
    stored |= from_fantasytalking(load_file(weights / "audio.safetensors"))
    own = wan.transformer.state_dict()
    assert own.keys() == stored.keys() and all(torch.equal(own[key], stored[key]) for key in own)
    assert all(not buffer.is_meta for buffer in wan.transformer.buffers())
    assert not any(p.requires_grad for p in wan.transformer.parameters())


def test_keys_that_diffusers_ignores_are_ignored(weights):
    """Published I2V checkpoints still hold blocks.N.attn2.norm_added_q.weight, which nothing uses."""
    edit_tensors(weights / SHARD, lambda t: t.update({"blocks.0.attn2.norm_added_q.weight": torch.ones(24)}))
    audio = from_fantasytalking(load_file(weights / "audio.safetensors"))
    settings = {"audio_features": SPEECH, "audio_dim": AUDIO_DIM}
    folder = weights / "wan/transformer"
    model = load_backbone(AudioWanTransformer, folder, settings, audio, torch.float32, "cpu")
    assert "blocks.0.attn2.norm_added_q.weight" not in model.state_dict()


def test_the_speech_encoder_is_read_from_a_recogniser(weights):
    """wav2vec2-base-960h is published with its recogniser's head and without masked_spec_embed."""
    config = Wav2Vec2Config.from_pretrained(weights / "wav2vec2", vocab_size=8)
    Wav2Vec2ForCTC(config).save_pretrained(weights / "recogniser")
    shutil.copy(weights / "wav2vec2" / "preprocessor_config.json", weights / "recogniser")
    encoder = load_file(weights / "wav2vec2" / "model.safetensors")

    def as_published(tensors: dict) -> None:
        tensors.pop("wav2vec2.masked_spec_embed")
        tensors.update({f"wav2vec2.{k}": v for k, v in encoder.items() if k != "masked_spec_embed"})

    edit_tensors(weights / "recogniser" / "model.safetensors", as_published)
    wav_T = np.sin(np.arange(8000, dtype=np.float32))
    features = Wav2Vec2Features(weights / "recogniser", "cpu")(wav_T)
    assert features.shape == (24, SPEECH)
    torch.testing.assert_close(features, Wav2Vec2Features(weights / "wav2vec2", "cpu")(wav_T))


def test_shapes_are_read_without_the_data(weights):
    shapes = tensor_shapes(weights / SHARD)
    assert {key: value.shape for key, value in shapes.items()} == {
        key: value.shape for key, value in load_file(weights / SHARD).items()
    }
    assert all(value.is_meta for value in shapes.values())


def test_a_path_goes_before_a_name_on_the_hub(tmp_path):
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert find("owner/name", tmp_path, "pipeline") == tmp_path / "owner" / "name"
    assert find(str(tmp_path / "owner"), tmp_path, "pipeline") == tmp_path / "owner"


def test_a_name_on_the_hub_is_found_in_its_cache(weights, tmp_path, monkeypatch):
    """What a download leaves behind: blobs named by their digest, a snapshot of links."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    snapshot = cache / "models--owner--wan" / "snapshots" / ("0" * 40)
    (cache / "models--owner--wan" / "refs").mkdir(parents=True)
    (cache / "models--owner--wan" / "refs" / "main").write_text("0" * 40)
    shutil.copytree(weights / "wan", snapshot)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    generator = WanGenerator.load(write_settings(weights / "toy", pipeline="owner/wan"))
    assert generator.transformer.config["num_layers"] == 6
