"""Write docs/settings.md from the settings classes: python docs/settings_reference.py.

The description of a field is its comment: the lines directly above it, or the one behind it.
"""

from __future__ import annotations

import inspect
import io
import tokenize
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from ft2ray.config import AlignConfig

PAGE = Path(__file__).parent / "settings.md"
HEAD = """# Settings

All settings of a run with their defaults, generated from the classes by `docs/settings_reference.py`. Give
them in a YAML file or as `a.b=c` on the command line; `ft2ray align --dry-run` prints what they resolve to.
"""


def comments(model: type[BaseModel]) -> dict[str, str]:
    """Field name -> its comment in the source of `model`."""
    tokens = list(tokenize.generate_tokens(io.StringIO(inspect.getsource(model)).readline))
    found: dict[str, str] = {}
    above: list[str] = []
    field, depth = None, 0
    for token in tokens:
        if token.type == tokenize.COMMENT:
            text = token.string.lstrip("# ")
            if field is None:
                above.append(text)
            else:
                found[field] = f"{found.get(field, '')} {text}".strip()
        elif token.type == tokenize.OP and token.string in "([{":
            depth += 1
        elif token.type == tokenize.OP and token.string in ")]}":
            depth -= 1
        elif token.type == tokenize.NAME and field is None and token.string in model.model_fields:
            field = token.string
            if above:
                found[field] = " ".join(above)
            above = []
        elif token.type == tokenize.NEWLINE and depth == 0:
            field, above = None, []
    return found


def sections(settings: BaseModel, prefix: str = "") -> list[str]:
    """A table for the plain fields of `settings` with their values, then those of its sections."""
    model = type(settings)
    said, rows, below = comments(model), [], []
    for name, field in model.model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            below += sections(value, f"{prefix}{name}.")
            continue
        choices = (
            " | ".join(map(str, get_args(field.annotation)))
            if get_origin(field.annotation) is Literal
            else ""
        )
        text = "; ".join(filter(None, [choices, said.get(name)])).replace("|", "\\|")
        rows.append(f"| `{prefix}{name}` | `{shown(value)}` | {text} |")
    title = [f"## {prefix.rstrip('.') or 'Run'}", "", (inspect.getdoc(model) or "").split("\n\n")[0], ""]
    table = ["| setting | default | |", "|---|---|---|", *rows, ""] if rows else []
    return [*title, *table, *below]


def shown(value: Any) -> str:
    text = str(list(value)) if isinstance(value, tuple) else "null" if value is None else str(value)
    return text.replace("|", "\\|")


def page() -> str:
    return HEAD + "\n" + "\n".join(sections(AlignConfig()))


if __name__ == "__main__":
    PAGE.write_text(page())
