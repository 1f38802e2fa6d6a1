"""The whole method as one job: `ray job submit --working-dir . -- python jobs/align.py CONFIG.yaml a.b=c`.

The job may be stopped, may fail, and may be submitted again under any id: what its run folder holds already
is not made again.
"""

import sys
from pathlib import Path

from ft2ray.cli import main, read_settings


def run(settings: list[str]) -> int:
    settings = ["cluster.address=auto", *settings]  # the cluster that runs the job
    try:
        check_run_dir(read_settings(settings).run_dir)
    except ValueError as error:
        print(f"ft2ray: {error}", file=sys.stderr)
        return 2
    return main(["align", *settings])


def check_run_dir(run_dir: str) -> None:
    """A job's current folder is Ray's copy of the working directory, which is deleted after the job."""
    if "://" not in run_dir and not Path(run_dir).is_absolute():
        raise ValueError(
            f"run_dir {run_dir!r} would lie in a folder that is deleted with the job; give "
            "s3://bucket/folder or the absolute path of a disk that all nodes share"
        )


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
