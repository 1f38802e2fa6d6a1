"""What a policy's folder says of itself, read without its weights, torch or diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ft2ray.errors import WeightsError
from ft2ray.storage import exists, join, plain_json, read_json

FORMAT = 2
DESCRIPTION = "policy.json"
REMEDY = "copy the folder again, take an earlier policy, or train again in a new run_dir"


def read_description(directory: str | Path) -> dict[str, Any]:
    """Read the description of the policy in a folder.

    Args:
        directory: a path or an s3:// URL.

    Returns:
        Base, dimensions, ranks, gate, files with their digests, and fingerprint.

    Raises:
        WeightsError: where there is none, or one of another format.
        StoredDataError: where it is not what was written.
    """
    url = join(directory, DESCRIPTION)
    if not exists(url):
        raise WeightsError(
            f"policy: no {DESCRIPTION} in {directory}; give the folder of a finished training run"
        )
    found = plain_json(url, "a policy's description", REMEDY)
    if isinstance(found, dict) and found.get("format", FORMAT) != FORMAT:
        raise WeightsError(f"policy: {directory} has another format than {FORMAT}, which this version reads")
    return read_json(url, "a policy's description", REMEDY)


def published_fingerprint(directory: str | Path) -> str:
    """The fingerprint of the policy in a folder."""
    return read_description(directory)["fingerprint"]
