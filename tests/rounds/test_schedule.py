"""Groups, shares and policies of a schedule: pure arithmetic."""

from hypothesis import given
from hypothesis import strategies as st

from ft2ray.config import AlignConfig, load_config
from ft2ray.generator.settings import SamplerSettings
from ft2ray.records import Prompt
from ft2ray.resources import ResourceSettings
from ft2ray.rounds.schedule import (
    candidate_draws,
    group_specs,
    groups_needed,
    last_step,
    oldest_policy,
    recorded,
    training_key,
)
from ft2ray.rounds.settings import CurationSettings, ScheduleSettings, Variation
from ft2ray.settings import Settings
from ft2ray.tlpo.settings import GateSettings, LossSettings, TlpoSettings

PROMPTS = [Prompt(f"p{n}", "a.jpg", "b.wav", 0.0, 3.0) for n in range(5)]
schedules = st.builds(ScheduleSettings, rounds=st.integers(1, 5), max_staleness=st.integers(0, 3))
configs = st.builds(
    lambda schedule, steps: AlignConfig(schedule=schedule, tlpo=TlpoSettings(steps=steps)),
    schedules,
    st.integers(5, 100),
)


@given(configs)
def test_every_slot_has_its_own_id_and_every_round_all_prompts(config):
    found = group_specs(config, "gen", "critic", PROMPTS)
    assert len({spec.group_id for spec in found}) == len(found) == config.schedule.rounds * len(PROMPTS)
    assert [spec.round for spec in found] == sorted(spec.round for spec in found)


scales = st.lists(st.floats(0.1, 8), min_size=1, max_size=3, unique=True).map(tuple)


@given(scales, scales, st.integers(2, 20))
def test_candidates_take_every_way_of_sampling_before_new_noise(audio_scales, noise_scales, candidates):
    curation = CurationSettings(
        candidates=candidates, vary=Variation(audio_scale=audio_scales, noise_scale=noise_scales)
    )
    found = candidate_draws(AlignConfig(curation=curation), 0, "p0")
    ways = [(draw.sampler["audio_scale"], draw.sampler["noise_scale"]) for draw in found]
    seeds = [draw.seed for draw in found]
    every = len(audio_scales) * len(noise_scales)
    assert len(found) == candidates == len(set(zip(seeds, ways, strict=True)))
    assert set(ways[:every]) <= {(a, n) for a in audio_scales for n in noise_scales}
    assert all(
        (seeds[i] == seeds[j]) == (i // every == j // every) for i in range(candidates) for j in range(i)
    )


@given(configs)
def test_the_trainer_never_needs_what_generation_may_not_make_yet(config):
    """Else both would wait for ever: round r may be generated once policy r - s is there."""
    total = config.schedule.rounds * len(PROMPTS)
    for step in range(last_step(config, config.schedule.rounds - 1)):
        ends = [last_step(config, r) for r in range(config.schedule.rounds)]
        published = sum(step >= end for end in ends)  # policies that exist before this step
        may_be_filled = len(PROMPTS) * sum(
            oldest_policy(config, r) <= published for r in range(config.schedule.rounds)
        )
        assert groups_needed(config, step, total) <= may_be_filled


@given(configs, st.sampled_from(["full", "uniform"]))
def test_the_gate_learns_at_the_end_of_every_round(config, mode):
    tlpo, rounds = config.tlpo.replaced(gate=GateSettings(mode=mode)), config.schedule.rounds
    turns = "".join("eg"[tlpo.gate_learns(n, rounds)] for n in range(tlpo.last_step(rounds - 1, rounds)))
    assert turns.count("e") == tlpo.steps
    assert turns.count("g") == (rounds * tlpo.gate_steps if mode == "full" else 0)
    for round in range(rounds):
        end = tlpo.last_step(round, rounds)
        assert turns[end - tlpo.gate_updates : end] == "g" * tlpo.gate_updates


@given(configs)
def test_needs_only_grow_and_end_with_everything(config):
    total = config.schedule.rounds * len(PROMPTS)
    last = last_step(config, config.schedule.rounds - 1)
    needed = [groups_needed(config, step, total) for step in range(last + 1)]
    assert needed == sorted(needed) and needed[-1] == total
    assert needed[last - config.tlpo.gate_updates] == total, "the last gate learns from everything"
    if config.schedule.max_staleness == 0:
        assert needed[0] == len(PROMPTS)
    else:
        assert needed[0] == 0


def test_the_first_round_serves_other_trainings_too_and_later_ones_do_not():
    config = AlignConfig(schedule=ScheduleSettings(rounds=2))
    other = config.replaced(tlpo=TlpoSettings(loss=LossSettings(beta=7.0)))
    ours, theirs = (group_specs(c, "gen", "critic", PROMPTS) for c in (config, other))
    assert [s.group_id for s in ours[:5]] == [s.group_id for s in theirs[:5]]
    assert not {s.group_id for s in ours[5:]} & {s.group_id for s in theirs[5:]}


def key_of(*overrides, config=None):
    return training_key(config or load_config(None, overrides), "gen", "critic", PROMPTS)


HOW = (  # another value for every setting that says how a run is computed, evaluated and where it lies
    "run_dir=elsewhere",
    "generator.weights=a copy of the weights",
    "generator.sampling.audio_scale=3",
    "critic.batch=3",
    "critic.timeout_seconds=7",
    "evaluation.seeds=[9]",
    "prompts.max_recording_seconds=999",
    "resources.address=auto",
    "resources.may_add=[1 x CPU=4 memory=8]",
    "resources.keep_videos=true",
    "resources.compute.checkpoint_every=3",
    "resources.compute.checkpointing=true",
    "resources.compute.microbatch=1",
    "resources.compute.zero_stage=2",
    *(
        f"resources.pools.{pool}.{setting}"
        for pool in ("generators", "critic", "training")
        for setting in ("count=4", "cpus=2", "gpus=1", "memory=8", "on=pool=a")
    ),
)


def test_how_a_run_is_computed_is_no_part_of_what_it_learns():
    assert {key_of(how) for how in HOW} == {key_of()}
    assert key_of("resources.compute.zero_stage=2", "resources.compute.offload=true") == key_of()
    changed = {how.partition("=")[0] for how in HOW} | {"resources.compute.offload"}
    assert {name for name in _names(ResourceSettings) if name not in changed} == set()


def _names(settings, prefix="resources"):
    for name, field in settings.model_fields.items():
        hint = field.default
        if isinstance(hint, Settings):
            yield from _names(type(hint), f"{prefix}.{name}")
        else:
            yield f"{prefix}.{name}"


def test_whether_clips_are_guided_decides_what_is_learnt_and_by_how_much_does_not():
    assert (
        key_of("generator.sampling.audio_scale=1") != key_of() == key_of("generator.sampling.audio_scale=3")
    )


def test_what_is_learnt_has_another_key():
    learnt = ("seed=1", "tlpo.loss.beta=7", "tlpo.baseline=false", "pairs.margin=0.1",
              "curation.candidates=4", "generator.sampling.steps=4", "tlpo.optimizer.max_norm=0.5",
              "tlpo.draws.timestep=logit_normal", "tlpo.precision=bf16",
              "schedule.max_staleness=1")  # fmt: skip
    assert len({key_of(), *map(key_of, learnt)}) == len(learnt) + 1
    assert training_key(AlignConfig(), "gen", "other", PROMPTS) != key_of()
    assert training_key(AlignConfig(), "gen", "critic", PROMPTS[1:]) != key_of()


def test_a_new_setting_leaves_the_keys_of_older_runs_as_they_are():
    class LaterLoss(LossSettings):
        sharpness: float = 1.0

    class LaterTlpo(TlpoSettings):
        loss: LaterLoss = LaterLoss()

    class LaterConfig(AlignConfig):
        tlpo: LaterTlpo = LaterTlpo()

    assert key_of(config=LaterConfig()) == key_of()
    assert key_of(config=LaterConfig(tlpo=LaterTlpo(loss=LaterLoss(sharpness=2.0)))) != key_of()


def test_a_way_to_sample_is_recorded_with_later_settings_only_where_they_are_used():
    assert list(recorded(SamplerSettings())) == ["steps", "shift", "text_scale", "audio_scale", "noise_scale"]
    assert recorded(SamplerSettings(window=40, overlap=9))["window"] == 40
    assert SamplerSettings(**recorded(SamplerSettings(steps=3, overlap=9))) == SamplerSettings(
        steps=3, overlap=9
    )


def test_by_default_candidates_differ_by_their_seed_alone():
    config = AlignConfig()
    made = candidate_draws(config, 0, "p")
    assert len({draw.seed for draw in made}) == config.curation.candidates
    assert all(draw.sampler == made[0].sampler for draw in made)
    assert made[0].sampler["audio_scale"] == config.generator.sampling.audio_scale
