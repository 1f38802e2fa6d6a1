"""The README's picture and table, from a run folder.

python studies/readme.py RUN_DIR            # prints the table as Markdown
python studies/readme.py RUN_DIR --picture bench/result.jpg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from ft2ray.media.video import read_video
from ft2ray.run import Run

SYSTEMS = ("base", "tlpo")
COLUMNS = 7
SIDE = 192


def picture(run_dir: Path) -> Image.Image:
    """Rows: base and TLPO for every portrait that has videos; columns: moments of the clip."""
    rows, seen = [], set()
    for prompt in Run.open(run_dir).plan.evaluation:
        videos = [run_dir / "videos" / f"{prompt.prompt_id}_{system}.mp4" for system in SYSTEMS]
        if prompt.portrait in seen or not all(video.is_file() for video in videos):
            continue
        seen.add(prompt.portrait)
        for video in videos:
            frames_FHW3, _ = read_video(video)
            chosen = np.linspace(4, len(frames_FHW3) - 5, COLUMNS).astype(int)
            images = [
                Image.fromarray(frames_FHW3[i]).resize((SIDE, SIDE), Image.Resampling.LANCZOS) for i in chosen
            ]
            rows.append(np.concatenate([np.asarray(image) for image in images], axis=1))
    if not rows:
        raise SystemExit(f"{run_dir} holds no videos of {' and '.join(SYSTEMS)}")
    return Image.fromarray(np.concatenate(rows))


def table(report: dict) -> str:
    """Markdown: every system's mean and its paired difference to the base with the 95 % interval."""
    lines = ["| system | MN | LS | VQ |", "|---|---|---|---|"]
    for system, figures in report["systems"].items():
        lines.append(
            f"| {system} | " + " | ".join(_cell(figures[d], system) for d in ("mn", "ls", "vq")) + " |"
        )
    for reference, figures in report["references"].items():
        cells = [f"{figures[d]['mean']:.3f}" if figures[d] else "" for d in ("mn", "ls", "vq")]
        lines.append(f"| *{reference.replace('_', ' ')}* | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(figures: dict, system: str) -> str:
    if figures["mean"] is None:
        return ""
    if system == "base" or figures["delta_ci95"] is None:
        return f"{figures['mean']:.3f}"
    low, high = figures["delta_ci95"]
    mark = "**" if low > 0 else "*" if high < 0 else ""
    return f"{figures['mean']:.3f} ({mark}{figures['delta_vs_base']:+.3f}{mark}, {low:+.3f} to {high:+.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    report = json.loads((arguments.run / "report.json").read_text())
    print(table(report))
    print(f"\n{report['prompts']} prompts, seeds {report['seeds']}, {report['seconds']:.0f} s in all.")
    if arguments.picture:
        picture(arguments.run).save(arguments.picture, quality=88)


if __name__ == "__main__":
    main()
