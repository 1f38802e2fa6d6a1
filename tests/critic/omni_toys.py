"""A Qwen2.5-Omni folder of toy width, in the layout of the published ones."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ft2ray.critic.omni.whole_clip import WholeClip, WholeClipViewer
from ft2ray.critic.processor import ProcessorConfig
from ft2ray.critic.talking.model import Thinker
from recipes.embedded.toy_thinker import build_tokenizer, toy_config

# As the published chat_template.json: a system line of its own, then the clip, then the question.
TEMPLATE = """{% for message in messages %}\
{% if loop.first and message['role'] != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}<|im_end|>
{% else %}{% for content in message['content'] %}{% if content['type'] == 'video' %}<|vision_bos|><|VIDEO|>\
<|vision_eos|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def write_thinker(folder: Path, width: int = 48, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """A thinker alone with random weights, as `save_pretrained` writes it, in several shards."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    model = Thinker(toy_config(tokenizer, ProcessorConfig(mel_bins=128), width)).to(dtype)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder, max_shard_size="400KB")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def write_whole_model(folder: Path, thinker: Path) -> Path:
    """The same thinker inside a whole model, as Qwen publishes it: `thinker.` before all names, a talker."""
    folder.mkdir()
    index = json.loads((thinker / "model.safetensors.index.json").read_text())
    places = {}
    for name in sorted(set(index["weight_map"].values())):
        tensors = {f"thinker.{key}": value for key, value in load_file(thinker / name).items()}
        tensors["talker.model.norm.weight"] = torch.zeros(3)
        save_file(tensors, folder / name, metadata={"format": "pt"})
        places |= {key: name for key in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    config = {
        "model_type": "qwen2_5_omni",
        "thinker_config": json.loads((thinker / "config.json").read_text()),
    }
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((thinker / name).read_bytes())
    template = (thinker / "chat_template.jinja").read_text()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    (folder / "spk_dict.pt").write_bytes(b"voices of the talker: a pickle that nobody here reads")
    return folder


def toy_clip(seed: int = 0, seconds: float = 1.2, size: int = 56, fps: float = 10.0) -> WholeClip:
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (round(seconds * fps), size, size, 3), dtype=np.uint8)
    return WholeClipViewer(fps).of(
        frames, (0.1 * rng.standard_normal(round(seconds * 16000))).astype(np.float32)
    )
