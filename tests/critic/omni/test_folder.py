"""Bad input for the full-size critic's loaders: one sentence each, nothing executed, nothing half-loaded."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ft2ray.critic.omni.card import ADAPTER, CARD, new_card, read_card, read_viewer
from ft2ray.critic.omni.critic import OmniCritic
from ft2ray.critic.omni.folder import load_thinker
from ft2ray.critic.omni.lora import add_adapter, save_tuned
from ft2ray.critic.omni.whole_clip import WholeClipViewer
from ft2ray.critic.questions import QUESTIONS
from ft2ray.loaders import critic_card, load_critic, load_viewer
from tests.critic.omni_toys import toy_clip, write_thinker

INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_thinker(tmp_path / "thinker")


def shard(folder: Path) -> Path:
    return sorted(folder.glob("model-*.safetensors"))[1]


def change(file: Path, **values) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def lacks_a_shard(folder):
    shard(folder).unlink()


def cut_short(folder):
    file = shard(folder)
    file.write_bytes(file.read_bytes()[:-100])


def no_safetensors(folder):
    shard(folder).write_bytes(b"\x80\x04 something else")


def without_a_tensor(folder):
    tensors = load_file(shard(folder))
    del tensors[sorted(tensors)[0]]
    save_file(tensors, shard(folder))


def with_another_shape(folder):
    change(folder / "config.json", text_config=json.loads((folder / "config.json").read_text())["text_config"]
           | {"intermediate_size": 64})  # fmt: skip


def another_model(folder):
    change(folder / "config.json", model_type="qwen2_vl")


def no_json(folder):
    (folder / "config.json").write_text("{")


def no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()


def damaged_tokenizer(folder):
    (folder / "tokenizer.json").write_text('{"model": 3}')


def another_tokenizer(folder):
    change(folder / "config.json", video_token_index=7)


def no_template(folder):
    (folder / "chat_template.jinja").unlink()


def template_without_video(folder):
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'][1]['text'] }}")


@pytest.mark.parametrize(
    "fault, message",
    [
        (lacks_a_shard, "lacks model-00002.*the download is incomplete"),
        (cut_short, "model-00002.*is damaged or no safetensors file"),
        (no_safetensors, "model-00002.*is damaged or no safetensors file"),
        (without_a_tensor, "does not fit the model: missing "),
        (with_another_shape, r"has shape \[96, 48\], the model wants \[64, 48\]"),
        (another_model, "holds a qwen2_vl; give a Qwen2.5-Omni"),
        (no_json, "config.json is not valid JSON"),
        (no_tokenizer, "lacks tokenizer.json; the download is incomplete"),
        (damaged_tokenizer, "the tokenizer in .* cannot be read"),
        (another_tokenizer, r"is another model's: <\|VIDEO\|> is 9 there and 7 in config.json"),
        (no_template, "lacks chat_template.json"),
        (template_without_video, "does not put one video before the question"),
    ],
)
def test_a_folder_that_is_not_whole_is_one_sentence(folder, fault, message):
    fault(folder)
    with pytest.raises(ValueError, match=message) as caught:
        OmniCritic.load(folder, device="cpu")
    assert "\n" not in str(caught.value)


class Payload:
    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.safetensors"])
def test_a_pickle_with_code_in_it_is_refused_and_not_run(folder, tmp_path, name):
    for file in folder.glob("model*"):
        file.unlink()
    run = tmp_path / "was run"
    (folder / name).write_bytes(pickle.dumps(Payload(run)))
    wanted = "damaged or no safetensors" if name.endswith("safetensors") else "can run code and are not read"
    with pytest.raises(ValueError, match=wanted):
        OmniCritic.load(folder, device="cpu")
    assert not run.exists()


def test_what_is_no_critic_at_all(tmp_path):
    with pytest.raises(ValueError, match="neither a folder or file of . nor a name on the hub"):
        load_critic("/nowhere/at all")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="holds a llama; give a Qwen2.5-Omni"):
        load_critic(str(tmp_path))


@pytest.fixture
def tuned(folder, tmp_path) -> Path:
    """A critic with a LoRA that changes its answers."""
    model = load_thinker(folder, "cpu")
    add_adapter(model, 4, 8.0)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    card = new_card(folder, QUESTIONS, 10.0, 448)
    save_tuned(tmp_path / "tuned", model, replace(card, rank=4, alpha=8.0), base=str(folder))
    return tmp_path / "tuned"


def test_a_tuned_critic_is_its_base_with_a_lora(folder, tuned, tmp_path):
    critic, base = load_critic(str(tuned)), load_critic(str(folder))
    assert not np.allclose(critic.score([toy_clip()]), base.score([toy_clip()]), atol=1e-3)
    assert critic.fingerprint != base.fingerprint and critic.dimensions == ("mn", "ls", "vq")
    change(tuned / CARD, base="../thinker")  # a base beside it is found wherever both lie
    again = load_critic(str(tuned))
    assert np.array_equal(again.score([toy_clip()]), critic.score([toy_clip()]))
    assert critic_card(str(tuned)).fingerprint == again.fingerprint == critic.fingerprint


def test_generators_know_how_it_looks_without_loading_it(folder, tuned):
    assert load_viewer(str(folder), 12.0, 224) == WholeClipViewer(12.0, 224, 28)
    assert load_viewer(str(tuned)) == read_viewer(tuned) == WholeClipViewer(10.0, 448, 28)


def other_base(tuned, folder):
    write_thinker(folder, seed=1)


def other_width(tuned, folder):
    tensors = load_file(tuned / ADAPTER)
    save_file({key: torch.zeros(len(value) + 1, 5) for key, value in tensors.items()}, tuned / ADAPTER)
    change(tuned / CARD, fingerprint=fingerprint_now(tuned))


def unknown_keys(tuned, folder):
    save_file({"transformer.blocks.0.lora_A.weight": torch.zeros(4, 48)}, tuned / ADAPTER)
    change(tuned / CARD, fingerprint=fingerprint_now(tuned))


def fingerprint_now(tuned) -> str:
    try:
        return read_card(tuned).fingerprint
    except ValueError as error:
        return str(error).split("(fingerprint ")[1].split(",")[0]


def no_adapter(tuned, folder):
    (tuned / ADAPTER).unlink()


def changed_questions(tuned, folder):
    change(tuned / CARD, questions=QUESTIONS | {"vq": "Is it sharp?"})


def slower(tuned, folder):
    change(tuned / CARD, fps=2.0)


def incomplete(tuned, folder):
    change(tuned / CARD, rank=None)


def adapter_cut_short(tuned, folder):
    (tuned / ADAPTER).write_bytes((tuned / ADAPTER).read_bytes()[:-10])
    change(tuned / CARD, fingerprint=fingerprint_now(tuned))


@pytest.mark.parametrize(
    "fault, message",
    [
        (other_base, "was tuned on another model than the one in"),
        (other_width, "does not fit the model: .* has shape"),
        (unknown_keys, "does not fit the model: missing"),
        (no_adapter, "lacks adapter_model.safetensors"),
        (changed_questions, "the files in .* are not those that critic.json describes"),
        (slower, "at 2 fps a clip of 3.5 s is 7 pictures"),
        (incomplete, "critic.json is incomplete or damaged"),
        (adapter_cut_short, "is damaged or no safetensors file"),
    ],
)
def test_a_lora_that_does_not_belong_is_one_sentence(tuned, folder, fault, message):
    fault(tuned, folder)
    with pytest.raises(ValueError, match=message) as caught:
        load_critic(str(tuned))
    assert "\n" not in str(caught.value)


def test_a_tuned_critic_looks_as_it_was_tuned(tuned):
    with pytest.raises(ValueError, match="critic.fps is 12, but .* was tuned at 10"):
        load_critic(str(tuned), fps=12.0)
    assert load_critic(str(tuned), fps=10.0).viewer.fps == 10.0
