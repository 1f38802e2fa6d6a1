"""A new policy is tried out before it takes requests; a bad one leaves the old one at work, and is said."""

import json
import shutil

import pytest
import torch

from ft2ray.errors import NonFiniteError, StoreUnavailable
from ft2ray.run import policy_url, publish
from ft2ray.serving import policies
from ft2ray.serving.policies import Follower
from ft2ray.tlpo.policy import save_policy
from tests.serving.conftest import random_policy


@pytest.fixture
def run(tmp_path, animator):
    """A run folder with the policies key-1 to key-3; the second makes NaN of every clip."""
    animator.attached = None
    for version in (1, 2, 3):
        policy = random_policy(animator, version)
        if version == 2:
            next(iter(policy.adapters["ls"][1].values()))[0, 0] = 1e38
        save_policy(policy_url(str(tmp_path), "key", version), policy)
    return tmp_path


def folder(run, version):
    return run / "policies" / f"key-{version}"


def follower(run, animator):
    animator.attached = None
    return Follower(str(run), animator.generator.fingerprint, animator.adopt)


def fingerprint(run, version):
    return json.loads((folder(run, version) / "policy.json").read_text())["fingerprint"]


def test_before_the_first_policy_the_base_is_served(run, animator):
    follow = follower(run, animator)
    follow.look()
    assert animator.policy == "base" and follow.refused is None


@pytest.mark.parametrize("fault", ["nan", "truncated", "another base", "other shapes"])
def test_a_bad_policy_leaves_the_old_one_at_work(run, animator, fault, caplog):
    follow = follower(run, animator)
    publish(run, folder(run, 1))
    follow.look()
    assert animator.policy == fingerprint(run, 1) and follow.refused is None
    bad = run / "policies" / "key-4"
    shutil.copytree(folder(run, 2 if fault == "nan" else 3), bad)
    if fault == "truncated":
        weights = next(bad.rglob("*.safetensors"))
        weights.write_bytes(weights.read_bytes()[:-100])
    if fault == "another base":
        text = (bad / "policy.json").read_text()
        (bad / "policy.json").write_text(text.replace(animator.generator.fingerprint, "0" * 16))
    if fault == "other shapes":
        policy = random_policy(animator, 5)
        tensors = policy.adapters["mn"][1]
        tensors.update({name: torch.cat([tensor, tensor]) for name, tensor in tensors.items()})
        shutil.rmtree(bad)
        save_policy(bad, policy)
    publish(run, bad)
    follow.look()
    assert animator.policy == fingerprint(run, 1)
    assert follow.refused.startswith("key-4: ") and "key-1 stays at work" in caplog.text
    animator.probe()
    publish(run, folder(run, 3))
    follow.look()
    assert animator.policy == fingerprint(run, 3) and follow.refused is None


def test_a_bad_policy_is_tried_again_only_when_it_changes(run, animator):
    tried = []

    def adopt(policy):
        tried.append(policy.fingerprint)
        animator.adopt(policy)

    animator.attached = None
    follow = Follower(str(run), animator.generator.fingerprint, adopt)
    publish(run, folder(run, 1))
    follow.look()
    publish(run, folder(run, 2))
    for _ in range(3):
        follow.look()
    assert tried == [fingerprint(run, 1), fingerprint(run, 2)]
    shutil.rmtree(folder(run, 2))
    shutil.copytree(folder(run, 3), folder(run, 2))
    follow.look()
    assert animator.policy == fingerprint(run, 3) and follow.refused is None


@pytest.mark.parametrize("current, served", [(2, 1), (3, 3)])
def test_a_replica_that_starts_takes_the_newest_policy_that_works(run, animator, current, served):
    follow = follower(run, animator)
    publish(run, folder(run, current))
    follow.look()
    assert animator.policy == fingerprint(run, served)
    assert (follow.refused is None) == (current == served)


def test_where_none_works_the_base_is_served(run, animator):
    shutil.rmtree(folder(run, 1))
    follow = follower(run, animator)
    publish(run, folder(run, 2))
    follow.look()
    assert animator.policy == "base" and "NonFiniteError" in follow.refused


def test_a_store_that_does_not_answer_says_nothing_about_the_policy(run, animator, monkeypatch):
    follow = follower(run, animator)
    publish(run, folder(run, 1))
    load = policies.load_policy

    def silent(*_):
        raise StoreUnavailable("no answer")

    monkeypatch.setattr(policies, "load_policy", silent)
    follow.look()
    assert animator.policy == "base" and follow.refused is None
    monkeypatch.setattr(policies, "load_policy", load)
    follow.look()
    assert animator.policy == fingerprint(run, 1)


def test_adopting_puts_the_old_policy_back(run, animator):
    good = random_policy(animator, 7)
    animator.adopt(good)
    bad = random_policy(animator, 8)
    next(iter(bad.adapters["vq"][1].values()))[0, 0] = 1e38
    with pytest.raises(NonFiniteError):
        animator.adopt(bad)
    assert animator.policy == good.fingerprint
    animator.probe()
