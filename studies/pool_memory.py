"""What the processes of a run hold of host memory.

    python studies/pool_memory.py [CONFIG.yaml] [a.b=c ...]

Runs `ft2ray align` and prints the most memory of each kind of Ray process, looked at once a second. The
figures of the embedded models stand in ft2ray/pipeline/memory.py.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time

import psutil

KIND = re.compile(r"ray::(?:ServeReplica:\S+:|MapWorker\(\w+\()?(\w+)")


def main(settings: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ft2ray.cli", "align", *settings, f"run_dir={folder}/run"]
        run = subprocess.Popen(command)
        most: dict[str, tuple[float, float]] = {}
        while run.poll() is None:
            for process in psutil.process_iter(["name", "cmdline"]):
                title = " ".join(process.info["cmdline"] or [])
                found = KIND.match(title)
                own = process.pid == run.pid
                if not found and not own:
                    continue
                try:
                    memory = process.memory_full_info()
                except psutil.Error:
                    continue
                kind = "driver" if own else found[1]  # type: ignore[index]
                rss, uss = most.get(kind, (0.0, 0.0))
                most[kind] = max(rss, memory.rss / 1e9), max(uss, memory.uss / 1e9)
            time.sleep(1)
    for kind, (rss, uss) in sorted(most.items()):
        print(f"{kind:28} {rss:6.2f} GB resident, {uss:6.2f} GB of its own")
    sys.exit(run.returncode)


if __name__ == "__main__":
    main(sys.argv[1:])
