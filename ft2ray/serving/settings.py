"""What an application is started with: the `args` of a Serve config file. Unknown keys are refused.

How many replicas there are, how they scale and what they may use are Ray Serve's own settings, under
`deployments` of the same file; their defaults stand at the deployments in critic.py and generator.py.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

from pydantic import Field

from ft2ray.errors import ConfigurationError
from ft2ray.serving.references import Store
from ft2ray.settings import Settings


class FrontSettings(Settings):
    """What both applications keep to at their door."""

    token_env: str = "FT2RAY_TOKEN"
    """Environment variable that holds the token."""
    token_file: str | None = None
    """A file that holds it instead, such as a mounted secret."""
    stores: tuple[Store, ...] = ()
    """References must lie below one of these: s3://bucket/folder or /folder."""
    max_upload_mb: float = Field(100.0, gt=0)
    """Of a whole form, and of each file that is referred to."""
    min_kb_per_second: float = Field(8.0, gt=0)
    """A body that comes more slowly is broken off."""
    deadline_seconds: float = Field(60.0, gt=0)
    """From the arrival to the answer; a client may ask for less."""
    slots: int = Field(8, ge=1)
    """Requests of a replica that are worked on at once, once their body is read."""
    waiting: int = Field(16, ge=0)
    """Requests of a replica that wait for a slot; the others get 503."""
    retry_after_seconds: float = Field(2.0, ge=0)
    decoders: int = Field(2, ge=1)
    """Child processes of a replica that decode files."""
    decoder_seconds: float = Field(30.0, gt=0)
    """For one request; then its child process is ended."""
    decoder_memory_mb: float = Field(4000.0, gt=0)
    """For one request, beyond what an idle child process has."""

    @property
    def max_bytes(self) -> int:
        return round(self.max_upload_mb * 1e6)

    def token(self) -> str | None:
        """The secret that every request must carry; None where none is set up.

        Raises:
            ConfigurationError: the file is named but unusable.
        """
        if self.token_file is None:
            return os.environ.get(self.token_env) or None
        try:
            token = Path(self.token_file).read_text().strip()
        except OSError as error:
            raise ConfigurationError(
                f"token_file {self.token_file} cannot be read: {error.strerror}"
            ) from error
        if not token:
            raise ConfigurationError(f"token_file {self.token_file} is empty; write the token into it")
        return token


class CriticServeConfig(FrontSettings):
    weights: str = "embedded"
    """This, fps and pixels as in the section `critic` of a run."""
    fps: float | None = Field(None, gt=0)
    pixels: int | None = Field(None, ge=1)
    max_seconds: float = Field(20.0, gt=0)
    """Of a clip."""
    batch_frames: int = Field(600, ge=1)
    """Of all clips that are scored in one batch."""
    batch_timeout_seconds: float = Field(60.0, gt=0)
    """A replica whose batch takes longer is replaced."""


class GeneratorServeConfig(FrontSettings):
    weights: str | None = None
    """As generator.weights of a run; None takes those of run_dir, else the embedded."""
    run_dir: str | None = None
    """The run whose current policy is served; None serves the base."""
    allow_code: bool = False
    """Import and call the generator that the run's configuration names by code."""
    follow_seconds: float = Field(2.0, gt=0)
    """Between two looks at the run's current policy."""
    result_store: Store | None = None
    """Where clips go that are asked for as references."""
    link_seconds: int = Field(3600, gt=0, le=7 * 24 * 3600)
    """How long the link to a result holds; credentials that end sooner take it with them."""
    max_seconds: float = Field(60.0, gt=0)
    """Of a recording."""
    max_steps: int = Field(50, ge=1)
    slots: int = Field(16, ge=1)
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
