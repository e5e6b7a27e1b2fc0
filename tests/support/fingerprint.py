"""A model's fingerprint by torch: the oracle of the one that reads a file of safetensors."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import Tensor

from siamese_search.model.network import NetworkSpec


def fingerprint_of(state: dict[str, Tensor], spec: NetworkSpec) -> str:
    """sha256 over weights and preprocessing, hex."""
    digest = hashlib.sha256(json.dumps(spec.to_json(), sort_keys=True).encode())
    for name in sorted(state):
        value = state[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
