"""The numbered policies of a training run: 0 is the base, each later one a folder that appears whole.

policies/<key>-<version>/               adapters and gate (ft2ray/tlpo/policy.py)
policies/<key>-<version>.curves.json    how the training went up to there
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ft2ray.storage import exists, join, write_atomically

if TYPE_CHECKING:
    from ft2ray.tlpo.policy import Policy


def policy_url(run_dir: str, key: str, version: int) -> str:
    return join(run_dir, "policies", f"{key}-{version}")


def curves_url(policy: str) -> str:
    """Training curves of a published policy: a list of {"step", "name", metric: value, ...}."""
    return policy + ".curves.json"


def is_published(policy: str) -> bool:
    return exists(join(policy, "policy.json"))  # written last


def newest_policy(run_dir: str, key: str, at_most: int) -> int:
    """The highest version published, but not above `at_most`; 0 is always there."""
    versions = range(at_most, 0, -1)
    return next((v for v in versions if is_published(policy_url(run_dir, key, v))), 0)


def publish_version(
    run_dir: str, key: str, version: int, policy: Policy, curves: list[dict[str, Any]]
) -> None:
    """Publish what was trained so far; the same version again changes nothing."""
    # Imports diffusers and peft, which those who only look for policies do not need.
    from ft2ray.tlpo.policy import save_policy

    url = policy_url(run_dir, key, version)
    write_atomically(curves_url(url), json.dumps(curves).encode())
    save_policy(url, policy)
