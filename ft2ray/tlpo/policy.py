"""A policy: what alignment adds to a frozen base. Its folder is written whole or not at all.

    policy.json                                       base, dimensions, ranks, gate, fingerprint
    adapters/<name>/pytorch_lora_weights.safetensors  diffusers' LoRA layout, alpha kept in its metadata
    gate.safetensors                                  absent before stage 2

Every adapter folder loads on its own: `transformer.load_lora_adapter(folder, use_safetensors=True)`, or
`load_lora_weights(folder)` of a Wan pipeline.

Systems at inference: base, expert_<dimension>, uniform (equal weights), dpo_sum (the adapter "sum", trained
by plain DPO on the summed score), tlpo (the gate).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY, LORA_WEIGHT_NAME_SAFE
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ft2ray.errors import WeightsError
from ft2ray.preference.rules import SUM as SUM  # the adapter is named after its pairs
from ft2ray.storage import exists, is_s3, join, local_folder, read_bytes, upload_folder
from ft2ray.tlpo.experts import Experts
from ft2ray.tlpo.gate import TimestepLayerGate, UserWeights
from ft2ray.tlpo.settings import GateSettings

FORMAT = 1
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

    def systems(self) -> tuple[str, ...]:
        """The systems that this policy can be run as."""
        experts = tuple(f"expert_{name}" for name in self.dimensions if name in self.adapters)
        fused = ("uniform",) if len(experts) == len(self.dimensions) else ()
        summed = ("dpo_sum",) if SUM in self.adapters else ()
        return ("base", *experts, *fused, *summed, *(("tlpo",) if fused and self.gate is not None else ()))


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
    """A policy on a transformer; `use` switches between its systems at no cost."""

    def __init__(self, transformer: nn.Module, policy: Policy):
        """Takes whatever adapters the transformer carries off first."""
        self.policy = policy
        self.experts = Experts.from_states(transformer, policy.adapters)
        device = next(transformer.parameters()).device
        self.gate = None if policy.gate is None else _copy_gate(policy.gate).to(device)

    def use(self, system: str, weights: Mapping[str, float] | None = None, how: str = "multiply") -> None:
        """Run the transformer as `system` from now on.

        `weights`, for the fused systems uniform and tlpo: the user's weight per dimension, which multiplies
        or replaces the gate's (see UserWeights).
        """
        policy = self.policy
        if system not in policy.systems():
            raise WeightsError(f"policy: no system {system!r} in it; it has {', '.join(policy.systems())}")
        if system not in ("uniform", "tlpo"):
            if weights is not None:
                raise WeightsError(f"policy: user weights need a fused system (uniform, tlpo), not {system}")
            adapters = {"base": (), "dpo_sum": (SUM,)}.get(system, (system.removeprefix("expert_"),))
            self.experts.use(adapters)
            return
        if system == "tlpo":
            assert self.gate is not None
            gate = self.gate
        else:
            gate = TimestepLayerGate(1, len(policy.dimensions), 1, GateSettings(mode="uniform"))
        source = gate if weights is None else UserWeights(gate, weights, policy.dimensions, how)
        self.experts.use(policy.dimensions, source)


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
    whoever reads it may be half-way through.
    """
    fingerprint = policy.fingerprint
    if exists(join(directory, "policy.json")):
        held = json.loads(read_bytes(join(directory, "policy.json")))["fingerprint"]
        if held != fingerprint:
            raise WeightsError(f"policy: {directory} already holds policy {held}; publish to a new folder")
    elif is_s3(directory):
        with tempfile.TemporaryDirectory() as folder:
            _write_files(Path(folder), policy)
            upload_folder(folder, directory, last="policy.json")
    else:
        with whole_directory(directory) as path:
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
    }
    (folder / "policy.json").write_text(json.dumps(description, indent=2) + "\n")


def load_policy(directory: str | Path, base_fingerprint: str) -> Policy:
    """Read a policy for the base with `base_fingerprint`; ValueError if it was made for another one."""
    if not exists(join(directory, "policy.json")):
        raise WeightsError(
            f"policy: no policy.json in {directory}; give the folder of a finished training run"
        )
    directory = local_folder(directory)
    description = json.loads((directory / "policy.json").read_text())
    if description.get("format") != FORMAT:
        raise WeightsError(f"policy: {directory} has another format than {FORMAT}, which this version reads")
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
    if policy.fingerprint != description["fingerprint"]:
        raise WeightsError(
            f"policy: the files in {directory} are not those that were published; copy it again"
        )
    return policy


@contextmanager
def whole_directory(path: str | Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` when the block ends; after an error nothing of it is left."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with open(file, "rb") as stream:
                    os.fsync(stream.fileno())
        os.rename(temporary, path)  # fails where `path` already has files in it
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
    if not path.is_file():
        raise WeightsError(f"policy: {path} is missing; the folder is incomplete, copy it again")
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
