"""The groups of a run as people look through them."""

from ft2ray.observe.groups import find_groups, read_group
from ft2ray.preference.wrong_pairs import WrongPair
from ft2ray.records import Prompt
from ft2ray.rounds.schedule import GroupSpec, candidate_draws
from ft2ray.run import group_store
from tests.rounds.test_pairs import CONFIG, group
from tests.runs import stated


def looked_through(tmp_path):
    config = CONFIG.replaced(run_dir=str(tmp_path))
    group_store(config.run_dir).commit_once([group("a", "mine").to_row()])
    prompts = {
        "a": Prompt("prompt", "ada.jpg", "b.wav", 0.0, 3.0),
        "b": Prompt("p2", "bob.jpg", "b.wav", 0.0, 3.0),
    }
    return stated(config, [GroupSpec(name, 0, prompt) for name, prompt in prompts.items()], critic="mine")


def test_a_group_has_its_candidates_scores_clips_and_pairs(tmp_path):
    run = looked_through(tmp_path)
    first = candidate_draws(run.config, 0, "prompt")[0].candidate_id("prompt", "gen", "base")
    (tmp_path / "store" / "videos").mkdir(parents=True)
    (tmp_path / "store" / "videos" / f"{first}.mp4").write_bytes(b"")
    view = read_group(run, "a")
    assert [c.video for c in view.candidates] == [f"store/videos/{first}.mp4", None]
    assert view.candidates[0].p_yes == {"mn": 0.9, "ls": 0.9, "vq": 0.9}
    assert [pair for pair, _ in view.pairs] == [WrongPair("a", name, 0, 1) for name in ("mn", "ls", "vq")]


def test_groups_are_found_by_portrait_recording_and_policy_once_they_are_there(tmp_path):
    run = looked_through(tmp_path)
    assert [found for found, _ in find_groups(run)] == ["a"]
    assert find_groups(run, "ADA", "ba") and not find_groups(run, "bob") and not find_groups(run, policy="x")
