"""Base of all settings classes. Each lives beside the code that it configures; config.py composes them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Immutable settings: unknown fields, NaN and infinities are refused, defaults are validated too."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)
