"""The network that a run starts from: ImageNet's weights, a bundle's, those of a file, or random ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from siamese_search.errors import TrainingError, printable
from siamese_search.model.bundle import load_bundle
from siamese_search.model.imagenet import fit_state, load_imagenet, read_weights
from siamese_search.model.network import APNNetwork, NetworkSpec, normalisation
from siamese_search.model.weights_file import transfer
from siamese_search.training.config import TrainConfig
from siamese_search.training.options import kind_of

#: Names of tensors that are shown before the rest is only counted.
_SHOWN = 4


def initial_network(
    config: TrainConfig, init: str, say: Callable[[str], None], *, weights: bool
) -> APNNetwork:
    """The network of ``config``; ``say`` is told where its weights come from and which of them are new.

    init: ``imagenet``, ``none``, ``bundled``, a bundle's directory or a file of weights. weights: False leaves the
    random ones, for a run that is resumed. Raises TrainingError, BundleError or UsageError.
    """
    mean, std = normalisation(config.backbone)
    spec = NetworkSpec(
        config.backbone, config.dim, config.height, config.width, config.pool, config.neck, config.last_stride,
        mean, std, config.instance_mix,
    )  # fmt: skip
    torch.manual_seed(config.seed)
    network = APNNetwork(spec)
    kind = kind_of(init)
    if not weights or kind == "none":
        return network
    if kind == "imagenet":
        say(f"initial weights: {load_imagenet(network.backbone, config.backbone)}")
    elif kind == "file":
        _from_file(network, Path(init), say)
    else:
        bundle = load_bundle(init)
        fresh = transfer(network, bundle)
        say(f"initial weights: {bundle.name}{_listed('new', fresh)}")
    return network


def _from_file(network: APNNetwork, path: Path, say: Callable[[str], None]) -> None:
    fit = fit_state(network.backbone, read_weights(path))
    if not fit.taken:
        raise TrainingError(
            f"--init {printable(path)}: none of its tensors fits {network.spec.backbone}: check --backbone; names must"
            " be timm's or EfficientNet-PyTorch's"
        )
    say(
        f"initial weights: {fit.taken} tensors of {printable(path)}{_listed('new', fit.fresh)}"
        f"{_listed('not used', fit.unused)}"
    )


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"; {what}: {', '.join(names[:_SHOWN])}{more}"
