"""All benches by one command, each in a process of its own, and one table at the end.

    python bench/run.py [--only NAME ...] [--quick] [--json bench/results.json]

--quick runs every way once: it shows that the benches work, its figures mean little.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from figures import REPETITIONS, profiles, read, table

BENCHES = {
    "fused": "fused_forward.py",
    "dpo": "dpo_step.py",
    "reference": "reference_cache.py",
    "critic": "critic_speed.py",
    "pairs": "pair_building.py",
    "reader": "pair_reader.py",
    "checksums": "checksum_cost.py",
    "curation": "curation_speed.py",
    "together": "overlap.py",
}
# One thread per process: the small models of the benches would wait for their own threads.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "RAY_AUTH_MODE": "token",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=BENCHES, default=list(BENCHES), metavar="NAME")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    here = Path(__file__).parent
    results, failed = {}, []
    for name in arguments.only:
        with tempfile.TemporaryDirectory() as folder:
            found = Path(folder) / "figures.json"
            repetitions = 1 if arguments.quick else REPETITIONS
            command = [sys.executable, str(here / BENCHES[name]), f"--repetitions={repetitions}"]
            start = time.monotonic()
            print(f"{name} ...", flush=True)
            done = subprocess.run([*command, f"--json={found}"], env=os.environ | ENVIRONMENT)
            print(f"{name} took {time.monotonic() - start:.0f} s\n", flush=True)
            if done.returncode:
                failed.append(name)
            else:
                results[name] = read(found)
    print(table(results))
    print("\n" + profiles(results))
    if arguments.json:
        machine = {"cpus": os.cpu_count(), "machine": platform.platform(), "quick": arguments.quick}
        plain = {name: [asdict(figure) for figure in figures] for name, figures in results.items()}
        arguments.json.write_text(json.dumps({"machine": machine, "figures": plain}, indent=1) + "\n")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
