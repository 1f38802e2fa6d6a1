"""Write a run's report again as a job: `ray job submit --working-dir . -- python jobs/report.py RUN_DIR`."""

import sys

from ft2ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
