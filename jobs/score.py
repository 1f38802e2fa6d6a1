"""Score clips as a job: `ray job submit --working-dir . -- python jobs/score.py CLIP.mp4`."""

import sys

from ft2ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["score", *sys.argv[1:]]))
