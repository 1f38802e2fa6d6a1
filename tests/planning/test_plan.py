"""Counts of the published models, formulas of the critic, and plans that fit and do not fit."""

import copy
import json
from importlib.resources import files

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import DynamicCache

from ft2ray.cli import main
from ft2ray.config import load_config
from ft2ray.critic.talking.model import ClipBatch, audio_tokens, build_model, video_tokens
from ft2ray.planning import critic_cost
from ft2ray.planning.critic_cost import CriticShape, audio_cost, critic_shape, scoring_cost, vision_cost
from ft2ray.planning.generation import expert_parameters
from ft2ray.planning.gpus import memory_gb
from ft2ray.planning.plan import CostPlan, Worker, make_plan
from ft2ray.planning.shapes import generator_shape
from ft2ray.planning.trace import trace
from ft2ray.tlpo.settings import ExpertSettings


@pytest.fixture
def wan(tmp_path):
    """A generator folder of Wan 14B without weights."""
    settings = {"codec": "wan", "pipeline": "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers", "audio": "x/y/z.ckpt"}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    return tmp_path


def test_wan_14b_has_the_published_size(wan):
    shape = generator_shape(load_config(None, [f"generator.weights={wan}", "prompts.seconds=3.53"]))
    model = shape.transformer()
    audio_keys = model.audio_keys()
    audio = sum(p.numel() for n, p in model.named_parameters() if n in audio_keys)
    assert audio == 840_437_760
    assert round(sum(p.numel() for p in model.parameters()) - audio, -7) == 16_390_000_000
    assert (shape.tokens, shape.audio) == (21_504, 175)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16, torch.float32}  # norms stay in float32
    small = ExpertSettings(rank=1, alpha=1.0)  # the count is linear in the rank
    assert 128 * expert_parameters(shape, small) == 351_272_960
    listening = small.replaced(audio=True)  # queries of 5120 by 5120 and values of 5120 by 2048, in 40 blocks
    assert 128 * expert_parameters(shape, listening) == 351_272_960 + 128 * 40 * (2 * 5120 + 2048 + 5120)


@pytest.mark.parametrize(("seconds", "frames", "windows"), [(3.53, 21, 1), (2.0, 12, 1), (10.0, 58, 4)])
def test_a_long_clip_is_sampled_in_windows(wan, seconds, frames, windows):
    shape = generator_shape(load_config(None, [f"generator.weights={wan}", f"prompts.seconds={seconds}"]))
    window, count = shape.one_window()
    assert (shape.latent_CFHW[1], window.latent_CFHW[1], count) == (frames, min(frames, 21), windows)


@pytest.mark.parametrize(("name", "billions"), [("7B", 8.93), ("3B", 4.70)])
def test_thinkers_have_the_published_size(name, billions):
    thinker = critic_shape(f"Qwen/Qwen2.5-Omni-{name}", 3.5, 10, 448, 3).thinker()
    assert sum(p.numel() for p in thinker.parameters()) / 1e9 == pytest.approx(billions, abs=0.005)


def on_cpu(shape: CriticShape):
    torch.set_num_threads(1)
    return build_model(copy.deepcopy(shape.config)).eval().requires_grad_(False)


def test_the_critic_costs_what_it_does_on_real_tensors(monkeypatch):
    shape = critic_shape("embedded", 3.0, 25, 448, 3)
    thinker = on_cpu(shape)
    vision = thinker.model.visual.config
    t, h, w = shape.grid
    values = 3 * vision.temporal_patch_size * vision.patch_size**2
    clip = ClipBatch(torch.zeros(1, t * h * w, values), shape.grid, torch.zeros(1, 0, values), (),
                     torch.zeros(1, 80, shape.mel_frames))  # fmt: skip
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        pictures = trace(lambda: video_tokens(thinker, clip))
        sound = trace(lambda: audio_tokens(thinker, clip.mel_BMJ))
    # Formulas: within a few per cent in FLOPs (the toy's segments are uneven), of one order in bytes.
    assert vision_cost(shape).flops == pytest.approx(pictures.flops, rel=0.05)
    assert audio_cost(shape).flops == pytest.approx(sound.flops, rel=0.05)
    language = scoring_cost(shape).flops - vision_cost(shape).flops - audio_cost(shape).flops
    cache = DynamicCache(config=thinker.config.get_text_config())
    width = shape.config.text_config.hidden_size

    def read(batch, tokens, start):
        positions = torch.arange(tokens).expand(3, batch, -1) + start
        return thinker.model.language_model(
            inputs_embeds=torch.zeros(batch, tokens, width), position_ids=positions,
            past_key_values=cache, use_cache=True,
        )  # fmt: skip

    def score():
        read(1, shape.prefix_tokens, 0)
        cache.batch_repeat_interleave(3)
        read(3, critic_cost.QUESTION_TOKENS, shape.prefix_tokens)

    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        assert trace(score).flops == language


def plan_with(**amounts):
    worker = Worker("training", {name: value * 1e9 for name, value in amounts.items()})
    return CostPlan("H100", 8, {"clip": "1 s"}, (worker,))


def test_a_plan_that_can_not_fit_is_refused_with_the_sum():
    plan_with(base=34.5, activations=40.0).check()
    with pytest.raises(
        ValueError, match=r"34.5 base \+ 42 activations = 76.5 GB; of the 80 GB of one H100 75.2"
    ):
        plan_with(base=34.5, activations=42.0).check()
    assert "DOES NOT FIT" in plan_with(base=100.0).table()


def test_an_unknown_card_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="'H10' is unknown; did you mean H100"):
        memory_gb("H10")


def test_the_embedded_generator_has_the_published_size():
    model = generator_shape(load_config(None, [])).transformer()
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(2.11, abs=0.005)


def test_a_plan_says_what_it_takes(capsys, monkeypatch, tmp_path):
    values = json.loads((files("ft2ray") / "assets" / "base" / "config.json").read_text())
    values["transformer"]["num_layers"] = 2  # the embedded generator with less to trace
    (tmp_path / "config.json").write_text(json.dumps(values))
    settings = [f"generator.weights={tmp_path}", "tlpo.experts.rank=2", "tlpo.experts.alpha=2",
                "curation.candidates=2", "prompts.curation_prompts=3"]  # fmt: skip
    plan = make_plan(load_config(None, settings))
    monkeypatch.setattr("ft2ray.planning.plan.make_plan", lambda *_: plan)
    assert main(["plan", *settings]) == 0
    said = capsys.readouterr().out
    for expected in ("8 x H100", "ZeRO", "step of one expert"):
        assert expected in said
    clip, score, update, gate = plan.works
    assert clip.times == score.times == 6 and f"{clip.flops / 1e12:.4g}" in said
    assert clip.flops < update.flops < gate.flops


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["--gpu", "H999"], "H999"),
        (["generator.weights=nowhere"], "no nowhere/config.json"),
        (["critic.weights=nowhere"], "critic.weights nowhere is neither a folder"),
        (["critic.weights=Qwen/Qwen2.5-Omni-3B", "critic.pixels=20"], "less than one patch"),
        (["resources.compute.zero_stage=1"], "zero_stage must be 0, 2 or 3"),
    ],
)
def test_mistakes_in_a_plan_are_one_sentence(settings, says, capsys):
    assert main(["plan", *settings]) == 2
    assert says in capsys.readouterr().err


def test_rounds_and_a_reference_that_follows_them_are_in_the_plan():
    def plan(*more):
        return make_plan(
            load_config(None, ["prompts.curation_prompts=3", "tlpo.gate_steps=5", *more]), "H100", 1
        )

    one, four = plan(), plan("schedule.rounds=4", "tlpo.loss.reference=last_round", "tlpo.loss.kind=nft")
    assert [w.times for w in one.works] == [24, 24, one.works[2].times, 5]
    assert [w.times for w in four.works] == [96, 96, one.works[2].times, 20]
    before, after = (p.workers[-1].bytes["adapters"] for p in (one, four))
    assert after == 2 * before
    assert [w.flops for w in four.works] == [w.flops for w in one.works], "a step costs the same"
