"""Which groups a training sees from which step on: written down first, waited for, never guessed."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ft2ray.config import load_config
from ft2ray.preference.rules import Pair
from ft2ray.records import Candidate, Prompt, PromptGroup
from ft2ray.rounds import group_loader as module
from ft2ray.rounds.group_loader import CurationFailed, GroupLoader
from ft2ray.rounds.schedule import GroupSpec
from ft2ray.run import group_store, refused_store
from tests.runs import stated

KEY, DIMENSIONS = "key", ("mn", "ls", "vq")
STEPS, PROMPTS = 8, 4


class FakeRun:
    """What a loader sees of a TlpoRun."""

    def __init__(self):
        self.step, self.joined = 0, {}
        self.dimensions = DIMENSIONS
        self.lacking = set(DIMENSIONS)

    @property
    def untrained(self):
        return [name for name in DIMENSIONS if name in self.lacking]

    def add(self, group, pairs):
        assert group.group_id not in self.joined, "joined twice"
        self.joined[group.group_id] = self.step
        self.lacking -= {name for name, found in pairs.items() if found}


class Waited(Exception):
    """Raised instead of the first pause, so that a test sees that there would have been one."""


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    def pause(seconds):
        raise Waited

    monkeypatch.setattr(module.time, "sleep", pause)


@pytest.fixture
def curating(tmp_path) -> Path:
    file = Path(stated(load_config(None, [f"run_dir={tmp_path}"]), key=KEY).curating)
    file.parent.mkdir(parents=True)
    file.touch()
    return file


@pytest.fixture
def config(tmp_path, curating):
    def made(*more: str):
        return load_config(None, [f"run_dir={tmp_path}", f"tlpo.steps={STEPS}", "tlpo.gate_steps=4", *more])

    return made


def specs(rounds=1) -> list[GroupSpec]:
    prompts = [Prompt(f"p{n}", "a.jpg", "b.wav", 0.0, 3.0) for n in range(PROMPTS)]
    return [GroupSpec(f"g{r}{p.prompt_id}", r, p) for r in range(rounds) for p in prompts]


def commit(config, *chosen: GroupSpec) -> None:
    for spec in chosen:
        latents = np.zeros((1, 1, 1, 1), np.float32)
        group = PromptGroup(
            spec.group_id, spec.round, spec.prompt.prompt_id, "a.jpg", "a", "b.wav", 0.0, 3.0, "gen", "crit",
            DIMENSIONS, None, np.zeros((2, 2), np.float32), 1,
            [Candidate("c", "base", 0, {}, latents, latents, None, [0.5, 0.5, 0.5])],
        )  # fmt: skip
        assert group_store(config.run_dir).commit_once([group.to_row()])


def refuse(config, spec: GroupSpec) -> None:
    row = {"group_id": spec.group_id, "path": "a.jpg", "reason": "no_face", "message": "There is none."}
    refused_store(config.run_dir).commit_once([row])


def every_dimension(group):
    return {name: [Pair(0, 1, 1.0)] for name in DIMENSIONS}


def loading(config, wanted, pairs_of=every_dimension, kept=None):
    def of_all(ids):
        return ((group_id, pairs_of(SimpleNamespace(group_id=group_id))) for group_id in ids)

    return GroupLoader(stated(config, wanted, KEY), of_all, kept=kept)


def written(config) -> dict[int, list[str]]:
    files = sorted(Path(stated(config, key=KEY).group_lists).glob("*.json"))
    return {int(file.stem): json.loads(file.read_text())["groups"] for file in files}


def ids(chosen) -> list[str]:
    return sorted(spec.group_id for spec in chosen)


def test_in_turns_the_first_step_waits_for_the_whole_round(config):
    config, wanted, run = config(), specs(), FakeRun()
    loader = loading(config, wanted)
    commit(config, *wanted[:3])
    with pytest.raises(Waited):
        loader(run)
    assert not run.joined and not written(config), "nothing may join before the step can begin"
    commit(config, wanted[3])
    loader(run)
    assert sorted(run.joined) == ids(wanted) and loader.complete


def test_together_a_step_waits_for_its_share_of_the_groups(config):
    config, wanted, run = config("schedule.max_staleness=1"), specs(), FakeRun()
    loader = loading(config, wanted)
    with pytest.raises(Waited):
        loader(run)  # no pair at all yet
    commit(config, wanted[0])
    loader(run)
    run.step = STEPS // 2  # half of the steps need half of the groups
    with pytest.raises(Waited):
        loader(run)
    commit(config, wanted[1])
    loader(run)
    run.step = STEPS  # the gate sees everything
    commit(config, wanted[2])
    with pytest.raises(Waited):
        loader(run)
    commit(config, wanted[3])
    loader(run)
    assert run.joined == {"g0p0": 0, "g0p1": STEPS // 2, "g0p2": STEPS, "g0p3": STEPS}
    assert written(config) == {0: ["g0p0"], STEPS // 2: ["g0p1"], STEPS: ["g0p2", "g0p3"]}


def test_groups_are_written_down_before_they_join(config):
    config, wanted, run = config(), specs(), FakeRun()
    commit(config, *wanted)

    def killed(group):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loading(config, wanted, killed)(run)
    assert written(config) == {0: ids(wanted)} and not run.joined


def test_started_again_it_sees_the_same_groups_at_the_same_steps_whatever_came_since(config):
    config, wanted, first = config("schedule.max_staleness=1"), specs(), FakeRun()
    loader = loading(config, wanted)
    for first.step in range(6):
        if first.step in (0, 2, 4):
            commit(config, wanted[first.step // 2])
        loader(first)
    commit(config, wanted[3])  # nobody has acted on it yet

    again, loader = FakeRun(), loading(config, wanted)
    for again.step in range(5):
        loader(again)
    assert again.joined == {group: step for group, step in first.joined.items() if step < 5}

    resumed, loader = FakeRun(), loading(config, wanted)
    resumed.step = 3  # from a checkpoint
    loader(resumed)
    assert sorted(resumed.joined) == sorted(g for g, step in first.joined.items() if step <= 3)
    for resumed.step in range(4, 7):
        loader(resumed)
    assert resumed.joined["g0p2"] == 4 and resumed.joined["g0p3"] == 5
    assert loader.complete


def test_a_refused_group_counts_as_done(config):
    config, wanted, run = config(), specs(), FakeRun()
    loader = loading(config, wanted)
    commit(config, *wanted[:3])
    refuse(config, wanted[3])
    loader(run)
    assert sorted(run.joined) == ids(wanted[:3]) and loader.complete


def test_a_step_waits_for_a_pair_in_every_dimension_while_more_groups_may_come(config):
    config, wanted, run = config("schedule.max_staleness=1"), specs(), FakeRun()
    found = {"g0p0": ("mn", "ls"), "g0p1": ("mn",), "g0p2": ("vq",), "g0p3": ()}

    def some(group):
        return {name: [Pair(0, 1, 1.0)] for name in found[group.group_id]}

    loader = loading(config, wanted, some)
    for spec in wanted[:2]:
        commit(config, spec)
        with pytest.raises(Waited):
            loader(run)
    commit(config, wanted[2])
    loader(run)
    assert sorted(run.joined) == ids(wanted[:3]) and not run.lacking


@pytest.mark.parametrize("rounds", [1, 3])
def test_it_does_not_wait_for_pairs_where_generation_waits_for_its_policy(config, rounds):
    """The last of three rounds is generated by the policy that this very step leads to."""
    config, run = config("schedule.max_staleness=1", f"schedule.rounds={rounds}"), FakeRun()
    wanted = specs(rounds)
    possible = [spec for spec in wanted if spec.round <= 1]

    def without_vq(group):
        return {name: [Pair(0, 1, 1.0)] for name in ("mn", "ls")}

    loader = loading(config, wanted, without_vq)
    commit(config, *possible[:-1])
    with pytest.raises(Waited):
        loader(run)
    commit(config, possible[-1])
    loader(run)
    assert sorted(run.joined) == ids(possible) and run.untrained == ["vq"]


def test_a_failed_curation_ends_the_waiting(config, curating):
    config, wanted, run = config("schedule.max_staleness=1"), specs(), FakeRun()
    commit(config, *wanted[:2])
    loader = loading(config, wanted)
    loader(run)
    curating.unlink()
    run.step = STEPS
    with pytest.raises(CurationFailed):
        loader(run)
    again = FakeRun()
    loading(config, wanted)(again)
    assert again.joined == run.joined, "what was decided before still holds"


def test_without_any_pair_there_is_nothing_to_begin_with(config):
    config, wanted, run = config("schedule.max_staleness=1"), specs(), FakeRun()
    commit(config, *wanted)
    with pytest.raises(CurationFailed):
        loading(config, wanted, lambda group: {})(run)


def test_a_complete_intake_looks_at_nothing_any_more(config, monkeypatch):
    config, wanted, run = config(), specs(), FakeRun()
    commit(config, *wanted)
    loader = loading(config, wanted)
    loader(run)
    monkeypatch.setattr(loader, "_decide", lambda run: pytest.fail("asked the store again"))
    for run.step in range(1, STEPS):
        loader(run)


DAMAGE = {
    "flipped": lambda file: file.write_bytes(file.read_bytes().replace(b"g0p", b"g1p")),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:9]),
    "empty": lambda file: file.write_bytes(b""),
    "gone": lambda file: file.unlink(),
}


def lists_of(config) -> Path:
    return Path(stated(config, key=KEY).group_lists)


@pytest.fixture
def two_lists(config):
    """Groups that joined before steps 0 and 4: the settings, the specs, the lists."""
    config, wanted = config("schedule.max_staleness=1", "schedule.rounds=2"), specs(2)
    commit(config, *wanted[:6])
    loader, run = loading(config, wanted), FakeRun()
    loader(run)
    commit(config, *wanted[6:])
    run.step = 6
    loader(run)
    assert len(loader.lists) == 2 and loader.lists == written(config)
    return config, wanted, loader.lists


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("which", [0, 1])
def test_a_damaged_list_is_written_again_from_the_checkpoint(two_lists, damage, which, caplog):
    config, wanted, lists = two_lists
    file = lists_of(config) / f"{sorted(lists)[which]:08d}.json"
    before = file.read_bytes()
    DAMAGE[damage](file)
    if damage == "flipped" and file.read_bytes() == before:
        file.write_bytes(before.replace(b"g1p", b"g0p"))
    assert loading(config, wanted, kept=lists).lists == lists == written(config)
    assert file.name in caplog.text


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
def test_a_damaged_list_that_no_checkpoint_has_used_is_decided_anew(two_lists, damage, caplog):
    """And those after it: the first steps would see no groups otherwise."""
    config, wanted, lists = two_lists
    DAMAGE[damage](lists_of(config) / f"{min(lists):08d}.json")
    again, run = loading(config, wanted), FakeRun()
    assert again.lists == {} and "decided anew" in caplog.text
    again(run)
    assert sorted(run.joined) == ids(wanted) and again.complete
