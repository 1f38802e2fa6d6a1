"""The examples of the documentation run: clips, scores, pairs, experts and gate, without Ray.

Any number of dimensions goes the same way, with names of one's own.
"""

import dataclasses
import os
import wave
from pathlib import Path

import numpy as np
import pytest

from ft2ray import Critic, load_config, load_critic, load_generator, load_policy
from ft2ray.animator import Animator
from ft2ray.pipeline.curation import GenerateGroup
from ft2ray.pipeline.training import new_training, pairs_of
from ft2ray.preference.export import export_pairs
from ft2ray.records import Prompt
from ft2ray.rounds.plan import Plan
from ft2ray.rounds.scores import pair_counts, scored_candidates
from ft2ray.run import Run
from ft2ray.tlpo.policy import save_policy
from tests.conftest import ASSETS

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
PORTRAIT = ASSETS / "portraits" / "grace_hopper.jpg"
SPEECH = ASSETS / "speech" / "sense_and_sensibility_0870.flac"


class OneDimension(Critic):
    dimensions = ("busy",)
    fingerprint = "one"

    def score(self, views):
        changes_N1 = np.array([[view.video_WFHW3[..., 2].mean()] for view in views], dtype=np.float64)
        return 1 / (1 + np.exp((3 * np.arange(len(self.dimensions)) - changes_N1) / 20))


class FourDimensions(OneDimension):
    dimensions = ("busy", "lively", "bright", "calm")
    fingerprint = "four"


@pytest.fixture
def examples(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)


@pytest.mark.parametrize(
    "critic", ["own_critic:PlainCritic", f"{__name__}:OneDimension", f"{__name__}:FourDimensions"]
)
def test_own_generator_and_critic_go_the_whole_way(examples, tmp_path, critic):
    names = load_critic(critic, allow_code=True).dimensions
    asked = [{"name": name, "title": name, "question": f"Is it {name}?"} for name in names]
    config = load_config(
        None,
        [
            f"run_dir={tmp_path}",
            "generator.weights=own_generator:NodGenerator",
            f"critic.weights={critic}",
            f"dimensions={asked}",
            "generator.sampling.steps=2",
            "curation.candidates=4",
            "pairs.margin=0",
            "tlpo.steps=2",
            "tlpo.gate_steps=2",
            "tlpo.batch=2",
            "tlpo.experts.rank=2",
            "resources.pools.training.count=1",
        ],
    )
    assert config.dimension_names == names
    assert config.systems == ("base", *(f"expert_{name}" for name in names), "uniform", "dpo_sum", "tlpo")
    scorer = load_critic(critic, allow_code=True)
    generator = load_generator(config.generator.weights, allow_code=True)
    prompts = [Prompt(f"p{i}", str(PORTRAIT), str(SPEECH), float(i), 1.0) for i in range(2)]
    run = Run(config)
    run.begin(Plan(prompts, [], []))
    run.identify(generator.fingerprint, scorer.fingerprint)
    actor = GenerateGroup(run)
    for spec in run.specs:
        made = actor(dataclasses.asdict(spec))
        for candidate, p_K in zip(made["group"].candidates, scorer.score(made["views"]), strict=True):
            candidate.scores = p_K.tolist()
        made["group"].critic = scorer.fingerprint
        run.groups.commit_once([made["group"].to_row()])

    counts = pair_counts(config, scored_candidates(run))
    assert set(counts) == {*names, "sum", "full"} and all(counts[name] for name in names)
    tlpo, found = new_training(config), dict.fromkeys(counts, 0)
    for group in run.curated():
        pairs = pairs_of(config, group, scorer.fingerprint)
        found = {name: found[name] + len(pairs[name]) for name in counts}
        tlpo.add(group, pairs)
    assert found == counts, "what is counted is what is trained on"
    tlpo.train(tlpo.last_step, save=lambda _: None)
    assert tlpo.step == 4

    save_policy(tmp_path / "policy", tlpo.policy())
    policy = load_policy(tmp_path / "policy", generator.fingerprint)
    assert tuple(policy.systems) == config.systems
    animator = Animator(config.generator.weights, 128, 2.0, allow_code=True)
    animator.attach(policy)
    speech = tmp_path / "speech.wav"
    write_second(speech)
    clips = {
        system: animator.animate(PORTRAIT, speech, config.generator.sampling, system=system)
        for system in policy.systems
    }
    assert {clip.frames for clip in clips.values()} == {25}
    exported = export_pairs(run.curated(), config.pairs, tmp_path / "pairs.parquet", scorer.fingerprint)
    assert exported == {name: count for name, count in counts.items() if count and name != "sum"}


def write_second(path: Path) -> None:
    with wave.open(os.fspath(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        t = np.arange(16000) / 16000
        file.writeframes((8000 * np.sin(2 * np.pi * 220 * t) * np.sin(8 * t)).astype("<i2").tobytes())
