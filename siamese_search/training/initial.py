"""The network that a run starts from, its weights from ImageNet, a bundle or a file, or random; and its heads.

A classifier with random weights sends random gradients into weights that took long to learn (Kumar et al., "Fine-Tuning
can Distort Pretrained Features", ICLR 2022: first a linear probe, then the whole network). One pass over the images,
without augmentation, gives their embeddings; the heads then learn from those alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from siamese_search.errors import TrainingError, printable
from siamese_search.model.bundle import load_bundle
from siamese_search.model.imagenet import fit_state, load_imagenet, read_weights
from siamese_search.model.network import APNNetwork, NetworkSpec, normalisation
from siamese_search.model.weights_file import transfer
from siamese_search.training.config import TrainConfig, kind_of
from siamese_search.training.data import Progress
from siamese_search.training.loop import embed_all
from siamese_search.training.trainer import Trainer

#: Names of tensors that are shown before the rest is only counted.
_SHOWN = 4


def initial_network(config: TrainConfig, init: str, say: Callable[[str], None], *, weights: bool) -> APNNetwork:
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


#: Learning rate at the beginning; it falls to zero in a straight line. Heads are linear: they bear a high one.
_LR = 5e-3
#: Embeddings per step.
_BATCH = 256


def fit_heads(trainer: Trainer, epochs: int, progress: Progress | None = None) -> list[float]:
    """Fit ``trainer.heads`` to the embeddings that its network gives now; the network stays as it is.

    epochs: passes over the embeddings. progress: called with images embedded so far, and of how many. Returns the mean
    loss of each pass; empty where there is no head to fit. Every process of a ``torchrun`` ends with the same heads.
    """
    if epochs == 0 or not list(trainer.heads.parameters()):
        return []
    losses = _fit(trainer, epochs, progress) if trainer.ranks.first else []
    state = {name: value.cpu() for name, value in trainer.heads.state_dict().items()}
    trainer.heads.load_state_dict(trainer.ranks.agree(state))
    return losses


def _fit(trainer: Trainer, epochs: int, progress: Progress | None) -> list[float]:
    rows = np.arange(len(trainer.labels))
    found = embed_all(trainer.network, trainer.images, rows, trainer.device, progress)
    necked = found[1].to(trainer.device)
    generator = torch.Generator().manual_seed(trainer.config.seed)
    optimizer = torch.optim.Adam(trainer.heads.parameters(), lr=_LR)
    steps = epochs * -(-len(necked) // _BATCH)
    taken, losses = 0, []
    trainer.heads.train()
    for _ in range(epochs):
        total = 0.0
        for chosen in torch.split(torch.randperm(len(necked), generator=generator), _BATCH):
            for group in optimizer.param_groups:
                group["lr"] = _LR * (1.0 - taken / steps)
            loss = trainer.head_loss(necked[chosen.to(necked.device)], *trainer.targets(chosen.numpy()))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            taken += 1
            total += float(loss.detach()) * len(chosen)
        losses.append(total / len(necked))
    optimizer.zero_grad(set_to_none=True)
    return losses
