"""What an application is started with: the `args` of a Serve config file. Unknown keys are refused.

How many replicas there are, how they scale, what they may use and how many requests may wait are Ray Serve's
own settings, under `deployments` of the same file.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from ft2ray.errors import ConfigurationError
from ft2ray.serving.references import Store


class FrontSettings(BaseModel):
    """What both applications keep to at their door."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    token_env: str = "FT2RAY_TOKEN"  # environment variable that holds the token ...
    token_file: str | None = None  # ... or a file that does, such as a mounted secret
    stores: tuple[Store, ...] = ()  # references must lie below one of these: s3://bucket/folder or /folder
    max_upload_mb: float = Field(100.0, gt=0)  # of a whole request, and of each file that is referred to
    # Until the answer, from when a replica takes the request; a client may ask for less.
    deadline_seconds: float = Field(60.0, gt=0)
    retry_after_seconds: float = Field(2.0, ge=0)

    @property
    def max_bytes(self) -> int:
        return round(self.max_upload_mb * 1e6)

    def token(self) -> str | None:
        """The secret that every request must carry; None where none is set up.

        Raises:
            ValueError: where the file is named but unusable.
        """
        if self.token_file is None:
            return os.environ.get(self.token_env) or None
        try:
            token = Path(self.token_file).read_text().strip()
        except OSError as error:
            raise ConfigurationError(
                f"token_file {self.token_file} can not be read: {error.strerror}"
            ) from error
        if not token:
            raise ConfigurationError(f"token_file {self.token_file} is empty; write the token into it")
        return token


class CriticServeConfig(FrontSettings):
    weights: str = "embedded"  # this, fps and pixels as in the section `critic` of a run
    fps: float | None = Field(None, gt=0)
    pixels: int | None = Field(None, ge=1)
    max_seconds: float = Field(20.0, gt=0)  # of a clip
    batch_frames: int = Field(600, ge=1)  # of all clips that are scored in one batch
    batch_timeout_seconds: float = Field(60.0, gt=0)  # a replica whose batch takes longer is replaced


class GeneratorServeConfig(FrontSettings):
    weights: str | None = (
        None  # as generator.weights of a run; None takes those of run_dir, else the embedded
    )
    run_dir: str | None = None  # the run whose current policy is served; None serves the base
    allow_code: bool = False  # import and call the generator that the run's configuration names by code
    follow_seconds: float = Field(2.0, gt=0)  # between two looks at the run's current policy
    result_store: Store | None = None  # where clips go that are asked for as references
    # How long the link to a result holds; credentials that end sooner take it with them.
    link_seconds: int = Field(3600, gt=0, le=7 * 24 * 3600)
    max_seconds: float = Field(60.0, gt=0)  # of a recording
    max_steps: int = Field(50, ge=1)
    deadline_seconds: float = Field(300.0, gt=0)


def check_exposure(host: str | None, token: str | None) -> None:
    """Refuse to listen for other machines without a token."""
    if host is None or token is not None or host == "localhost":
        return
    if not ipaddress.ip_address(host).is_loopback:
        raise ConfigurationError(
            f"Serve listens on {host}, where other machines reach it, and no token is set: set FT2RAY_TOKEN "
            "(or token_env, token_file) on every node, or let http_options.host be 127.0.0.1"
        )
