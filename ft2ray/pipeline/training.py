"""TLPO as one Ray Train run: stage 1 trains all experts from one stream, stage 2 the gate.

Every worker reads the committed groups, makes the same draws and takes its share of each batch; gradients are
averaged. A batch of one dimension touches that expert only, so co-training equals separate runs. The baseline
`dpo_sum` is one more adapter in the same run, on pairs of the summed score, with as many updates as all the
experts together.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from ft2ray.config import AlignConfig, to_dict
from ft2ray.parts import load_generator
from ft2ray.pipeline.curation import read_groups
from ft2ray.preference.draws import DrawConfig, PairPool
from ft2ray.preference.rules import PairRule, full_dimension_pairs, pairs, summed_pairs
from ft2ray.records import PromptGroup, content_id
from ft2ray.storage import write_atomically
from ft2ray.tlpo.experts import ExpertConfig
from ft2ray.tlpo.gate import GateConfig
from ft2ray.tlpo.losses import LossConfig
from ft2ray.tlpo.policy import SUM, save_policy
from ft2ray.tlpo.run import FULL, TlpoRun, TlpoSettings


def pair_rule(config: AlignConfig) -> PairRule:
    p = config.preference
    return PairRule(
        kind=p.rule, answers_differ=p.answers_differ, margin=p.margin, margin_space=p.margin_space
    )


def pair_pools(config: AlignConfig, groups: list[PromptGroup]) -> dict[str, PairPool]:
    """Pairs of every dimension, of the summed score and of stage 2 from the groups' scores."""
    rule, dimensions = pair_rule(config), config.tlpo.dimensions
    pools = {name: PairPool() for name in (*dimensions, SUM, FULL)}
    for group in groups:
        p_NK = group.scores_NK()
        for name, found in pairs(p_NK, dimensions, rule).items():
            pools[name].add(group.group_id, found)
        pools[SUM].add(group.group_id, summed_pairs(p_NK, rule))
        pools[FULL].add(group.group_id, full_dimension_pairs(p_NK, rule))
    return pools


def training_key(config: AlignConfig, groups: list[PromptGroup]) -> str:
    """Identity of the policy that this training makes: settings, base, critic and data."""
    sections = {k: to_dict(v) for k, v in (("tlpo", config.tlpo), ("preference", config.preference))}
    sections["tlpo"].pop("checkpoint_every")  # how often it is saved does not change what is learnt
    data = [(g.group_id, g.generator, g.critic, g.scores_NK().tolist()) for g in groups]
    return content_id(sections, config.seed, json.dumps(data))


def curves_file(published: Path) -> Path:
    """Training curves of a published policy: a list of {"step", "name", metric: value, ...}."""
    return published.with_name(published.name + ".curves.json")


def train(config: AlignConfig, groups: list[PromptGroup]) -> Path:
    """Train (or go on training) the policy of these groups; returns its published folder."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    key = training_key(config, groups)
    published = Path(config.run_dir).absolute() / "policies" / key
    if not (published / "policy.json").is_file():
        if config.tlpo.batch % config.tlpo.workers:
            raise ValueError(
                f"tlpo.batch {config.tlpo.batch} must be a multiple of tlpo.workers {config.tlpo.workers}"
            )
        resources = {"CPU": config.cluster.train_cpus, "GPU": config.cluster.train_gpus}
        storage = Path(config.run_dir).absolute() / "train"
        trainer = TorchTrainer(
            _train_loop,
            train_loop_config={
                "config": config,
                "published": str(published),
                "group_ids": [group.group_id for group in groups],
            },
            scaling_config=ScalingConfig(
                num_workers=config.tlpo.workers,
                use_gpu=config.cluster.train_gpus > 0,
                resources_per_worker={k: v for k, v in resources.items() if v},
            ),
            run_config=RunConfig(
                name=key,
                storage_path=str(storage),
                checkpoint_config=CheckpointConfig(num_to_keep=2),
                failure_config=FailureConfig(max_failures=3),
            ),
        )
        with progress(storage / key, config.tlpo.steps + config.tlpo.gate_steps):
            trainer.fit()
    return published


@contextmanager
def progress(folder: Path, steps: int) -> Iterator[None]:
    """A progress bar that follows the checkpoints in `folder`: the workers may sit on other machines."""
    finished = threading.Event()

    def follow() -> None:
        with tqdm(total=steps, unit="step") as bar:
            while not finished.wait(1.0):
                for state in folder.glob("checkpoint_*/state/state.json"):
                    with contextlib.suppress(OSError, ValueError):  # being written, or just deleted
                        step = json.loads(state.read_text())["counters"]["step"]
                        bar.update(max(0, step - bar.n))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()


def settings(config: AlignConfig) -> TlpoSettings:
    t, g = config.tlpo, config.generator
    return TlpoSettings(
        dimensions=t.dimensions,
        expert=ExpertConfig(rank=t.rank, alpha=t.alpha, seed=config.seed),
        loss=LossConfig(kind=t.loss, beta=t.beta, safeguard_mu=t.sdpo_mu, masked=t.masked),
        gate=GateConfig(mode=t.gate, shared=t.gate_shared),
        draw=DrawConfig(seed=config.seed, shift=g.shift),
        batch=t.batch,
        steps=t.steps,
        learning_rate=t.learning_rate,
        gate_steps=t.gate_steps,
        gate_learning_rate=t.gate_learning_rate,
        checkpoint_every=t.checkpoint_every,
    )


def _train_loop(arguments: dict[str, Any]) -> None:
    import ray.train

    torch.set_num_threads(1)
    config: AlignConfig = arguments["config"]
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    wanted = set(arguments["group_ids"])
    groups = [group for group in read_groups(config.run_dir) if group.group_id in wanted]
    run = TlpoRun(
        load_generator(config.generator.weights),
        groups,
        pair_pools(config, groups),
        settings(config),
        rank,
        workers,
    )
    curves: list[dict[str, Any]] = []
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            run.restore(Path(folder) / "state")
            curves = json.loads((Path(folder) / "curves.json").read_text())
    if rank != 0:
        run.train(lambda run: ray.train.report({"step": run.step}))
        return

    def save(run: TlpoRun) -> None:
        curves.extend(run.curves)
        _log(writer, run.curves)
        run.curves.clear()
        with tempfile.TemporaryDirectory() as folder:
            run.save(Path(folder) / "state")
            (Path(folder) / "curves.json").write_text(json.dumps(curves))
            ray.train.report({"step": run.step}, checkpoint=ray.train.Checkpoint.from_directory(folder))

    # A resumed run overwrites what TensorBoard had of the steps after its checkpoint.
    with SummaryWriter(str(Path(config.run_dir) / "tensorboard"), purge_step=run.step) as writer:
        run.train(save)
    published = Path(arguments["published"])
    write_atomically(curves_file(published), json.dumps(curves).encode())
    save_policy(published, run.policy())


def _log(writer: SummaryWriter, curves: list[dict[str, Any]]) -> None:
    for point in curves:
        for key, value in point.items():
            if key not in ("step", "name"):
                writer.add_scalar(f"{point['name']}/{key}", value, point["step"])
