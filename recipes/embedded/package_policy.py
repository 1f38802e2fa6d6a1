"""Put a policy of the study into the package: python -m recipes.embedded.package_policy OUT SEED ROUND.

OUT is the folder of studies/tlpo.py. The policy is that of `tlpo` after this round (0: offline), at the
strength that validation prompts chose for it, which goes into the adapters' alpha.
"""

from __future__ import annotations

import argparse
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

from ft2ray.generator.portrait.generator import PortraitGenerator
from ft2ray.tlpo.policy import EMBEDDED, Policy, save_policy
from studies.tlpo_table import chosen_strength, read_rows


def stronger(policy: Policy, strength: float, base_fingerprint: str) -> Policy:
    """The same policy with its weight change multiplied, for the base of this fingerprint."""
    adapters = {}
    for name, (config, tensors) in policy.adapters.items():
        scaled = type(config)(**{**config.to_dict(), "lora_alpha": strength * config.lora_alpha})
        adapters[name] = (scaled, tensors)
    return replace(policy, adapters=adapters, base_fingerprint=base_fingerprint)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("seed", type=int)
    parser.add_argument("round", type=int)
    arguments = parser.parse_args()
    rows = read_rows(arguments.out / "rows.jsonl")
    name = f"tlpo_round{arguments.round}" if arguments.round else "tlpo_offline"
    strength = chosen_strength(rows, name, arguments.seed)
    kept = arguments.out / f"experts-{arguments.seed}-{arguments.round}.pkl"
    policy = pickle.loads(kept.read_bytes())  # noqa: S301  # written by the study on this machine
    card = (EMBEDDED / "README.md").read_bytes() if EMBEDDED.exists() else None
    shutil.rmtree(EMBEDDED, ignore_errors=True)
    base = PortraitGenerator.fingerprint_of("embedded-uncurated")
    print(save_policy(EMBEDDED, stronger(policy, strength, base)), f"strength {strength:g}")
    if card:
        (EMBEDDED / "README.md").write_bytes(card)


if __name__ == "__main__":
    main()
