"""A Wan group through the store and into a whole TLPO run, none of which knows that it is Wan."""

import dataclasses
import math

import numpy as np
import pyarrow as pa
import pytest
import torch

from ft2ray.generator.settings import SamplerSettings
from ft2ray.loaders import load_generator
from ft2ray.media.audio import SAMPLE_RATE, read_audio
from ft2ray.preference.draws import DrawSettings
from ft2ray.preference.rules import Pair
from ft2ray.records import GROUP, Candidate, PromptGroup
from ft2ray.systems import SUM
from ft2ray.tlpo.experts import detach_experts
from ft2ray.tlpo.policy import apply_system, load_policy, save_policy
from ft2ray.tlpo.run import FULL, GATE, TlpoRun, conditions_of
from ft2ray.tlpo.settings import ExpertSettings, LossSettings, OptimizerSettings, TlpoSettings
from tests.conftest import ASSETS

DIMS = ("mn", "ls", "vq")
FAST = SamplerSettings(steps=2, shift=5.0, text_scale=5.0, audio_scale=4.5)
SETTINGS = TlpoSettings(
    experts=ExpertSettings(rank=2), batch=1, steps=1, gate_steps=1, gate_groups=0.0,
    optimizer=OptimizerSettings(learning_rate=1e-2, gate_learning_rate=1e-2),
)  # fmt: skip


# Everything at once that the presets leave to a switch: masks with anchors, the loss on groups, rounds with
# a reference that follows them, experts that listen, and passes of the guidance without conditions.
ONLINE = SETTINGS.replaced(
    experts=ExpertSettings(rank=2, audio=True), steps=2, batch=2, baseline=False,
    loss=LossSettings(kind="nft", reference="last_round"), draws=DrawSettings(drop_conditions=0.5),
)  # fmt: skip


@pytest.fixture(scope="module")
def stored(wan_folder, hopper):
    """A generator, the conditions of a prompt, clips and the group as it lies in the store."""
    generator = load_generator(str(wan_folder("stored")))
    speech = sorted((ASSETS / "speech").glob("*.flac"))[0]
    cond = generator.encode_prompt(hopper, read_audio(speech)[: round(SAMPLE_RATE * 9.5 / 23)])
    mask = np.zeros((1, 3, 16, 16), np.float32)
    mask[..., 9:12, 6:10] = 1.0
    clips = [generator.sample(cond, seed, FAST) for seed in (0, 1)]
    group = PromptGroup(
        group_id="g", round=0, prompt_id="p", portrait="a.jpg", portrait_id="a", speech="b.wav",
        start_seconds=0.0, seconds=0.4, generator=generator.fingerprint, critic="c", dimensions=DIMS,
        text_LD=cond.text_LD.numpy(), audio_LD=cond.audio_LD.numpy(), frames=cond.frames,
        candidates=[
            Candidate(f"c{n}", "base", n, {}, clip.numpy(), mask, scores=[0.9 - 0.6 * n] * 3)
            for n, clip in enumerate(clips)
        ],
        image_LD=cond.image_LD.numpy(), stacked_CFHW=cond.latent_CFHW.numpy(),
    )  # fmt: skip
    (row,) = pa.Table.from_pylist([group.to_row()], schema=GROUP).to_pylist()
    yield generator, cond, clips, PromptGroup.from_row(row)
    detach_experts(generator.transformer)


PAIRS = {name: [Pair(0, 1, 0.5)] for name in (*DIMS, SUM, FULL)}


def test_from_a_stored_group_to_a_policy_that_samples(stored, tmp_path):
    generator, cond, clips, group = stored
    run = TlpoRun(generator, DIMS, SETTINGS, sampling=FAST)
    run.add(group, PAIRS)
    kept = conditions_of(run.groups["g"])
    for field in dataclasses.fields(cond):
        if field.name not in ("frames", "null_text_LD", "part"):  # the null text is the generator's own
            assert torch.equal(getattr(kept, field.name), getattr(cond, field.name)), field.name
    run.train(run.last_step, lambda run: None)
    first = {point["name"]: point["loss"] for point in reversed(run.curves)}
    assert [first[name] for name in (*DIMS, SUM)] == pytest.approx([math.log(2)] * 4, abs=1e-5)
    assert first[GATE] != pytest.approx(math.log(2), abs=1e-7)

    save_policy(tmp_path / "policy", run.policy())
    detach_experts(generator.transformer)
    assert torch.equal(generator.sample(cond, 0, FAST), clips[0])
    apply_system(generator.transformer, load_policy(tmp_path / "policy", generator.fingerprint), "tlpo")
    assert not torch.equal(generator.sample(cond, 0, FAST), clips[0])


def test_rounds_of_the_loss_on_groups_with_masks_and_anchors(stored):
    generator, cond, clips, group = stored
    detach_experts(generator.transformer)
    # The codec has no channels for regions: all but the lips, the lips, everything.
    masks = {"mn": "head", "ls": "lips", "vq": "shape"}
    run = TlpoRun(generator, DIMS, ONLINE, sampling=FAST, rounds=2, masks=masks)
    run.add(group, PAIRS)
    lips, head = (run._batch(name).mask_w_BCFHW for name in ("ls", "mn"))
    assert torch.equal(head, 1 - lips) and run._batch("vq").mask_w_BCFHW is None
    assert {c.part for _ in range(9) for c in run._batch("ls").conditions} == {"all", "null", "text"}
    run.train(run.last_step, lambda run: None)
    for name in DIMS:
        points = [point for point in run.curves if point["name"] == name]
        assert [point["step"] for point in points] == [0, 2] and all(
            point["grad_norm"] > 0 for point in points
        )
        assert [point["displacement"] for point in points] == [0, 0], "each round begins at its own reference"
        assert ("drift" in points[0]) == (name != "vq")
    assert [point["step"] for point in run.curves if point["name"] == GATE] == [1, 3]
    policy = run.policy()
    detach_experts(generator.transformer)
    apply_system(generator.transformer, policy, "tlpo")
    assert not torch.equal(generator.sample(cond, 0, FAST), clips[0])
