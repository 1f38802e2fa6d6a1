"""Export and import over a run folder: the embedded generator with a policy and two stored groups."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ft2ray.cli import main
from ft2ray.config import load_config, to_yaml
from ft2ray.loaders import load_generator
from ft2ray.records import Candidate, PromptGroup
from ft2ray.run import Run, group_store
from ft2ray.run_adapters import export_run_adapters, import_run_adapter
from ft2ray.storage import join, write_atomically
from ft2ray.tlpo.experts import Experts, detach_experts
from ft2ray.tlpo.formats.adapters import read_adapter, write_adapter
from ft2ray.tlpo.gate import TimestepLayerGate
from ft2ray.tlpo.policy import AttachedPolicy, load_policy, policy_of, save_policy
from ft2ray.tlpo.settings import ExpertSettings, GateSettings

DIMS = ("mn", "ls", "vq")
FRAMES = 6


@pytest.fixture(scope="module")
def generator():
    return load_generator("embedded")


@pytest.fixture
def run(tmp_path, generator):
    run = tmp_path / "run"
    write_atomically(run / "config.yaml", to_yaml(load_config(None, [f"run_dir={run}"])).encode())
    experts = Experts(generator.transformer, (*DIMS, "sum"), ExpertSettings(rank=2, alpha=3.0))
    torch.manual_seed(0)
    for name in experts.names:
        for parameter in experts.parameters(name):
            torch.nn.init.normal_(parameter, std=0.02)
    config = generator.transformer.config
    gate = TimestepLayerGate(
        config.num_layers,
        3,
        config.num_attention_heads * config.attention_head_dim,
        GateSettings(mode="full"),
    )
    for parameter in gate.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    policy = policy_of(experts, DIMS, generator.fingerprint, gate)
    detach_experts(generator.transformer)
    save_policy(run / "policies" / "first", policy)
    Run.open(run).publish("first")
    shape = generator.codec.latent_shape(FRAMES)
    candidate = Candidate(**{
        f.name: {"latents_CFHW": np.random.default_rng(0).normal(size=shape).astype(np.float32)}.get(f.name)
        for f in dataclasses.fields(Candidate)
    })  # fmt: skip
    values = dict.fromkeys((f.name for f in dataclasses.fields(PromptGroup)), "x") | {
        "round": 0, "start_seconds": 0.0, "seconds": 1.0, "dimensions": DIMS, "text_LD": None,
        "image_LD": None, "stacked_CFHW": None,
        "audio_LD": np.zeros((2 * FRAMES, config.audio_features), np.float32), "frames": FRAMES,
        "candidates": [candidate],
    }  # fmt: skip
    row = {}
    for group_id in ("a", "b"):
        group = PromptGroup(**(values | {"group_id": group_id}))
        row[group_id] = group.to_row()
    for one in row.values():
        group_store(str(run)).commit_once([one])
    return str(run)


def test_a_run_is_exported_whole_with_the_error_of_its_buckets(run, tmp_path, capsys, generator):
    out = str(tmp_path / "out")
    assert main(["export-adapters", run, out, "--buckets", "2", "--layout", "comfyui"]) == 0
    said = capsys.readouterr().out
    index = json.loads((tmp_path / "out" / "adapters.json").read_text())
    assert set(index["files"]) == {
        *(f"expert_{name}.safetensors" for name in DIMS),
        "uniform.safetensors", "dpo_sum.safetensors", "tlpo_1of2.safetensors", "tlpo_2of2.safetensors",
    }  # fmt: skip
    assert {p.name for p in (tmp_path / "out").iterdir()} == {*index["files"], "adapters.json"}
    bucket = index["files"]["tlpo_1of2.safetensors"]
    assert bucket["rank"] == 6 and bucket["t"][0] == 1.0
    assert 0 < bucket["error"]["of_velocity"] < bucket["error"]["of_effect"] < 1
    assert f"{bucket['error']['of_effect']:.1%}" in said
    assert all(key.startswith("diffusion_model.") for key in load_file(tmp_path / "out/uniform.safetensors"))
    # The exported expert is the run's.
    policy = load_policy(Run.open(run).current_policy, generator.fingerprint)
    _, tensors = read_adapter(tmp_path / "out" / "expert_ls.safetensors", generator.transformer)
    assert all(torch.equal(tensors[key], tensor) for key, tensor in policy.adapters["ls"][1].items())


def test_a_foreign_lora_becomes_the_expert_of_a_new_current_policy(run, tmp_path, capsys, generator):
    experts = Experts(
        generator.transformer,
        ("x",),
        ExpertSettings(rank=3, alpha=9.0, targets=r"blocks\.\d+\.attn2\.to_[qv]"),
    )
    torch.nn.init.normal_(experts.parameters("x")[1])
    foreign = (experts.config("x"), experts.state("x"))
    detach_experts(generator.transformer)
    file = str(tmp_path / "foreign.safetensors")
    write_adapter(file, foreign, "comfyui")
    before = Run.open(run).current_policy
    assert main(["import-adapter", file, "--run", run, "--dimension", "ls"]) == 0
    after = Run.open(run).current_policy
    assert after != before and after in capsys.readouterr().out
    old, new = (load_policy(folder, generator.fingerprint) for folder in (before, after))
    assert new.fingerprint != old.fingerprint and new.systems == old.systems
    config, tensors = new.adapters["ls"]
    assert (config.r, config.lora_alpha) == (3, 9.0)
    assert all(torch.equal(tensors[key], tensor) for key, tensor in foreign[1].items())
    AttachedPolicy(generator.transformer, new).use("tlpo")  # it sits beside the others
    detach_experts(generator.transformer)
    export_run_adapters(run, str(tmp_path / "again"), buckets=1)


def test_mistakes_are_one_sentence_and_change_nothing(run, tmp_path):
    out, bad = tmp_path / "out", tmp_path / "bad.safetensors"
    bad.write_bytes(b"not a tensor in here")
    current = Run.open(run).current_policy
    with pytest.raises(ValueError, match="layout 'kohya' is unknown"):
        export_run_adapters(run, str(out), "kohya")
    with pytest.raises(ValueError, match="take 1 to 10"):
        export_run_adapters(run, str(out), buckets=11)
    with pytest.raises(ValueError, match="damaged or no safetensors"):
        import_run_adapter(str(bad), run, "ls")
    with pytest.raises(ValueError, match="no file"):
        import_run_adapter(str(out / "absent.safetensors"), run, "ls")
    with pytest.raises(ValueError, match="no dimension 'lips'; it has mn, ls, vq"):
        import_run_adapter(str(bad), run, "lips")
    assert Run.open(run).current_policy == current and not out.exists()
    out.mkdir()
    (out / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match="holds files already"):
        export_run_adapters(run, str(out))
    with pytest.raises(ValueError, match="not a run folder"):
        export_run_adapters(str(tmp_path / "nowhere"), str(out))


def test_on_s3_the_same_files_appear(run, s3, tmp_path):
    index = export_run_adapters(run, join(s3, "adapters"), buckets=1)
    from ft2ray.storage import list_files

    assert set(list_files(join(s3, "adapters"))) == {*index["files"], "adapters.json"}
