"""Checkpoints: everything a run needs to go on, in one safetensors file. No pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from siamese_search.errors import TrainingError, printable
from siamese_search.io.files import atomic_path

CHECKPOINT_NAME = "checkpoint.safetensors"


def save_checkpoint(
    path: Path,
    modules: dict[str, torch.nn.Module],
    optimizer: torch.optim.Optimizer | None,
    state: dict[str, Any],
) -> None:
    """Write modules, optimiser and a JSON-able ``state`` to ``path`` as one atomic step."""
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            tensors[f"{name}/{key}"] = value.detach().cpu().contiguous()
    if optimizer is not None:
        for index, slots in optimizer.state_dict()["state"].items():
            for key, value in slots.items():
                tensors[f"optimizer/{index}/{key}"] = torch.as_tensor(value).detach().cpu().contiguous()
    try:
        with atomic_path(path) as aside:
            # JSON writes floats so that they read back to the same bits.
            save_file(tensors, str(aside), metadata={"state": json.dumps(state)})
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise TrainingError(
            f"{printable(path)}: the checkpoint cannot be saved ({reason}): the one before it is kept; "
            "make room and go on with --resume"
        ) from None


def load_checkpoint(
    path: Path, modules: dict[str, torch.nn.Module], optimizer: torch.optim.Optimizer | None
) -> dict[str, Any]:
    """Restore what :func:`save_checkpoint` wrote and return its ``state``. Raises TrainingError."""
    try:
        with safe_open(str(path), framework="pt") as archive:
            state: dict[str, Any] = json.loads(archive.metadata()["state"])
            tensors = {key: archive.get_tensor(key) for key in archive.keys()}  # noqa: SIM118 - not a dict
        for name, module in modules.items():
            prefix = f"{name}/"
            module.load_state_dict(
                {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
            )
        if optimizer is not None:
            slots: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                if key.startswith("optimizer/"):
                    _, index, slot = key.split("/")
                    slots.setdefault(int(index), {})[slot] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise TrainingError(
            f"{printable(path)}: the checkpoint cannot be read ({reason}): start again in another --out"
        ) from None
    return state


def load_heads(path: Path, heads: torch.nn.Module) -> list[str]:
    """Take the training heads of another run's checkpoint where names and shapes agree; returns their names.

    A file that is missing or cannot be read gives nothing: the heads are a head start, not a necessity.
    """
    try:
        with safe_open(str(path), framework="pt") as archive:
            names = [key for key in archive.keys() if key.startswith("heads/")]  # noqa: SIM118 - not a dict
            found = {key.removeprefix("heads/"): archive.get_tensor(key) for key in names}
    except (OSError, SafetensorError):
        return []
    state = heads.state_dict()
    taken = {key: value for key, value in found.items() if key in state and state[key].shape == value.shape}
    heads.load_state_dict({**state, **taken})
    return sorted(taken)
