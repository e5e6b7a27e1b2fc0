"""New training heads fitted to a network that already embeds well, before the network itself is touched.

A classifier with random weights sends random gradients into weights that took long to learn (Kumar et al., "Fine-Tuning
can Distort Pretrained Features", ICLR 2022: first a linear probe, then the whole network). One pass over the images,
without augmentation, gives their embeddings; the heads then learn from those alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from siamese_search.training.trainer import Trainer

#: Learning rate at the beginning; it falls to zero in a straight line. Heads are linear: they bear a high one.
_LR = 5e-3
#: Embeddings per step, and images in memory at once.
_BATCH = 256
_IMAGES = 64


def fit_heads(
    trainer: Trainer, epochs: int, progress: Callable[[int, int], None] | None = None
) -> list[float]:
    """Fit ``trainer.heads`` to the embeddings that its network gives now; the network stays as it is.

    epochs: passes over the embeddings. progress: called with images embedded so far, and of how many. Returns the mean
    loss of each pass; empty where there is no head to fit. Every process of a ``torchrun`` ends with the same heads.
    """
    parameters = list(trainer.heads.parameters())
    if not parameters or epochs == 0:
        return []
    losses = _fit(trainer, parameters, epochs, progress) if trainer.ranks.first else []
    state = {name: value.cpu() for name, value in trainer.heads.state_dict().items()}
    trainer.heads.load_state_dict(trainer.ranks.agree(state))
    return losses


def _fit(
    trainer: Trainer,
    parameters: list[torch.nn.Parameter],
    epochs: int,
    progress: Callable[[int, int], None] | None,
) -> list[float]:
    necked = _embeddings(trainer, progress)
    generator = torch.Generator().manual_seed(trainer.config.seed)
    optimizer = torch.optim.Adam(parameters, lr=_LR)
    steps = epochs * -(-len(necked) // _BATCH)
    taken, losses = 0, []
    trainer.heads.train()
    for _ in range(epochs):
        total = 0.0
        for rows in torch.split(torch.randperm(len(necked), generator=generator), _BATCH):
            for group in optimizer.param_groups:
                group["lr"] = _LR * (1.0 - taken / steps)
            loss = trainer.head_loss(necked[rows.to(necked.device)], *trainer.targets(rows.numpy()))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            taken += 1
            total += float(loss.detach()) * len(rows)
        losses.append(total / len(necked))
    optimizer.zero_grad(set_to_none=True)
    return losses


def _embeddings(trainer: Trainer, progress: Callable[[int, int], None] | None) -> Tensor:
    """What the heads see of every training image, float32 [n, dim] on the training device, in evaluation mode."""
    network, count = trainer.network, len(trainer.labels)
    training = network.training
    network.eval()
    half = trainer.device.type == "cuda"
    blocks: list[Tensor] = []
    try:
        with torch.no_grad(), torch.autocast(trainer.device.type, torch.bfloat16, enabled=half):
            for rows in torch.split(torch.arange(count), _IMAGES):
                pixels = torch.from_numpy(trainer.images.get(rows.numpy())).to(trainer.device)
                blocks.append(network(network.normalise(pixels))[1].float())
                if progress:
                    progress(int(rows[-1]) + 1, count)
    finally:
        network.train(training)
    return torch.cat(blocks)
