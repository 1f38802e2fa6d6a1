"""The whole method as one job: `ray job submit --working-dir . -- python jobs/align.py CONFIG.yaml a.b=c`."""

import sys

from ft2ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["align", *sys.argv[1:]]))
