"""Base of all settings classes.

Each room has its classes in its settings.py (or beside the function, where that module is light): those
files import nothing heavy, so that a command which only reads a configuration starts at once. config.py
composes them.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, field_validator


def _says_something(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty: perhaps a variable is not set")
    if "\0" in text:
        raise ValueError("must not hold a zero byte: no path does")
    return text


Text = Annotated[str, AfterValidator(_says_something)]
"""A name, path or URL."""


class Settings(BaseModel):
    """Immutable settings.

    Unknown fields, NaN, infinities, numbers beyond 64 bits and values of another type are refused; defaults
    are validated too. A list stands for a tuple, as YAML and JSON have no other.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True
    )

    def replaced(self, **values: Any) -> Self:
        """A copy with other values, which are checked."""
        return type(self).model_validate(dict(self) | values)

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        value = tuple(value) if isinstance(value, list) else value
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int) and abs(number) >= 2**63:
                raise ValueError("must be less than 2**63: no machine counts further")
        return value
