"""Animate a portrait as a job: `ray job submit --working-dir . -- python jobs/generate.py --portrait ...`."""

import argparse
import sys

from output_path import check_output_path

from ft2ray.cli import main
from ft2ray.errors import UserError


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--out")  # where it is missing `main` says so
    try:
        if (out := parser.parse_known_args(arguments)[0].out) is not None:
            check_output_path("--out", out)
    except UserError as error:
        print(f"ft2ray: {error}", file=sys.stderr)
        return 2
    return main(["generate", *arguments])


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
