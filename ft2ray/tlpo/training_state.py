"""Everything a training run needs to go on bitwise where it stopped: safetensors and JSON, no pickle.

state.json            counters (cursors, steps), optimiser settings
state.safetensors     adapters, gate, optimiser moments, copies of weights where there are any

The frozen base is not in it: it never changes, and a resumed training has loaded it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import load_file, save_file
from torch import Tensor

from ft2ray.errors import DataError
from ft2ray.storage import new_folder
from ft2ray.tlpo.experts import Experts
from ft2ray.tlpo.gate import TimestepLayerGate
from ft2ray.tlpo.parameter_copies import ParameterCopies
from ft2ray.tlpo.policy import require_finite


class TakesState(Protocol):
    """An optimiser of torch, or one that speaks its format."""

    def load_state_dict(self, state_dict: Any, /) -> None: ...


def save_training_state(
    directory: str | Path,
    experts: Experts,
    gate: TimestepLayerGate | None,
    optimizers: Mapping[str, Mapping[str, Any]],
    counters: Mapping[str, int],
    copies: Mapping[str, ParameterCopies] | None = None,
) -> None:
    """Write the state as folder `directory`, which must not exist; it appears whole or not at all.

    Args:
        directory: of the new folder.
        experts: whose adapters are saved.
        gate: with its weights, None for none.
        optimizers: their `state_dict()`.
        counters: any integers, as the draw cursor of every dimension and the number of steps.
        copies: copies of weights, by what they are for.

    Raises:
        NonFiniteError: for a tensor with NaN or infinity in it: the training could not go on from there.
    """
    if Path(directory).exists():
        raise DataError(f"training state: {directory} exists already; every save takes a new folder")
    tensors: dict[str, Tensor] = {}
    for name in experts.names:
        tensors |= {f"expert/{name}/{key}": tensor for key, tensor in experts.state(name).items()}
    if gate is not None:
        tensors |= {f"gate/{key}": tensor.detach().cpu() for key, tensor in gate.state_dict().items()}
    settings: dict[str, Any] = {}
    for what, copied in (copies or {}).items():
        tensors |= {f"{what}/{key}": tensor for key, tensor in copied.state().items()}
    for name, state in optimizers.items():
        settings[name] = state["param_groups"]
        for index, moments in state["state"].items():
            for key, tensor in moments.items():
                tensors[f"optimizer/{name}/{index}/{key}"] = tensor.detach().cpu().contiguous()
    require_finite("training state", tensors)
    with new_folder(directory) as folder:
        save_file(tensors, folder / "state.safetensors")
        description = {"counters": dict(counters), "optimizers": settings}
        (folder / "state.json").write_text(json.dumps(description, indent=2) + "\n")


def load_training_state(
    directory: str | Path,
    experts: Experts,
    gate: TimestepLayerGate | None,
    optimizers: Mapping[str, TakesState],
    copies: Mapping[str, ParameterCopies] | None = None,
) -> dict[str, int]:
    """Put a saved state back into experts, gate, optimisers and copies; returns the counters."""
    directory = Path(directory)
    if not (directory / "state.json").is_file():
        raise DataError(f"training state: no state.json in {directory}")
    description = json.loads((directory / "state.json").read_text())
    tensors = load_file(directory / "state.safetensors")
    saved, given = set(description["optimizers"]), set(optimizers)
    if saved != given:
        raise DataError(f"training state: {directory} holds {sorted(saved)}, this run trains {sorted(given)}")
    for name in experts.names:
        experts.load_state(name, _below(tensors, f"expert/{name}/"))
    if gate is not None:
        gate.load_state_dict(_below(tensors, "gate/"))
    for what, copied in (copies or {}).items():
        copied.load_state(_below(tensors, f"{what}/"))
    for name, optimizer in optimizers.items():
        moments: dict[int, dict[str, Tensor]] = {}
        for path, tensor in _below(tensors, f"optimizer/{name}/").items():
            index, key = path.split("/")
            moments.setdefault(int(index), {})[key] = tensor
        groups = [
            {k: tuple(v) if k == "betas" else v for k, v in group.items()}
            for group in description["optimizers"][name]
        ]
        optimizer.load_state_dict({"state": moments, "param_groups": groups})
    return description["counters"]


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
