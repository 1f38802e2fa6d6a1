"""The packaged critic with its scaling fitted anew on people's answers: minutes on a laptop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ft2ray.critic.assessment import read_margins
from ft2ray.critic.calibration import LEAST, calibrate
from ft2ray.critic.labels import Label
from ft2ray.critic.talking.critic import CONFIG, TalkingCritic, save_critic
from ft2ray.errors import DataError
from ft2ray.storage import exists, join, new_folder


def recalibrate(
    critic: TalkingCritic,
    labels: Sequence[Label],
    out: str,
    say: Callable[[int, int], None] = lambda done, of: None,
) -> tuple[str, dict[str, Any]]:
    """Write `out`, a folder for `critic.weights`: the same network, whose P(Yes) fits what people answered.

    `say`: told after each clip how many of how many are read.

    Returns the new fingerprint, and what the critic reaches by `calibrate`: figures of answers that had
    no part in the scaling that they judge.

    Raises DataError where `out` is there already, or no dimension has enough answers.
    """
    if exists(join(out, CONFIG)):
        raise DataError(f"{out} holds a critic already; give a new folder")
    margin_NK, label_NK = read_margins(critic, labels, say)
    scaling, calibration = calibrate(margin_NK, label_NK, critic.dimensions)
    fitted = [name for name in critic.dimensions if scaling[name] != (1.0, 0.0)]
    if not fitted:
        raise DataError(
            f"labels: no dimension has the {2 * LEAST} answers Yes and {2 * LEAST} answers No that a scaling "
            f"takes; there are {len(labels)} clips, label more"
        )
    kept = {name: scaling[name] if name in fitted else critic.scaling[name] for name in critic.dimensions}
    with new_folder(out, last=CONFIG) as folder:
        fingerprint = save_critic(
            folder,
            critic.model,
            critic.tokenizer,
            critic.processor,
            critic.questions,
            calibration,
            kept,
            critic.head,
        )
    return fingerprint, calibration
