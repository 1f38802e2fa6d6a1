"""A policy: what alignment adds to a frozen base. Its folder is written whole or not at all.

    policy.json                                       base, dimensions, ranks, gate, fingerprint
    adapters/<name>/pytorch_lora_weights.safetensors  diffusers' LoRA layout, alpha kept in its metadata
    gate.safetensors                                  absent before stage 2

Every adapter folder loads on its own: `transformer.load_lora_adapter(folder, use_safetensors=True)`, or
`load_lora_weights(folder)` of a Wan pipeline.

What it can be run as at inference: see `ft2ray.systems`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY, LORA_WEIGHT_NAME_SAFE
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ft2ray.errors import NonFiniteError, WeightsError
from ft2ray.storage import (
    check_files,
    exists,
    file_digests,
    join,
    local_folder,
    new_folder,
    write_json,
)
from ft2ray.systems import System, systems_of
from ft2ray.tlpo.description import DESCRIPTION, FORMAT, REMEDY, published_fingerprint, read_description
from ft2ray.tlpo.experts import Experts
from ft2ray.tlpo.gate import TimestepLayerGate, UserWeights
from ft2ray.tlpo.settings import GateSettings

EMBEDDED = Path(str(files("ft2ray") / "assets" / "policy"))  # of the base embedded-uncurated
PREFIX = "transformer."  # the pipelines' name of the module that the adapters belong to


@dataclass(frozen=True)
class Policy:
    """`adapters`: name -> (LoRA configuration, tensors in peft's layout); `gate` None before stage 2;
    `dimensions`: the experts that are fused, in the order of the gate's weights."""

    base_fingerprint: str
    dimensions: tuple[str, ...]
    adapters: dict[str, tuple[LoraConfig, dict[str, Tensor]]]
    gate: TimestepLayerGate | None = None

    @property
    def fingerprint(self) -> str:
        """16 hex digits over everything that decides what the policy generates, the base included."""
        digest = hashlib.sha256(json.dumps([self.base_fingerprint, self.dimensions]).encode())
        for name, (config, tensors) in sorted(self.adapters.items()):
            digest.update(json.dumps([name, config.r, config.lora_alpha]).encode())
            _digest_tensors(digest, tensors)
        if self.gate is not None:
            digest.update(json.dumps(_gate_description(self.gate), sort_keys=True).encode())
            _digest_tensors(digest, self.gate.state_dict())
        return digest.hexdigest()[:16]

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by adapter and key; those of the gate as gate/key."""
        found = {f"{name}/{key}": t for name, (_, held) in self.adapters.items() for key, t in held.items()}
        gate = {} if self.gate is None else self.gate.state_dict()
        return found | {f"gate/{key}": tensor for key, tensor in gate.items()}

    @property
    def systems(self) -> dict[str, System]:
        """The systems, by name, that this policy can be run as."""
        return systems_of(self.dimensions, self.adapters, self.gate is not None)


def policy_of(
    experts: Experts,
    dimensions: Sequence[str],
    base_fingerprint: str,
    gate: TimestepLayerGate | None = None,
) -> Policy:
    """Snapshot of experts (and gate) as they are now; later training does not change it."""
    adapters = {name: (experts.config(name), experts.state(name)) for name in experts.names}
    return Policy(
        base_fingerprint, tuple(dimensions), adapters, _copy_gate(gate) if gate is not None else None
    )


class AttachedPolicy:
    """A policy on a transformer; `use` switches between its systems at no cost.

    Args:
        transformer: the base; adapters that it carries are taken off first.
        policy: what it runs.
    """

    def __init__(self, transformer: nn.Module, policy: Policy):
        self.policy = policy
        self.experts = Experts.from_states(transformer, policy.adapters)
        device = next(transformer.parameters()).device
        self.gate = None if policy.gate is None else _copy_gate(policy.gate).to(device)

    def use(self, system: str, weights: Mapping[str, float] | None = None, how: str = "multiply") -> None:
        """Run the transformer as `system` from now on.

        `weights`, for the fused systems uniform and tlpo: the user's weight per dimension, which multiplies
        or replaces the gate's (see UserWeights).
        """
        systems = self.policy.systems
        if system not in systems:
            raise WeightsError(f"policy: no system {system!r} in it; it has {', '.join(systems)}")
        chosen = systems[system]
        if not chosen.fused:
            if weights is not None:
                raise WeightsError(f"policy: user weights need a fused system (uniform, tlpo), not {system}")
            self.experts.use(chosen.adapters)
            return
        gate = self.gate
        if chosen.weights == "equal":
            gate = TimestepLayerGate(1, len(chosen.adapters), 1, GateSettings(mode="uniform"))
        assert gate is not None
        source = gate if weights is None else UserWeights(gate, weights, chosen.adapters, how)
        self.experts.use(chosen.adapters, source)


def apply_system(
    transformer: nn.Module,
    policy: Policy,
    system: str,
    weights: Mapping[str, float] | None = None,
    how: str = "multiply",
) -> AttachedPolicy:
    """Attach `policy` and run as `system`; keep the result to switch systems without attaching again."""
    attached = AttachedPolicy(transformer, policy)
    attached.use(system, weights, how)
    return attached


def save_policy(directory: str | Path, policy: Policy) -> str:
    """Publish `policy` as folder `directory` (a path or an s3:// URL); returns its fingerprint.

    The folder appears complete or not at all; on S3 policy.json, which readers look for, is written last.
    Publishing the same policy again changes nothing; a folder that holds another one is refused, since
    a reader may be half-way through.

    Raises:
        NonFiniteError: for a tensor with NaN or infinity in it.
    """
    require_finite("policy", policy.tensors())
    fingerprint = policy.fingerprint
    if exists(join(directory, DESCRIPTION)):
        held = published_fingerprint(directory)
        if held != fingerprint:
            raise WeightsError(f"policy: {directory} already holds policy {held}; publish to a new folder")
    else:
        with new_folder(directory, last=DESCRIPTION) as path:
            _write_files(path, policy)
    return fingerprint


def _write_files(folder: Path, policy: Policy) -> None:
    for name, (config, tensors) in policy.adapters.items():
        (folder / "adapters" / name).mkdir(parents=True)
        save_adapter(folder / "adapters" / name / LORA_WEIGHT_NAME_SAFE, config, tensors)
    if policy.gate is not None:
        save_file(policy.gate.state_dict(), folder / "gate.safetensors", metadata={"format": "pt"})
    description = {
        "format": FORMAT,
        "fingerprint": policy.fingerprint,
        "base": policy.base_fingerprint,
        "dimensions": list(policy.dimensions),
        "adapters": {n: {"rank": c.r, "alpha": c.lora_alpha} for n, (c, _) in policy.adapters.items()},
        "gate": None if policy.gate is None else _gate_description(policy.gate),
        "files": file_digests(folder),
    }
    write_json(folder / DESCRIPTION, description)


def load_policy(directory: str | Path, base_fingerprint: str) -> Policy:
    """Read a policy for the base with `base_fingerprint`; "embedded" is the package's own.

    Args:
        directory: of the policy.
        base_fingerprint: of the generator that it is for.

    Returns:
        The policy.

    Raises:
        WeightsError: it was made for another base, or its files are not those that were written.
    """
    directory = EMBEDDED if directory == "embedded" else directory
    description = read_description(directory)
    directory = local_folder(directory)
    check_files(directory, description["files"], "a policy", REMEDY)
    if description["base"] != base_fingerprint:
        raise WeightsError(
            f"policy: {directory} was trained on base {description['base']}, but the loaded base is "
            f"{base_fingerprint}; adapters only fit the weights they were trained on"
        )
    adapters = {
        name: _load_adapter(directory / "adapters" / name / LORA_WEIGHT_NAME_SAFE)
        for name in description["adapters"]
    }
    gate = None
    if description["gate"] is not None:
        gate = _build_gate(description["gate"])
        gate.load_state_dict(_read(directory / "gate.safetensors")[1])
    policy = Policy(base_fingerprint, tuple(description["dimensions"]), adapters, gate)
    assert policy.fingerprint == description["fingerprint"], "the files are those that were published"
    try:
        require_finite("policy", policy.tensors())
    except NonFiniteError as error:
        raise WeightsError(f"{error}; {directory} cannot be used, take an earlier policy") from error
    return policy


def require_finite(what: str, tensors: Mapping[str, Tensor]) -> None:
    """NonFiniteError that names the first tensor with NaN or infinity in it."""
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise NonFiniteError(f"{what}: the tensor {name} is not finite")


def save_adapter(path: Path, config: LoraConfig, tensors: dict[str, Tensor]) -> None:
    """One LoRA file that diffusers' `load_lora_weights` reads, rank and alpha included."""
    settings = {k: list(v) if isinstance(v, set) else v for k, v in config.to_dict().items()}
    header = json.dumps({PREFIX + key: value for key, value in settings.items()}, sort_keys=True)
    metadata = {"format": "pt", LORA_ADAPTER_METADATA_KEY: header}
    save_file({PREFIX + key: tensor for key, tensor in tensors.items()}, path, metadata=metadata)


def _load_adapter(path: Path) -> tuple[LoraConfig, dict[str, Tensor]]:
    metadata, tensors = _read(path)
    settings = {k.removeprefix(PREFIX): v for k, v in json.loads(metadata[LORA_ADAPTER_METADATA_KEY]).items()}
    config = LoraConfig.from_peft_type(**settings)
    assert isinstance(config, LoraConfig)
    return config, {key.removeprefix(PREFIX): tensor for key, tensor in tensors.items()}


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    with safe_open(path, "pt") as file:
        return file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def _gate_description(gate: TimestepLayerGate) -> dict[str, Any]:
    sizes = {"layers": gate.layers, "experts": gate.experts, "width": gate.width}
    return sizes | gate.config.model_dump(mode="json")


def _build_gate(description: dict[str, Any]) -> TimestepLayerGate:
    sizes = {key: description[key] for key in ("layers", "experts", "width")}
    settings = {key: value for key, value in description.items() if key not in sizes}
    return TimestepLayerGate(**sizes, config=GateSettings(**settings))


def _copy_gate(gate: TimestepLayerGate) -> TimestepLayerGate:
    """A CPU copy that does not learn."""
    copy = _build_gate(_gate_description(gate))
    copy.load_state_dict({key: tensor.detach().cpu() for key, tensor in gate.state_dict().items()})
    return copy.requires_grad_(False)


def _digest_tensors(digest: Any, tensors: dict[str, Tensor]) -> None:
    for key, tensor in sorted(tensors.items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
