"""Write the lock files anew, with hashes: `make locks`, after a change of pyproject.toml.

    torch-cpu.txt    torch without CUDA, which https://download.pytorch.org/whl/cpu offers
    torch-cuda.txt   torch as PyPI has it, with the CUDA libraries that it needs on Linux
    runtime.txt      what else ft2ray needs
    dev.txt          what tests and linters need beside it

They hold for Linux, macOS and Windows, Python 3.11 and 3.12. jax, which mediapipe asks for and does not
import for face meshes, is left out, so all are installed with `--no-deps`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEFT_OUT = ("jax", "jaxlib")
OF_CUDA = re.compile(r"nvidia-|cuda-|triton\b")
# Of torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl.
TORCH_CPU_HASH = "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"


def compiled(*options: str) -> dict[str, str]:
    """Requirement with hashes by package name."""
    with tempfile.TemporaryDirectory() as folder:
        left_out = Path(folder) / "left_out.txt"
        left_out.write_text("".join(f'{name}; sys_platform == "never"\n' for name in LEFT_OUT))
        command = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version=3.11", "--no-header"]
        command += [
            "--no-annotate",
            "--generate-hashes",
            f"--overrides={left_out}",
            *options,
            "pyproject.toml",
        ]
        text = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    blocks: dict[str, str] = {}
    for block in re.split(r"\n(?=\S)", text.strip()):
        name = block.split("==")[0]
        if name not in LEFT_OUT:
            blocks[name] = blocks.get(name, "") + block + "\n"  # once for each Python where they differ
    return blocks


def main() -> None:
    runtime = compiled("--extra=all")
    version = runtime["torch"].split()[0]
    of_torch = {name for name in runtime if name == "torch" or OF_CUDA.match(name)}
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as pins:
        pins.write("\n".join(re.findall(r"^\S+==.*?(?= \\)", "".join(runtime.values()), re.M)))
        pins.flush()
        everything = compiled("--extra=dev", f"--constraints={pins.name}")
    files = {
        "torch-cpu": {"torch": f"{version}+cpu \\\n    --hash=sha256:{TORCH_CPU_HASH}\n"},
        "torch-cuda": {name: block for name, block in runtime.items() if name in of_torch},
        # As all together need them: what ft2ray needs on Windows only, a tool may need anywhere.
        "runtime": {name: everything.get(name, runtime[name]) for name in runtime if name not in of_torch},
        "dev": {name: block for name, block in everything.items() if name not in runtime},
    }
    for name, blocks in files.items():
        Path(__file__).with_name(f"{name}.txt").write_text("".join(blocks.values()))


if __name__ == "__main__":
    sys.exit(main())
