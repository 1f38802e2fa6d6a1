"""Policies: publishing, loading, refusing what does not fit, and the systems one policy runs as."""

import json
import re
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ft2ray import storage
from ft2ray.errors import FT2RayError, NonFiniteError, WeightsError
from ft2ray.storage import files
from ft2ray.tlpo.experts import Experts, detach_experts
from ft2ray.tlpo.gate import TimestepLayerGate
from ft2ray.tlpo.policy import (
    AttachedPolicy,
    apply_system,
    load_policy,
    policy_of,
    save_policy,
)
from ft2ray.tlpo.settings import ExpertSettings, GateSettings
from tests.tlpo.conftest import DIMS, LAYERS, WIDTH, randomise, tiny_wan


def make_policy(gate_mode="full", names=(*DIMS, "sum"), seed=1):
    experts = Experts(tiny_wan(), names, ExpertSettings(rank=4, alpha=6))
    randomise(experts, seed=seed)
    gate = TimestepLayerGate(LAYERS, 3, WIDTH, GateSettings(mode=gate_mode))
    torch.manual_seed(0)
    for parameter in gate.parameters():
        torch.nn.init.normal_(parameter)
    return experts, gate, policy_of(experts, DIMS, "base-1", gate)


def outputs(transformer, call, policy):
    attached = AttachedPolicy(transformer, policy)
    results = {}
    for system in policy.systems:
        attached.use(system)
        results[system] = call()
    return results


def test_a_published_policy_does_the_same_after_loading_in_every_system(tmp_path, transformer, call):
    _, _, policy = make_policy()
    fingerprint = save_policy(tmp_path / "p", policy)
    loaded = load_policy(tmp_path / "p", "base-1")
    assert loaded.fingerprint == policy.fingerprint == fingerprint
    assert tuple(loaded.systems) == (
        "base", "expert_mn", "expert_ls", "expert_vq", "uniform", "dpo_sum", "tlpo"
    )  # fmt: skip
    base = call()
    before, after = (outputs(transformer, call, p) for p in (policy, loaded))
    assert all(torch.equal(before[system], after[system]) for system in before)
    assert torch.equal(after["base"], base)
    assert len({tuple(v.flatten().tolist()) for v in after.values()}) == len(after)  # all differ


def test_systems_are_what_their_names_say(transformer, call):
    experts, gate, policy = make_policy()
    results = outputs(transformer, call, policy)
    detach_experts(transformer)
    alone = Experts(transformer, ("mn",), ExpertSettings(rank=4, alpha=6))
    alone.load_state("mn", experts.state("mn"))
    alone.use(("mn",))
    assert torch.equal(call(), results["expert_mn"])
    attached = apply_system(transformer, policy, "uniform")
    torch.testing.assert_close(call(), results["uniform"], atol=0, rtol=0)
    attached.use("tlpo", {name: 1 / 3 for name in DIMS}, how="replace")
    torch.testing.assert_close(call(), results["uniform"], atol=1e-6, rtol=1e-6)
    attached.use("uniform", {"mn": 3.0, "ls": 0.0, "vq": 0.0})
    torch.testing.assert_close(call(), results["expert_mn"], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", [*DIMS, "sum"])
def test_every_adapter_loads_with_diffusers_own_loader_alpha_kept(tmp_path, transformer, call, name):
    _, _, policy = make_policy()
    save_policy(tmp_path / "p", policy)
    ours = outputs(transformer, call, policy)["dpo_sum" if name == "sum" else f"expert_{name}"]
    detach_experts(transformer)
    transformer.load_lora_adapter(tmp_path / "p" / "adapters" / name, adapter_name=name, use_safetensors=True)
    assert transformer.peft_config[name].lora_alpha == 6
    torch.testing.assert_close(call(), ours, atol=1e-6, rtol=1e-6)


def test_another_base_is_refused(tmp_path):
    save_policy(tmp_path / "p", make_policy()[2])
    with pytest.raises(ValueError, match="trained on base base-1.*loaded base is base-2"):
        load_policy(tmp_path / "p", "base-2")


def test_damaged_or_unfinished_folders_are_refused(tmp_path):
    save_policy(tmp_path / "p", make_policy()[2])
    other = make_policy(seed=2)[2]
    save_policy(tmp_path / "q", other)
    weights = "adapters/ls/pytorch_lora_weights.safetensors"
    (tmp_path / "p" / weights).write_bytes((tmp_path / "q" / weights).read_bytes())
    with pytest.raises(ValueError, match="ls/.*not what was written"):
        load_policy(tmp_path / "p", "base-1")
    (tmp_path / "p" / weights).unlink()
    with pytest.raises(ValueError, match="is missing"):
        load_policy(tmp_path / "p", "base-1")
    with pytest.raises(ValueError, match=r"no policy\.json"):
        load_policy(tmp_path, "base-1")
    description = json.loads((tmp_path / "q" / "policy.json").read_text())
    (tmp_path / "q" / "policy.json").write_text(json.dumps(description | {"format": 99}))
    with pytest.raises(ValueError, match="format"):
        load_policy(tmp_path / "q", "base-1")


def test_publishing_twice_changes_nothing_and_another_policy_is_refused(tmp_path):
    policy = make_policy()[2]
    save_policy(tmp_path / "p", policy)
    stamp = (tmp_path / "p" / "policy.json").stat().st_mtime_ns
    assert save_policy(tmp_path / "p", policy) == policy.fingerprint
    assert (tmp_path / "p" / "policy.json").stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match="already holds policy"):
        save_policy(tmp_path / "p", make_policy(seed=2)[2])
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(OSError), storage.new_folder(tmp_path / "p") as folder:
        (folder / "half").write_text("written")
        assert not (tmp_path / "p").exists()
        raise OSError
    assert list(tmp_path.iterdir()) == []


def test_a_policy_is_a_snapshot():
    experts, gate, policy = make_policy()
    before = policy.fingerprint
    randomise(experts, seed=9)
    with torch.no_grad():
        next(gate.parameters()).add_(1)
    assert policy.fingerprint == before
    assert policy_of(experts, DIMS, "base-1", gate).fingerprint != before


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(["base", "alpha", "gate", "mode", "weight"]))
def test_whatever_decides_the_output_decides_the_fingerprint(what):
    experts, gate, policy = make_policy()
    if what == "base":
        other = policy_of(experts, DIMS, "base-2", gate)
    elif what == "alpha":
        scaled = Experts(tiny_wan(), experts.names, ExpertSettings(rank=4, alpha=7))
        for name in experts.names:
            scaled.load_state(name, experts.state(name))
        other = policy_of(scaled, DIMS, "base-1", gate)
    elif what == "gate":
        other = policy_of(experts, DIMS, "base-1")
    elif what == "mode":
        other = policy_of(
            experts, DIMS, "base-1", TimestepLayerGate(LAYERS, 3, WIDTH, GateSettings(mode="uniform"))
        )
    else:
        with torch.no_grad():
            experts.parameters("vq")[-1].flatten()[-1].add_(1e-3)
        other = policy_of(experts, DIMS, "base-1", gate)
    assert other.fingerprint != policy.fingerprint


def test_systems_that_a_policy_does_not_have_are_refused(transformer):
    experts = Experts(tiny_wan(), ("mn", "ls"), ExpertSettings(rank=2))
    attached = AttachedPolicy(transformer, policy_of(experts, DIMS, "base-1"))
    assert tuple(attached.policy.systems) == ("base", "expert_mn", "expert_ls")
    with pytest.raises(ValueError, match="no system 'tlpo' in it; it has base, expert_mn"):
        attached.use("tlpo")
    with pytest.raises(ValueError, match="user weights need a fused system"):
        attached.use("expert_mn", {"mn": 2.0})


def test_a_policy_on_s3_is_the_same_policy_and_appears_last_file_last(s3, tmp_path, monkeypatch):
    _, _, policy = make_policy()
    sent = []
    upload = files.upload
    monkeypatch.setattr(files, "upload", lambda local, url: (sent.append(url), upload(local, url)))
    assert save_policy(f"{s3}/p", policy) == save_policy(f"{s3}/p", policy) == policy.fingerprint
    assert len(sent) == 6 and sent[-1] == f"{s3}/p/policy.json"
    assert load_policy(f"{s3}/p", "base-1").fingerprint == policy.fingerprint
    with pytest.raises(ValueError, match="already holds policy"):
        save_policy(f"{s3}/p", make_policy(seed=2)[2])
    with pytest.raises(ValueError, match="no policy.json in s3://"):
        load_policy(f"{s3}/absent", "base-1")
    storage.delete(f"{s3}/p/gate.safetensors")
    with pytest.raises(ValueError, match="gate.safetensors: a file of a policy is missing"):
        load_policy(f"{s3}/p", "base-1")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_neither_published_nor_loaded(tmp_path, monkeypatch, value):
    policy = make_policy()[2]
    key = sorted(policy.adapters["ls"][1])[0]
    policy.adapters["ls"][1][key].view(-1)[0] = value
    with pytest.raises(NonFiniteError, match=f"policy: the tensor ls/{re.escape(key)} is not finite"):
        save_policy(tmp_path / "p", policy)
    assert list(tmp_path.iterdir()) == []
    with monkeypatch.context() as unchecked:
        unchecked.setattr("ft2ray.tlpo.policy.require_finite", lambda *_: None)
        save_policy(tmp_path / "p", policy)
    with pytest.raises(WeightsError, match=f"ls/{re.escape(key)} is not finite.*earlier policy"):
        load_policy(tmp_path / "p", "base-1")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "p"
    policy = make_policy()[2]
    save_policy(folder, policy)
    return folder, policy


FILES = ["policy.json", "gate.safetensors", *(f"adapters/{n}/pytorch_lora_weights.safetensors" for n in DIMS)]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(file=st.sampled_from(FILES), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_named_or_changes_nothing(published, file, place, bit):
    folder, policy = published
    good = (folder / file).read_bytes()
    bad = bytearray(good)
    bad[int(place * len(bad))] ^= 1 << bit
    try:
        (folder / file).write_bytes(bad)
        found = load_policy(folder, "base-1")
    except FT2RayError as error:
        assert str(folder) in str(error)
    else:  # a space between two values of the description
        assert file == "policy.json" and found.fingerprint == policy.fingerprint
    finally:
        (folder / file).write_bytes(good)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"{}", b"[1]"])
def test_empty_and_foreign_files_are_named(published, tmp_path, file, content):
    shutil.copytree(published[0], tmp_path / "p")
    (tmp_path / "p" / file).write_bytes(content)
    with pytest.raises(FT2RayError, match=str(tmp_path)):
        load_policy(tmp_path / "p", "base-1")
