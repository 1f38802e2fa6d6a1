"""Slots, shares and policies of a schedule: pure arithmetic."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft2ray.config import AlignConfig, CurationConfig, ScheduleConfig, TlpoConfig
from ft2ray.records import Prompt
from ft2ray.rounds.schedule import draws, last_step, oldest_policy, slots, slots_needed, training_key

PROMPTS = [Prompt(f"p{n}", "a.jpg", "b.wav", 0.0, 3.0) for n in range(5)]
schedules = st.builds(ScheduleConfig, rounds=st.integers(1, 5), max_staleness=st.integers(0, 3))
configs = st.builds(
    lambda schedule, steps: AlignConfig(schedule=schedule, tlpo=TlpoConfig(steps=steps)),
    schedules,
    st.integers(5, 100),
)


@given(configs)
def test_every_slot_has_its_own_id_and_every_round_all_prompts(config):
    found = slots(config, "gen", "critic", PROMPTS)
    assert len({slot.group_id for slot in found}) == len(found) == config.schedule.rounds * len(PROMPTS)
    assert [slot.round for slot in found] == sorted(slot.round for slot in found)


scales = st.lists(st.floats(0.1, 8), min_size=1, max_size=3, unique=True).map(tuple)


@given(scales, scales, st.integers(2, 20))
def test_candidates_take_every_way_of_sampling_before_new_noise(audio_scales, noise_scales, candidates):
    curation = CurationConfig(candidates, audio_scales, noise_scales)
    found = draws(AlignConfig(curation=curation), 0, "p0")
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
        assert slots_needed(config, step, total) <= may_be_filled


@given(configs)
def test_needs_only_grow_and_end_with_everything(config):
    total = config.schedule.rounds * len(PROMPTS)
    needed = [slots_needed(config, step, total) for step in range(config.tlpo.steps + 1)]
    assert needed == sorted(needed) and needed[-1] == total
    if config.schedule.max_staleness == 0:
        assert needed[0] == len(PROMPTS)
    else:
        assert needed[0] == 0


def test_the_first_round_serves_other_trainings_too_and_later_ones_do_not():
    config = AlignConfig(schedule=ScheduleConfig(rounds=2))
    other = replace(config, tlpo=TlpoConfig(beta=7.0))
    ours, theirs = (slots(c, "gen", "critic", PROMPTS) for c in (config, other))
    assert [s.group_id for s in ours[:5]] == [s.group_id for s in theirs[:5]]
    assert not {s.group_id for s in ours[5:]} & {s.group_id for s in theirs[5:]}


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"tlpo": TlpoConfig(checkpoint_every=3)}, True),
        ({"curation": CurationConfig(keep_videos=True)}, True),
        ({"run_dir": "elsewhere"}, True),
        ({"tlpo": TlpoConfig(beta=7.0)}, False),
        ({"seed": 1}, False),
    ],
)
def test_the_key_of_a_training_is_what_decides_its_result(change, same):
    config = AlignConfig()
    key = training_key(config, "gen", "critic", PROMPTS)
    assert (training_key(replace(config, **change), "gen", "critic", PROMPTS) == key) is same
    assert training_key(config, "gen", "other", PROMPTS) != key
    assert training_key(config, "gen", "critic", PROMPTS[1:]) != key
