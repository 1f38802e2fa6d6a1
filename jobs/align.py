"""The whole method as one job: `ray job submit --working-dir . -- python jobs/align.py CONFIG.yaml a.b=c`.

The job may be stopped, may fail, and may be submitted again under any id: what its run folder holds already
is not made again.
"""

import sys

from output_path import check_output_path

from ft2ray.cli import main, read_settings
from ft2ray.errors import UserError


def run(settings: list[str]) -> int:
    if not any(setting.startswith("resources.address=") for setting in settings):
        settings = ["resources.address=auto", *settings]  # the cluster that runs the job
    try:
        config = read_settings([s for s in settings if not s.startswith("--")])
        check_output_path("run_dir", config.run_dir)
    except UserError as error:
        print(f"ft2ray: {error}", file=sys.stderr)
        return 2
    return main(["align", *settings])


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
