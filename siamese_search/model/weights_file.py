"""Network weights as safetensors, and a whole bundle written from a trained network."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from siamese_search.errors import BundleError, printable
from siamese_search.io.files import atomic_write_bytes, atomic_write_text
from siamese_search.model.bundle import (
    FORMAT_VERSION,
    META_NAME,
    ONNX_NAME,
    WEIGHTS_NAME,
    Bundle,
    load_bundle,
)
from siamese_search.model.export import export_onnx
from siamese_search.model.network import APNNetwork, NetworkSpec

_HALF_LIMIT = 6.0e4  # beyond it float16 overflows


def stored_state(network: APNNetwork) -> dict[str, Tensor]:
    """The network's tensors as a bundle stores them: matrices and kernels in float16, the rest unchanged.

    Statistics and biases stay float32: they are small, and a variance can leave float16's range.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        value = tensor.detach().cpu().contiguous()
        if value.is_floating_point() and value.ndim >= 2 and float(value.abs().max()) < _HALF_LIMIT:
            value = value.half()
        state[name] = value
    return state


def fingerprint_of(state: dict[str, Tensor], spec: NetworkSpec) -> str:
    """sha256 over weights and preprocessing, hex: the same network and input give the same fingerprint."""
    digest = hashlib.sha256(json.dumps(spec.to_json(), sort_keys=True).encode())
    for name in sorted(state):
        value = state[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_bundle(network: APNNetwork, directory: Path, extra: dict[str, Any]) -> Bundle:
    """Write a bundle. ``extra`` joins model.json (training summary, held-out identities, metrics).

    ``model.json`` is written last: a directory without it is not a bundle, so a crash leaves none half made.
    """
    spec = network.spec
    state = stored_state(network)
    # What is exported is what is stored: both embedders see the same rounded weights.
    rounded = APNNetwork(spec)
    rounded.load_state_dict(
        {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    )
    rounded.eval()
    contents = {WEIGHTS_NAME: save_safetensors(state), ONNX_NAME: export_onnx(rounded)}
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        atomic_write_bytes(directory / name, data)
    meta = {
        "format": FORMAT_VERSION,
        "fingerprint": fingerprint_of(state, spec),
        "backbone": spec.backbone,
        "embedding_dim": spec.dim,
        "input": {
            "height": spec.height,
            "width": spec.width,
            "mean": list(spec.mean),
            "std": list(spec.std),
            "interpolation": "bilinear",
        },
        "network": spec.to_json(),
        "heldout_identities": [],
        "metrics": {},
        "calibration": None,
        **extra,
        "files": {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in contents.items()
        },
    }
    atomic_write_text(directory / META_NAME, json.dumps(meta, indent=1, ensure_ascii=False) + "\n")
    return load_bundle(directory)


def load_network(bundle: Bundle) -> APNNetwork:
    """The bundle's network in float32, in training mode. Raises BundleError on any mismatch."""
    try:
        bundle.check_fingerprint()
        spec = NetworkSpec.from_json(bundle.meta["network"])
        network = APNNetwork(spec)
        state = load_safetensors(bundle.read_checked(WEIGHTS_NAME))
        network.load_state_dict(
            {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
        )
    except BundleError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise BundleError(f"{printable(bundle.path)}: the weights do not fit the network: {reason}") from None
    return network


def transfer(network: APNNetwork, bundle: Bundle) -> list[str]:
    """Start ``network`` from a bundle's weights where names and shapes agree; returns what was not taken.

    For fine-tuning: the input size may differ, so may the embedding's dimension or the neck.
    Raises BundleError when the backbone differs, because then nothing useful would be left.
    """
    if bundle.meta.get("backbone") != network.spec.backbone:
        raise BundleError(
            f"{printable(bundle.path)}: its backbone is {bundle.meta.get('backbone')!r}, "
            f"training is set to {network.spec.backbone!r}: pass --backbone {bundle.meta.get('backbone')}"
        )
    source = load_network(bundle).state_dict()
    target = network.state_dict()
    taken = {
        name: value for name, value in source.items() if name in target and target[name].shape == value.shape
    }
    network.load_state_dict({**target, **taken})
    return sorted(set(target) - set(taken))
