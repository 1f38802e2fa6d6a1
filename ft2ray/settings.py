"""Base of all settings classes.

Each room has its classes in its settings.py (or beside the function, where that module is light): those
files import nothing heavy, so that a command which only reads a configuration starts at once. config.py
composes them.
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, field_validator


class Settings(BaseModel):
    """Immutable settings.

    Unknown fields, NaN, infinities and values of another type are refused; defaults are validated too. A list
    stands for a tuple, as YAML and JSON have no other.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True
    )

    def replaced(self, **values: Any) -> Self:
        """A copy with other values, which are checked."""
        return type(self).model_validate(dict(self) | values)

    @field_validator("*", mode="before")
    @classmethod
    def _tuples(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value
