"""Animate a portrait as a job: `ray job submit --working-dir . -- python jobs/generate.py --portrait ...`."""

import sys

from ft2ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["generate", *sys.argv[1:]]))
