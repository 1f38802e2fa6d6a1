"""A job's current folder is Ray's copy of the working directory, which is deleted after the job.

Results that were written there would be lost, although the job succeeded.
"""

from pathlib import Path

from ft2ray.errors import UserError
from ft2ray.storage import local_path


def check_output_path(name: str, path: str) -> None:
    """Refuse a relative path, which would lie in that folder, and a URL that is not of S3.

    Raises:
        ConfigurationError: for another URL.
        UserError: for a relative path; it names the setting or option.
    """
    if local_path(path) is not None and not Path(path).is_absolute():
        raise UserError(
            f"{name} {path!r} would lie in a folder that is deleted with the job; give s3://bucket/... "
            "or an absolute path on a disk that all nodes share"
        )
