"""A store that is slower than the training must not fill the disk of temporary files."""

import json
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray

STEPS = 6
UPLOAD_SECONDS = 1.0


def loop(arguments):
    import tempfile

    from ray.train.v2._internal.execution.storage import StorageContext

    from ft2ray.pipeline.training import Upload

    quick = StorageContext.persist_current_checkpoint

    def slow(*upload):
        time.sleep(UPLOAD_SECONDS)
        return quick(*upload)

    StorageContext.persist_current_checkpoint = slow
    upload, made, held, seconds = Upload(), [], [], []
    for step in range(STEPS):
        folder = Path(tempfile.mkdtemp(dir=arguments["here"]))
        (folder / "state").write_text(str(step))
        made.append(folder)
        began = time.monotonic()
        upload(folder, step)
        seconds.append(time.monotonic() - began)
        held.append(sum(folder.exists() for folder in made))
    (Path(arguments["here"]) / "held.json").write_text(json.dumps([held, seconds]))


def test_at_most_two_checkpoints_wait_for_a_slow_store(tmp_path):
    import ray
    from ray.train import CheckpointConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    here = tmp_path / "here"
    here.mkdir()
    root = str(Path(__file__).parents[2])
    environment = {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    ray.init(address="local", num_cpus=4, log_to_driver=False, runtime_env={"env_vars": environment})
    try:
        result = DataParallelTrainer(
            loop,
            train_loop_config={"here": str(here)},
            scaling_config=ScalingConfig(num_workers=1),
            run_config=RunConfig(
                name="slow",
                storage_path=str(tmp_path / "store"),
                checkpoint_config=CheckpointConfig(num_to_keep=2),
            ),
        ).fit()
    finally:
        ray.shutdown()
    held, seconds = json.loads((here / "held.json").read_text())
    assert max(held) <= 2 and seconds[0] < UPLOAD_SECONDS, (held, seconds)
    assert Path(result.checkpoint.path, "state").read_text() == str(STEPS - 1), "the last one is kept"
    assert not [folder for folder in here.iterdir() if folder.is_dir()]
