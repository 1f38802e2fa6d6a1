"""One worker, two workers, ZeRO 0, 2 and 3: the same training. Workers are processes that talk over gloo.

All losses are those of one worker without ZeRO up to the order of float32 sums: here 1e-3, since updates of
1e-2 and a beta of 500 multiply every difference. What was saved and resumed is bitwise what went on.
"""

import json
import os
import socket

import pytest
import torch
import torch.distributed as dist

from ft2ray.tlpo import zero
from ft2ray.tlpo.settings import LossSettings
from tests.tlpo.test_run import make_run

pytestmark = pytest.mark.slow

STEPS = {"batch": 4, "steps": 3, "gate_steps": 2}
LAST = 5
CASES = {
    "zero 0": {},
    "zero 0 in parts": {"microbatch": 1, "checkpointing": True},
    "zero 2": {"zero_stage": 2},
    "zero 2 in parts": {"zero_stage": 2, "microbatch": 1},
    "zero 2 offloaded": {"zero_stage": 2, "offload": True},
    "zero 3": {"zero_stage": 3},
    "zero 3 in parts": {"zero_stage": 3, "microbatch": 1, "checkpointing": True},
}
BF16 = {"zero_stage": 3, "precision": "bf16", "checkpointing": True}


def trained(rank, workers, folder=None, resume=None, **changes):
    run = make_run(rank=rank, workers=workers, **STEPS, **changes)
    if resume:
        run.restore(resume)
    run.train(LAST, lambda run: run.save(folder / str(run.step)) if folder else None)
    return run


def worker(rank, workers, port, folder):
    torch.set_num_threads(1)
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder / "compiled")
    zero.WHOLE_BELOW = 0  # all weights of the toy are small
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=workers)
    found = {}
    for name, changes in CASES.items():
        run = trained(rank, workers, folder / name, **changes)
        base = [p for n, p in run.generator.transformer.named_parameters() if "lora" not in n]
        found[name] = {
            "curves": run.curves,
            "policy": run.policy().fingerprint,
            "base": sum(p.numel() for p in base),
            "heat": run.gate_weights().tolist(),
        }
    for name in ("zero 0", "zero 2", "zero 2 offloaded", "zero 3"):
        run = trained(rank, workers, resume=folder / name / "2", **CASES[name])
        found[name]["resumed"] = run.policy().fingerprint
    moved = trained(rank, workers, resume=folder / "zero 0" / "2", **CASES["zero 2"])
    found["zero 0 resumed with zero 2"] = {"curves": moved.curves}
    found["bf16"] = {"curves": trained(rank, workers, **BF16).curves}
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[1, 2])
def found(request, tmp_path_factory):
    """What every worker of one or two found."""
    folder = tmp_path_factory.mktemp("zero")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")  # a fork would inherit locks of threads
    arguments = (request.param, port, folder)
    workers = [context.Process(target=worker, args=(rank, *arguments)) for rank in range(request.param)]
    for process in workers:
        process.start()
    for process in workers:
        process.join(timeout=300)
        assert process.exitcode == 0
    assert not (folder / "compiled").exists(), "DeepSpeed has compiled something"
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(request.param)]


def losses(found, name):
    """Of the whole batch: mean over the workers, each of which knows its share."""
    curves = [of[name]["curves"] for of in found]
    return [sum(point["loss"] for point in points) / len(points) for points in zip(*curves, strict=True)]


@pytest.fixture(scope="module")
def alone():
    """The curves of one worker that knows nothing of others."""
    return trained(0, 1).curves


def wanted(alone):
    return [point["loss"] for point in alone]


@pytest.mark.parametrize("name", CASES)
def test_all_ways_give_the_losses_of_one_worker(found, alone, name):
    assert losses(found, name) == pytest.approx(wanted(alone), rel=1e-3, abs=1e-6)
    norms = [point["grad_norm"] for point in found[0][name]["curves"]]
    assert norms == pytest.approx([point["grad_norm"] for point in alone], rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("name", ["zero 0", "zero 2", "zero 2 offloaded", "zero 3"])
def test_resuming_is_bitwise_going_on(found, name):
    assert found[0][name]["resumed"] == found[0][name]["policy"]


def test_all_workers_hold_the_same_policy_and_gate(found):
    for name in CASES:
        assert len({of[name]["policy"] for of in found}) == 1
        assert all(of[name]["heat"] == found[0][name]["heat"] for of in found)


def test_a_training_may_be_resumed_with_zero_that_began_without(found, alone):
    assert losses(found, "zero 0 resumed with zero 2") == pytest.approx(
        [point["loss"] for point in alone if point["step"] >= 2], rel=1e-3, abs=1e-6
    )


def test_zero_3_leaves_no_worker_with_the_base(found):
    """Between the steps, but for vectors of the first block that no gradient passes on its way back."""
    assert 0 < found[0]["zero 3"]["base"] < 0.03 * found[0]["zero 2"]["base"]


def test_zero_3_with_bf16_and_checkpointing_follows_float32(found, alone):
    first, others = wanted(alone)[0], losses(found, "bf16")
    assert others[0] == pytest.approx(first, abs=0.02)
    assert all(loss == loss and loss < 50 for loss in others)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"zero_stage": 1}, "0, 2 or 3"),
        ({"offload": True}, "offload needs zero_stage 2 or 3"),
        (
            {"zero_stage": 2, "loss": LossSettings(safeguard_mu=0.9)},
            "tlpo.loss.safeguard_mu compares raw gradients",
        ),
        ({"zero_stage": 2}, "there is no process group"),
    ],
)
def test_what_can_not_be_combined_is_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        make_run(**changes)
