"""Runs for tests, whose identities are stated instead of made from prompts and weights; their settings."""

from collections.abc import Sequence

from ft2ray.config import AlignConfig
from ft2ray.rounds.plan import Plan
from ft2ray.rounds.schedule import GroupSpec
from ft2ray.run import Run


def changed(settings: Sequence[str], *more: str) -> list[str]:
    """The settings with others in their place: none may be given twice."""
    return list({setting.partition("=")[0]: setting for setting in (*settings, *more)}.values())


def stated(
    config: AlignConfig,
    specs: Sequence[GroupSpec] = (),
    key: str = "key",
    plan: Plan | None = None,
    critic: str = "crit",
) -> Run:
    """A run of generator "gen" and critic "crit" (or another); it must not be sent to other processes."""
    run = Run(config)
    run.__dict__ |= {
        "key": key,
        "specs": list(specs),
        "plan": plan or Plan([], [], []),
        "_fingerprints": {"generator": "gen", "critic": critic},
    }
    return run
