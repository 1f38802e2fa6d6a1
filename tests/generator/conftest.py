"""A whole Wan pipeline at toy width, written as diffusers and transformers write the real one."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    WanImageToVideoPipeline,
    WanTransformer3DModel,
)
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from ft2ray.generator.wan.generator import WanGenerator

WIDTH, BLOCKS, AUDIO_DIM, SPEECH = 24, 6, 20, 24
BACKBONE = dict(
    patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=36, out_channels=16,
    text_dim=16, freq_dim=16, ffn_dim=32, num_layers=BLOCKS, image_dim=20, added_kv_proj_dim=WIDTH,
    rope_max_seq_len=64,
)  # fmt: skip


def fantasytalking_weights(width: int = WIDTH, blocks: int = BLOCKS, std: float = 0.3) -> dict:
    """Audio weights under FantasyTalking's released names, flattened."""
    generator = torch.Generator().manual_seed(3)
    shapes = {
        "proj_model.proj.weight": (AUDIO_DIM, SPEECH),
        "proj_model.norm.weight": (AUDIO_DIM,),
        "proj_model.norm.bias": (AUDIO_DIM,),
    }
    for block in range(blocks):
        for part in ("k_proj", "v_proj"):
            shapes[f"audio_processor.blocks.{block}.cross_attn.processor.{part}.weight"] = (width, AUDIO_DIM)
    return {key: std * torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def added_weights(std: float = 0.3) -> dict:
    """Audio weights of `AddedAudioTransformer`."""
    generator = torch.Generator().manual_seed(4)
    shapes = {
        "audio_pack.proj.weight": (AUDIO_DIM, 4 * SPEECH),
        "audio_pack.proj.bias": (AUDIO_DIM,),
        "audio_pack.norm_out.weight": (AUDIO_DIM,),
        "audio_pack.norm_out.bias": (AUDIO_DIM,),
    }
    for block in (2, 3):
        shapes[f"blocks.{block}.audio_add.weight"] = (WIDTH, AUDIO_DIM)
        shapes[f"blocks.{block}.audio_add.bias"] = (WIDTH,)
    return {key: std * torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def write_pipeline(folder: Path) -> None:
    """Wan2.1-I2V in diffusers' layout, the transformer in two shards."""
    torch.manual_seed(0)
    words = ["<pad>", "</s>", "<unk>", "A", "person", "is", "talking", ".", "still"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    pipeline = WanImageToVideoPipeline(
        tokenizer=PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
        ),
        text_encoder=UMT5EncoderModel(
            UMT5Config(vocab_size=len(words), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
        ),
        vae=AutoencoderKLWan(
            base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
            temperal_downsample=[False, True, True],
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
        image_encoder=CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=20, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                image_size=32, patch_size=16,
            )
        ),
        transformer=WanTransformer3DModel(**BACKBONE),
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    pipeline.transformer.save_pretrained(folder / "transformer", max_shard_size="100KB")
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()


def write_speech_encoder(folder: Path) -> None:
    torch.manual_seed(1)
    config = Wav2Vec2Config(
        hidden_size=SPEECH, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        conv_dim=(16,) * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    Wav2Vec2Model(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)


def write_settings(folder: Path, **changes: object) -> Path:
    settings = dict(
        codec="wan", pipeline="../wan", audio="../audio.safetensors", speech="../wav2vec2",
        audio_dim=AUDIO_DIM, frames=9, size=128, negative_prompt="still", dtype="float32",
    )  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**settings, **changes}))
    return folder


@pytest.fixture(scope="session")
def wan_weights(tmp_path_factory) -> Path:
    """Folder with wan/, wav2vec2/, audio.safetensors and added.safetensors."""
    root = tmp_path_factory.mktemp("weights")
    write_pipeline(root / "wan")
    write_speech_encoder(root / "wav2vec2")
    save_file(fantasytalking_weights(), root / "audio.safetensors")
    save_file(added_weights(), root / "added.safetensors")
    return root


@pytest.fixture(scope="session")
def wan_folder(wan_weights) -> Callable[..., Path]:
    """Writes a generator folder on those weights; settings may be changed."""

    def write(name: str, **changes: object) -> Path:
        return write_settings(wan_weights / name, **changes)

    return write


@pytest.fixture(scope="session")
def wan(wan_folder) -> WanGenerator:
    return WanGenerator.load(wan_folder("toy"))
