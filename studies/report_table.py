"""The table of a run folder as Markdown.

python studies/report_table.py RUN_DIR
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path


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
    arguments = parser.parse_args()
    report = json.loads((arguments.run / "report.json").read_text())
    print(table(report))
    print(f"\n{report['prompts']} prompts, seeds {report['seeds']}, {report['seconds']:.0f} s in all.")


if __name__ == "__main__":
    main()
