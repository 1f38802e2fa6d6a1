"""The whole configuration: frozen dataclasses, one YAML file and dotted overrides.

`load_config("my.yaml", ["tlpo.steps=50"])` starts from the defaults below, applies the file, then the
overrides. A key that does not exist is refused with the nearest one that does, a value of the wrong type
with the type that was wanted, so a typing error never runs as a silent default.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class PromptsConfig:
    """What to animate: portraits x clips of speech, some of them kept apart for the evaluation."""

    portraits: str = "embedded"  # a folder of photos, or the public-domain ones in the package
    speech: str = "embedded"  # a folder of recordings, or the public-domain ones in the package
    seconds: float = 3.0  # length of a clip; lip-sync can not be judged below about 1.3 s
    hop_seconds: float = 1.0  # curation clips of one recording may overlap; evaluation clips never do
    curation: int = 24  # prompt groups to curate at most
    evaluation: int = 8  # prompts of the evaluation at most, from recordings that curation never saw
    max_recording_seconds: float = 300.0
    size: int = 256  # pixels of the square video


@dataclass(frozen=True)
class GeneratorConfig:
    weights: str = "embedded"  # folder with config.json and model.safetensors
    steps: int = 10  # Euler steps
    shift: float = 1.0
    text_scale: float = 1.0
    audio_scale: float = 2.0  # guidance of the systems that the evaluation compares


@dataclass(frozen=True)
class CriticConfig:
    weights: str = "embedded"
    batch: int = 8
    timeout_seconds: float = 60.0
    retries: int = 1  # a failed call is tried again this often, then the score is null with its reason


@dataclass(frozen=True)
class CurationConfig:
    candidates: int = 8  # per prompt
    audio_scales: tuple[float, ...] = (0.4, 1.0, 2.0, 6.0)  # guidance, dealt round-robin to the candidates
    keep_videos: bool = False  # also store an mp4 of every candidate


@dataclass(frozen=True)
class PreferenceConfig:
    rule: str = "best_worst"  # or "all": every admissible pair of a group
    # The paper's rule is answers_differ=true with a margin of 0.3 on P(Yes). The packaged critic says Yes to
    # the lip-sync of 96 % of the candidates, so that this leaves 5 pairs in 24 groups; its order tells more.
    answers_differ: bool = False
    margin: float = 0.7  # least difference of the score in the space below
    margin_space: str = "logit"  # logit or p


@dataclass(frozen=True)
class TlpoConfig:
    """Stage 1 (experts) and stage 2 (gate) of timestep-layer adaptive preference optimisation."""

    dimensions: tuple[str, ...] = ("mn", "ls", "vq")
    rank: int = 16
    alpha: float = 16.0
    loss: str = "dpo"  # dpo | ipo | simpo
    beta: float = 100.0  # with the mean over elements as reduction
    masked: tuple[str, ...] = ("ls",)  # dimensions whose error counts the lip region only
    sdpo_mu: float | None = None  # winner safeguard of Diffusion-SDPO; None is off
    learning_rate: float = 2e-4
    batch: int = 8  # pairs a step
    steps: int = 80  # updates of each expert
    gate: str = "full"  # full | timestep | layer | uniform | segments
    gate_shared: bool = False  # one projection for all layers instead of one per layer
    gate_learning_rate: float = 2e-2
    gate_steps: int = 40
    workers: int = 2
    checkpoint_every: int = 10


@dataclass(frozen=True)
class EvaluationConfig:
    seeds: tuple[int, ...] = (0, 1, 2)
    systems: tuple[str, ...] = ("base", "expert_mn", "expert_ls", "expert_vq", "uniform", "dpo_sum", "tlpo")
    reference_clips: str | None = None  # folder of real talking clips; None takes the package's own judge
    bootstrap: int = 2000
    report_videos: int = 2  # prompts whose videos go into the report


@dataclass(frozen=True)
class ClusterConfig:
    address: str | None = None  # None starts Ray on this machine, "auto" joins the running cluster
    generators: int = 2  # actors that sample and decode
    generator_cpus: float = 0.5
    generator_gpus: float = 0.0
    critic_replicas: int = 1
    critic_cpus: float = 0.2
    critic_gpus: float = 0.0
    train_cpus: float = 0.5
    train_gpus: float = 0.0


@dataclass(frozen=True)
class PlanConfig:
    """What `ft2ray plan` reckons with; a run does not read it."""

    gpu: str = "H100"
    workers: int = 8  # cards in all, each a training worker
    achieved: float = 0.4  # share of the card's bf16 rate that is reached: an assumption
    pairs: int = 1  # pairs that a training worker holds at once
    zero_stage: int = 2  # DeepSpeed ZeRO: 0 | 1 | 2 | 3
    checkpointing: bool = True
    critic_fps: float = 10.0  # what a full-size critic sees: frames a second,
    critic_pixels: int = 448  # and the side of its square pictures


@dataclass(frozen=True)
class AlignConfig:
    run_dir: str = "runs/demo"
    seed: int = 0
    prompts: PromptsConfig = field(default_factory=PromptsConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    curation: CurationConfig = field(default_factory=CurationConfig)
    preference: PreferenceConfig = field(default_factory=PreferenceConfig)
    tlpo: TlpoConfig = field(default_factory=TlpoConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)

    def __post_init__(self) -> None:
        _require(
            self.curation.candidates >= 2, "curation.candidates", "at least 2: a pair needs two candidates"
        )
        _require(self.prompts.seconds >= 1.0, "prompts.seconds", "at least 1.0")
        _require(
            0 < self.prompts.hop_seconds <= self.prompts.seconds, "prompts.hop_seconds", "in (0, seconds]"
        )
        _require(self.prompts.curation >= 1, "prompts.curation", "at least 1")
        _require(self.prompts.evaluation >= 1, "prompts.evaluation", "at least 1")
        _require(self.preference.rule in ("best_worst", "all"), "preference.rule", "best_worst or all")
        _require(self.preference.margin_space in ("p", "logit"), "preference.margin_space", "p or logit")
        _require(self.tlpo.loss in ("dpo", "ipo", "simpo"), "tlpo.loss", "dpo, ipo or simpo")
        gates = ("full", "timestep", "layer", "uniform", "segments")
        _require(self.tlpo.gate in gates, "tlpo.gate", "one of " + ", ".join(gates))
        _require(self.plan.workers >= 1, "plan.workers", "at least 1")
        _require(self.plan.pairs >= 1, "plan.pairs", "at least 1")
        _require(0 < self.plan.achieved <= 1, "plan.achieved", "in (0, 1]")
        _require(self.plan.zero_stage in (0, 1, 2, 3), "plan.zero_stage", "0, 1, 2 or 3")
        _require(self.plan.critic_fps > 0, "plan.critic_fps", "more than 0")
        _require(len(self.evaluation.seeds) >= 1, "evaluation.seeds", "at least one seed")
        _require(
            "base" in self.evaluation.systems,
            "evaluation.systems",
            "a list with base in it: it is the reference",
        )


def _require(holds: bool, key: str, wanted: str) -> None:
    if not holds:
        raise ValueError(f"configuration: {key} must be {wanted}")


def load_config(path: str | Path | None = None, overrides: typing.Sequence[str] = ()) -> AlignConfig:
    """Defaults, then the YAML file, then `a.b=c` overrides. Raises ValueError on anything unknown."""
    tree: dict[str, Any] = {}
    if path is not None:
        file = Path(path)
        if not file.is_file():
            raise ValueError(f"configuration: no file {file}; give the path of a YAML file")
        try:
            loaded = yaml.safe_load(file.read_text())
        except yaml.YAMLError as error:
            raise ValueError(f"configuration: {file} is not valid YAML: {error}") from error
        if loaded is not None and not isinstance(loaded, dict):
            raise ValueError(f"configuration: {file} must hold a mapping, not {type(loaded).__name__}")
        tree = loaded or {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ValueError(f"configuration: override {override!r} is not of the form a.b=value")
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(f"configuration: {key} goes below a plain value")
        node[leaf] = yaml.safe_load(text)
    return _build(AlignConfig, tree, "")


def to_dict(config: Any) -> dict[str, Any]:
    """Plain dict of lists and scalars, as YAML and JSON take it."""
    return {
        name: to_dict(value)
        if dataclasses.is_dataclass(value)
        else list(value)
        if isinstance(value, tuple)
        else value
        for name, value in ((f.name, getattr(config, f.name)) for f in dataclasses.fields(config))
    }


def to_yaml(config: AlignConfig) -> str:
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def _build(cls: type, tree: dict[str, Any], prefix: str) -> Any:
    hints = typing.get_type_hints(cls)
    for key in tree:
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1, cutoff=0.4)
            meant = f"; did you mean {prefix}{near[0]}?" if near else f"; known: {', '.join(hints)}"
            raise ValueError(f"configuration: unknown key {prefix}{key}{meant}")
    values = {}
    for key, value in tree.items():
        hint, where = hints[key], prefix + key
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, dict):
                raise ValueError(f"configuration: {where} is a section, not a plain value")
            values[key] = _build(typing.cast(type, hint), value, where + ".")
        else:
            values[key] = _coerce(hint, value, where)
    return cls(**values)


def _coerce(hint: Any, value: Any, where: str) -> Any:
    """Check `value` against a type hint; an int is a float, a list a tuple, nothing else changes type."""
    if isinstance(hint, types.UnionType):  # only `X | None` is used above
        inner = next(arg for arg in typing.get_args(hint) if arg is not type(None))
        return None if value is None else _coerce(inner, value, where)
    if typing.get_origin(hint) is tuple:
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_coerce(typing.get_args(hint)[0], item, where) for item in items)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):  # YAML 1.1 reads 1e-4 as a string
        try:
            return float(value)
        except ValueError:
            pass
    if type(value) is not hint:
        raise ValueError(f"configuration: {where} must be {hint.__name__}, got {value!r}")
    return value
