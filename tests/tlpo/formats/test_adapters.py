"""LoRA files: diffusers' own loader reads what is exported, imports fit or are refused in one sentence."""

import json
import pickle

import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanTransformer3DModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ft2ray.tlpo.experts import Experts, detach_experts
from ft2ray.tlpo.formats.adapters import adapter_of, factors_of, original_name, read_adapter, write_adapter
from ft2ray.tlpo.policy import Policy, apply_system
from ft2ray.tlpo.settings import ExpertSettings
from tests.tlpo.conftest import DIMS, LAYERS, randomise, tiny_wan

ALL_LINEARS = r"blocks\.\d+\.(attn[12]\.(to_[qkv]|to_out\.0|add_[kv]_proj)|ffn\.net\.(0\.proj|2))"


TINY = tiny_wan()


def tiny_i2v():
    """Every linear that a block of Wan I2V has, the image ones included."""
    return WanTransformer3DModel(
        patch_size=(1, 1, 1), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
        text_dim=8, freq_dim=16, ffn_dim=32, num_layers=2, image_dim=6, added_kv_proj_dim=24,
    )  # fmt: skip


def pipeline_of(transformer):
    return WanImageToVideoPipeline(
        tokenizer=None, text_encoder=None, vae=None, scheduler=None, transformer=transformer
    )


def trained(transformer, targets=ALL_LINEARS, rank=4, alpha=6.0):
    experts = Experts(transformer, ("ls",), ExpertSettings(rank=rank, alpha=alpha, targets=targets))
    randomise(experts)
    adapter = (experts.config("ls"), experts.state("ls"))
    detach_experts(transformer)
    return adapter


@pytest.mark.parametrize("make", [tiny_wan, tiny_i2v])
@pytest.mark.parametrize("layout", ["diffusers", "comfyui"])
def test_diffusers_loads_every_exported_layer_with_the_same_effect(tmp_path, layout, make):
    transformer = make().eval()
    adapter = trained(transformer)
    inputs = {
        "hidden_states": torch.randn(2, 4, 5, 1, 1),
        "timestep": torch.tensor([300.0, 900.0]),
        "encoder_hidden_states": torch.randn(2, 3, 8),
    }
    if transformer.config.image_dim:
        inputs["encoder_hidden_states_image"] = torch.randn(2, 7, 6)

    @torch.no_grad()
    def call():
        return transformer(**inputs, return_dict=False)[0]

    base = call()
    experts = Experts.from_states(transformer, {"ls": adapter})
    experts.use(("ls",))
    ours = call()
    detach_experts(transformer)
    write_adapter(tmp_path / "ls.safetensors", adapter, layout)
    pipeline_of(transformer).load_lora_weights(tmp_path, weight_name="ls.safetensors", adapter_name="ls")
    assert (ours - base).abs().max() > 1e-3
    torch.testing.assert_close(call(), ours, atol=1e-6, rtol=1e-5)
    if layout == "diffusers":
        assert transformer.peft_config["ls"].lora_alpha == 6.0


@pytest.mark.parametrize("layout", ["diffusers", "comfyui"])
def test_what_is_written_is_read_back_to_the_bit_with_its_alpha(tmp_path, layout):
    transformer = tiny_i2v()
    config, tensors = trained(transformer)
    write_adapter(tmp_path / "a.safetensors", (config, tensors), layout)
    read_config, read_tensors = read_adapter(tmp_path / "a.safetensors", transformer)
    assert (read_config.r, read_config.lora_alpha) == (4, 6.0)
    assert read_tensors.keys() == tensors.keys()
    assert all(torch.equal(read_tensors[key], tensors[key]) for key in tensors)


def test_comfyui_files_carry_the_original_names_and_alpha(tmp_path):
    write_adapter(tmp_path / "a.safetensors", trained(tiny_wan()), "comfyui")
    tensors = load_file(tmp_path / "a.safetensors")
    q = "diffusion_model.blocks.1.self_attn.q"
    assert {f"{q}.lora_A.weight", f"{q}.lora_B.weight", f"{q}.alpha"} <= tensors.keys()
    assert tensors[f"{q}.alpha"].item() == 6.0
    assert "diffusion_model.blocks.0.ffn.2.lora_B.weight" in tensors


def test_a_module_without_an_original_name_is_not_written_to_comfyui():
    with pytest.raises(ValueError, match="blocks.0.attn2.processor.k_proj has no name"):
        original_name("blocks.0.attn2.processor.k_proj")


@pytest.mark.parametrize("prefix", ["lora_unet_", "lora_transformer_", "lycoris_"])
def test_kohya_names_and_unequal_ranks_and_alphas_have_the_effect_that_they_state(tmp_path, prefix):
    transformer = tiny_wan()
    wide = {"blocks.0.attn1.to_q": (torch.randn(3, 24), torch.randn(24, 3), 6.0)}
    narrow = {"blocks.1.ffn.net.2": (torch.randn(1, 32), torch.randn(24, 1), 0.5)}
    file = {}
    for module, (a, b, alpha) in (wide | narrow).items():
        name = prefix + original_name(module).replace(".", "_")
        file |= {
            f"{name}.lora_down.weight": a,
            f"{name}.lora_up.weight": b,
            f"{name}.alpha": torch.tensor(alpha),
        }
    save_file(file, tmp_path / "kohya.safetensors")
    read = factors_of(read_adapter(tmp_path / "kohya.safetensors", transformer))
    assert read.keys() == wide.keys() | narrow.keys()
    for module, (a, b, alpha) in (wide | narrow).items():
        a_read, b_read, alpha_read = read[module]
        torch.testing.assert_close(alpha_read / len(a_read) * b_read @ a_read, alpha / len(a) * b @ a)


@pytest.mark.parametrize(
    ("settings", "factor"),
    [
        ({"lora_alpha": 6}, 1.5),
        ({"lora_alpha": 6, "alpha_pattern": {"attn1.to_q": 2}}, 0.5),
        ({"lora_alpha": 6, "use_rslora": True}, 3.0),
        (None, 1.0),
    ],
)
def test_the_header_of_diffusers_says_how_strong_it_is(tmp_path, settings, factor):
    a, b = torch.randn(4, 24), torch.randn(24, 4)
    key = "transformer.blocks.0.attn1.to_q.lora_{}.weight"
    header = (
        {"lora_adapter_metadata": json.dumps({f"transformer.{k}": v for k, v in settings.items()})}
        if settings
        else {}
    )
    save_file({key.format("A"): a, key.format("B"): b}, tmp_path / "a.safetensors", metadata=header)
    ((a_read, b_read, alpha),) = factors_of(read_adapter(tmp_path / "a.safetensors", tiny_wan())).values()
    torch.testing.assert_close(alpha / 4 * b_read @ a_read, factor * b @ a)


def test_an_imported_expert_with_layers_of_its_own_is_weighted_beside_the_others(tmp_path, transformer, call):
    """The other experts skip the cross-attention; this one skips the feed-forward."""
    cross = trained(transformer, r"blocks\.\d+\.attn2\.to_[qkv]", rank=2, alpha=1.0)
    own = {name: trained(transformer, ExpertSettings().targets) for name in ("mn", "vq")}
    policy = Policy("base-1", DIMS, {"mn": own["mn"], "ls": cross, "vq": own["vq"]})
    attached = apply_system(transformer, policy, "uniform", {"mn": 0.0, "ls": 3.0, "vq": 0.0})
    weighted = call()
    attached.use("expert_ls")
    torch.testing.assert_close(call(), weighted, atol=1e-6, rtol=1e-5)


A, B, ALPHA = torch.randn(4, 24), torch.randn(24, 4), 6.0
WRAPPERS = st.lists(
    st.sampled_from(["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"])
)
HOLDERS = st.lists(
    st.sampled_from(
        [
            "base_model.model",
            "module",
            "pipe.dit",
            "transformer",
            "diffusion_model",
            "model",
            "net",
            "generator",
        ]
    )
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    holders=HOLDERS,
    wraps=st.tuples(WRAPPERS, WRAPPERS, WRAPPERS),
    module=st.sampled_from(["blocks.0.attn1.to_q", "blocks.1.self_attn.k", "blocks.0.cross_attn.v"]),
    roles=st.sampled_from(
        [
            ("lora_A.weight", "lora_B.weight"),
            ("lora_A.default.weight", "lora_B.default.weight"),
            ("lora_down.weight", "lora_up.weight"),
            ("lora.down.weight", "lora.up.weight"),
        ]
    ),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]),
)
def test_whatever_wraps_a_transformer_its_lora_is_found(tmp_path, holders, wraps, module, roles, dtype):
    """peft, DDP, torch.compile, FSDP and DiffSynth put words into names, one around the other."""
    first, *rest = module.split(".", 2)
    name = ".".join([*holders, *wraps[0], first, rest[0], *wraps[1], rest[1], *wraps[2]])
    a, b = A.to(dtype), B.to(dtype)
    file = {f"{name}.{roles[0]}": a, f"{name}.{roles[1]}": b, f"{name}.alpha": torch.tensor(ALPHA)}
    save_file(file, tmp_path / "a.safetensors")
    ((a_read, b_read, alpha),) = factors_of(read_adapter(tmp_path / "a.safetensors", TINY)).values()
    assert torch.equal(a_read, a.float()) and torch.equal(b_read, b.float()) and alpha == ALPHA


class Holder(torch.nn.Module):
    """Names everything as DistributedDataParallel does."""

    def __init__(self, module):
        super().__init__()
        self.module = module


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_folder_that_peft_itself_writes_is_read_with_its_alpha(tmp_path, prefix):
    config = LoraConfig(r=3, lora_alpha=6, target_modules=["to_q", "to_v"], use_rslora=True)
    model = get_peft_model(Holder(tiny_wan()) if prefix else tiny_wan(), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_config.json").is_file()
    for place in (tmp_path, tmp_path / "adapter_model.safetensors"):
        factors = factors_of(read_adapter(place, tiny_wan()))
        assert len(factors) == 4 * LAYERS
        for module, (a, b, alpha) in factors.items():
            layer = model.get_submodule(f"base_model.model.{prefix}{module}")
            torch.testing.assert_close(alpha / 3 * b @ a, layer.get_delta_weight("default"))
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"adapter_config.json is not valid JSON"):
        read_adapter(tmp_path, tiny_wan())


@pytest.mark.parametrize("stated", [0, 1, 2])
def test_a_missing_alpha_is_said(tmp_path, caplog, stated):
    file = {}
    for number, module in enumerate(("to_q", "to_k")):
        name = f"blocks.0.attn1.{module}"
        file |= {f"{name}.lora_A.weight": A.clone(), f"{name}.lora_B.weight": B.clone()}
        if number < stated:
            file[f"blocks.0.attn1.{module}.alpha"] = torch.tensor(4)  # kohya writes integers, too
    save_file(file, tmp_path / "a.safetensors")
    config, _ = read_adapter(tmp_path / "a.safetensors", tiny_wan())
    assert (config.r, config.lora_alpha) == (4, 4.0)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (stated < 2) and all(f"no alpha for {2 - stated} of 2 layers" in one for one in said)


def tampered(tmp_path, change):
    """An exported file after `change` (of its tensors) was written back."""
    path = tmp_path / "a.safetensors"
    write_adapter(path, trained(tiny_wan()), "diffusers")
    with safe_open(path, "pt") as file:
        tensors, metadata = {k: file.get_tensor(k) for k in file.keys()}, file.metadata()  # noqa: SIM118
    change(tensors, metadata)
    save_file(tensors, path, metadata=metadata)
    return path


Q = "transformer.blocks.0.attn1.to_q.lora_{}.weight"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t, m: t.pop(Q.format("B")), "blocks.0.attn1.to_q has no LoRA B"),
        (lambda t, m: t.update({Q.format("A"): torch.zeros(4, 48)}), r"A \[4, 48\] .* wants A \[rank, 24\]"),
        (lambda t, m: t.update({Q.format("B"): torch.zeros(24, 3)}), r"B \[24, 3\]"),
        (lambda t, m: t.update({Q.format("A"): torch.full((4, 24), torch.nan)}), "not finite"),
        (lambda t, m: t.update({"transformer.proj_out.lora_A.weight": torch.zeros(4, 24)}), "proj_out"),
        (lambda t, m: t.update({Q.format("A").replace("0", "77"): torch.zeros(4, 24)}), "blocks.77.attn1"),
        (lambda t, m: t.update({Q.format("magnitude_vector"): torch.ones(24)}), "lora_magnitude"),
        (lambda t, m: t.clear(), "holds no tensors"),
        (lambda t, m: m.update(lora_adapter_metadata="{not json"), "header"),
        (lambda t, m: m.update(lora_adapter_metadata='{"r": 4}'), "no lora_alpha"),
        (lambda t, m: m.update(lora_adapter_metadata='{"lora_alpha": 4, "use_dora": true}'), "use_dora=True"),
        (lambda t, m: m.update(lora_adapter_metadata='{"lora_alpha": 4, "bias": "all"}'), "bias=all"),
        (lambda t, m: m.update(lora_adapter_metadata='{"lora_alpha": "4"}'), "no lora_alpha"),
        (lambda t, m: t.update({Q.format("A"): torch.ones(4, 24, dtype=torch.int8)}), "quantised integers"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_refused_by_name_and_shape(tmp_path, change, says):
    path = tampered(tmp_path, change)
    transformer = tiny_wan()
    before = [name for name, _ in transformer.named_modules()]
    with pytest.raises(ValueError, match=says) as refused:
        read_adapter(path, transformer)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)
    assert [name for name, _ in transformer.named_modules()] == before


def test_an_adapter_of_another_model_is_refused(tmp_path):
    write_adapter(tmp_path / "a.safetensors", trained(tiny_wan()), "comfyui")
    other = WanTransformer3DModel(
        patch_size=(1, 1, 1), num_attention_heads=2, attention_head_dim=24, in_channels=4, out_channels=4,
        text_dim=8, freq_dim=16, ffn_dim=64, num_layers=2,
    )  # fmt: skip
    with pytest.raises(
        ValueError, match=r"A \[4, 24\] and B \[24, 4\], the model wants A \[rank, 48\].* more"
    ):
        read_adapter(tmp_path / "a.safetensors", other)


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was executed",))


def test_what_is_no_safetensors_file_is_refused_and_not_executed(tmp_path):
    for name in ("a.bin", "a.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps(Evil()))
    whole = tmp_path / "whole.safetensors"
    write_adapter(whole, trained(tiny_wan()), "comfyui")
    (tmp_path / "cut.safetensors").write_bytes(whole.read_bytes()[:-100])
    (tmp_path / "folder.safetensors").mkdir()
    cases = {
        "a.bin": "pickled weights are not read",
        "a.safetensors": "damaged or no safetensors",
        "cut.safetensors": "damaged or no safetensors",
        "absent.safetensors": "no file",
        "folder.safetensors": "no file",
    }
    for name, says in cases.items():
        with pytest.raises(ValueError, match=says):
            read_adapter(tmp_path / name, tiny_wan())


def test_equal_settings_stay_as_they_are():
    config, tensors = trained(tiny_wan())
    again_config, again = adapter_of(factors_of((config, tensors)))
    assert (again_config.r, again_config.lora_alpha) == (4, 6.0)
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)
    assert len(again) == LAYERS * 10 * 2
