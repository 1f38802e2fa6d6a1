"""The whole configuration of a run: the settings of every room, one YAML file and dotted overrides.

`load_config("recipes/demo.yaml", ["tlpo.steps=50"])` starts from the defaults of the classes, applies the
file, then the overrides. A key that does not exist is refused with the nearest one that does, a value of the
wrong type with the type that is needed, so a typing error never runs as a silent default.
"""

from __future__ import annotations

import difflib
import re
import reprlib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field, NonNegativeInt, ValidationError, model_validator
from pydantic_core import ErrorDetails

from ft2ray.critic.settings import CriticSettings
from ft2ray.dimensions import DEFAULT_DIMENSIONS, Dimension, known
from ft2ray.errors import ConfigurationError
from ft2ray.evaluation.settings import EvaluationSettings
from ft2ray.generator.settings import GeneratorSettings
from ft2ray.preference.rules import PairRule
from ft2ray.resources import ResourceSettings
from ft2ray.rounds.settings import CurationSettings, PromptSettings, ScheduleSettings
from ft2ray.settings import Settings, Text
from ft2ray.systems import SUM, systems_of
from ft2ray.texts import decoded
from ft2ray.tlpo.settings import TlpoSettings, check_compute

_SHOWN = reprlib.Repr()  # YAML's aliases make gigabytes of a few lines
_SHOWN.maxstring, _SHOWN.maxother, _SHOWN.maxlevel = 200, 200, 2


class AlignConfig(Settings):
    """Everything that `ft2ray align` reads."""

    run_dir: Text = "runs/demo"  # a local path or an s3:// URL
    seed: NonNegativeInt = 0
    # What clips are judged by: names of the default ones, or your own with name, title, question, metric.
    dimensions: tuple[Annotated[Dimension, BeforeValidator(known)], ...] = Field(
        DEFAULT_DIMENSIONS, min_length=1
    )
    prompts: PromptSettings = PromptSettings()
    generator: GeneratorSettings = GeneratorSettings()
    critic: CriticSettings = CriticSettings()
    curation: CurationSettings = CurationSettings()
    pairs: PairRule = PairRule()
    schedule: ScheduleSettings = ScheduleSettings()
    tlpo: TlpoSettings = TlpoSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    resources: ResourceSettings = ResourceSettings()

    @property
    def dimension_names(self) -> tuple[str, ...]:
        return tuple(dimension.name for dimension in self.dimensions)

    @property
    def systems(self) -> tuple[str, ...]:
        """The systems that the evaluation compares."""
        return self.evaluation.systems or self._possible_systems()

    def _possible_systems(self) -> tuple[str, ...]:
        adapters = (*self.dimension_names, *((SUM,) if self.tlpo.baseline else ()))
        return tuple(systems_of(self.dimension_names, adapters, gate=True))

    @model_validator(mode="after")
    def _fits_together(self) -> AlignConfig:
        check_compute(self.tlpo, self.resources.compute, self.resources.pools.training.count)
        self.tlpo.gate.segments(len(self.dimensions))
        if self.schedule.rounds > self.tlpo.steps:
            raise ConfigurationError(
                f"schedule.rounds {self.schedule.rounds} must be at most tlpo.steps {self.tlpo.steps}: every "
                "round trains"
            )
        if len(set(self.dimension_names)) < len(self.dimensions):
            raise ConfigurationError(f"dimensions: a name occurs twice in {', '.join(self.dimension_names)}")
        if unknown := set(self.systems) - set(self._possible_systems()):
            raise ConfigurationError(
                f"evaluation.systems: no system {', '.join(sorted(unknown))}; there are "
                f"{', '.join(self._possible_systems())}"
            )
        return self


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> AlignConfig:
    """Defaults, then the YAML file, then `a.b=c` overrides.

    Text settings take the text behind the first = as it is; the others are read as YAML.

    Raises:
        ConfigurationError: for a file that cannot be read, for any key or value that does not fit, and for an
            override that is given twice.
    """
    tree = AlignConfig().model_dump()
    if path is not None:
        _merge(tree, read_yaml(Path(path)), f"{path}: ")
    given: dict[str, str] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigurationError(f"configuration: override {override!r} is not of the form a.b=value")
        if key in given:
            raise ConfigurationError(f"configuration: {given[key]} and {override} are given; leave one out")
        given[key] = override
        value = _override_value(key, text)
        for name in reversed(key.split(".")):
            value = {name: value}
        _merge(tree, value)
    try:
        return AlignConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigurationError("configuration: " + "; ".join(map(_sentence, error.errors()))) from error


def is_override(text: str) -> bool:
    """Whether a command-line argument is `a.b=c`; otherwise it names a file, whose path may hold a = too."""
    return "=" in text and text.partition("=")[0].split(".")[0] in AlignConfig.model_fields


def to_dict(config: Settings) -> dict[str, Any]:
    """Plain dict of lists and scalars, as YAML and JSON take it."""
    return config.model_dump(mode="json")


def to_yaml(config: Settings) -> str:
    return yaml.dump(to_dict(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping in `file`; an empty file is an empty mapping.

    Raises:
        ConfigurationError: for a file that is missing, not text, not YAML or not a mapping, and for a key
            that occurs twice.
    """
    if not file.is_file():
        raise ConfigurationError(f"configuration: no file {file}; give the path of a YAML file")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"configuration: {file} cannot be read: {error.strerror}") from error
    try:
        text = decoded(data)
        loaded = yaml.load(text, _Loader)  # noqa: S506  # a SafeLoader
        if isinstance(loaded, dict):
            _take_texts(loaded, yaml.load(text, yaml.BaseLoader), AlignConfig)
    except UnicodeDecodeError as error:
        said = f"{file} is not {error.encoding} text; save it as UTF-8"
        raise ConfigurationError(f"configuration: {said}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigurationError(f"configuration: {file} is not valid YAML: {error}") from error
    if loaded is not None and not isinstance(loaded, dict):
        raise ConfigurationError(f"configuration: {file} must hold a mapping, not {type(loaded).__name__}")
    return loaded or {}


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars, no key twice, and keys that are text.

    YAML 1.1 takes `on` for true, 1:30 for 90 and 010 for 8, and does not take 1e-4 for a number.
    """

    yaml_implicit_resolvers = {
        first: [(tag, regexp) for tag, regexp in resolvers if tag.rpartition(":")[2] in ("null", "merge")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be text", key_node.start_mark)
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value} occurs twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        try:
            return int(node.value)
        except ValueError as error:  # thousands of digits
            raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from error


class _Dumper(yaml.SafeDumper):
    """Puts quotes around text that either version of YAML takes for something else."""


_SCALARS = {
    "bool": ("true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?\d+", "-+0123456789"),
    "float": (
        r"[-+]?(\.\d+|\d+\.\d*)([eE][-+]?\d+)?|[-+]?\d+[eE][-+]?\d+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
}
for _name, (_pattern, _first) in _SCALARS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"({_pattern})$"), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_integer)


def _merge(tree: dict[str, Any], given: Mapping[str, Any], source: str = "", prefix: str = "") -> None:
    """Put `given` over `tree`; a section that is empty leaves everything as it is."""
    for key, value in given.items():
        if isinstance(tree.get(key), dict):
            if value is None:
                continue
            if not isinstance(value, dict):
                raise ConfigurationError(
                    f"configuration: {source}{prefix}{key} is a section, not a plain value; set one of "
                    f"{', '.join(f'{prefix}{key}.{name}' for name in tree[key])}"
                )
            _merge(tree[key], value, source, f"{prefix}{key}.")
        else:
            tree[str(key)] = value


def _override_value(key: str, text: str) -> Any:
    hint: Any = AlignConfig
    for name in key.split("."):
        if not _is_section(hint):
            raise ConfigurationError(f"configuration: {key} goes below a plain value")
        hint = _hint(hint, name)
        if hint is Any:
            break
    if hint is not Any and _is_text(hint):
        return None if text == "null" and type(None) in typing.get_args(hint) else text
    try:
        return yaml.load(text, _Loader)  # noqa: S506
    except (yaml.YAMLError, RecursionError) as error:
        shown = f"{key}={_SHOWN.repr(text)}"
        raise ConfigurationError(f"configuration: {shown} cannot be read as YAML: {error}") from error


def _take_texts(loaded: dict[str, Any], plain: Mapping[str, Any], section: type[Settings]) -> None:
    """Put what stands in a file into its text settings: a folder may be called 2024 or true."""
    for key, value in loaded.items():
        hint = _hint(section, key)
        if _is_section(hint) and isinstance(value, dict):
            _take_texts(value, plain.get(key, {}), hint)
        elif hint is not Any and _is_text(hint) and isinstance(value, bool | int | float):
            loaded[key] = plain.get(key, value)  # not there: it came with a merge key


def _hint(section: type[Settings], name: str) -> Any:
    """The type of a setting; Any for an unknown one, which validation reports."""
    return typing.get_type_hints(section).get(name) if name in section.model_fields else Any


def _is_section(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Settings)


def _is_text(hint: Any) -> bool:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return all(_is_text(part) for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is typing.Literal:
        return all(isinstance(choice, str) for choice in typing.get_args(hint))
    return hint is str


def _sentence(error: ErrorDetails) -> str:
    *parents, name = error["loc"] or ("",)
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        known = _fields(parents)
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
        prefix = "".join(f"{parent}." for parent in parents)
        return f"unknown key {where}; " + (
            f"did you mean {prefix}{near[0]}?" if near else f"known: {', '.join(known)}"
        )
    if error["type"] == "value_error":
        return f"{where}: {error['ctx']['error']}" if where else str(error["ctx"]["error"])
    wanted = error["msg"].replace("Input should", "must", 1)
    return f"{where} {wanted}, got {_SHOWN.repr(error['input'])}"


def _fields(parents: Sequence[Any]) -> list[str]:
    hint: Any = AlignConfig
    for name in parents:
        if not _is_section(hint):
            return []
        hint = typing.get_type_hints(hint)[name]
    return list(hint.model_fields)
