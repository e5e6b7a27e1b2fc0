"""The statistics of a network's normalisations, taken anew from images without labels: the first step to other cameras.

Nothing is trained ("AdaBN": Li et al., "Revisiting Batch Normalization for Practical Domain Adaptation", 2016).
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.modules.batchnorm import _BatchNorm

from siamese_search.model.network import APNNetwork
from siamese_search.training.pixels import PixelSource, Progress

#: As many images as the former statistics count for: of few images alone they would be noise (Schneider et al.,
#: "Improving robustness against common corruptions by covariate shift adaptation", NeurIPS 2020, N = 8 to 64).
FORMER = 32
_BATCH = 64


@torch.no_grad()
def renew_statistics(
    network: APNNetwork,
    pixels: PixelSource,
    rows: NDArray[np.int64],
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> int:
    """Replace the running mean and variance of every normalisation by those over these pixel rows, [n].

    The former ones count as :data:`FORMER` images more. The order of the images is drawn, for neighbours are alike.
    Returns how many normalisations there are; 0, where a network has none, changes nothing.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return 0
    network.to(device).eval()
    order = np.random.default_rng(seed).permutation(rows)
    blocks = np.array_split(order, max(1, len(order) // _BATCH))  # none is much smaller than the others
    former = copy.deepcopy(norms)
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # the average over all batches, not one that forgets
    done = 0
    for block in blocks:
        network.embed(network.normalise(torch.from_numpy(pixels.get(block)).to(device)))
        done += len(block)
        if progress:
            progress(done, len(order))
    share = len(order) / (len(order) + FORMER)
    for norm, before in zip(norms, former, strict=True):
        norm.momentum = before.momentum
        for name in ("running_mean", "running_var"):
            new = getattr(norm, name)
            new.copy_(torch.lerp(getattr(before, name), new, share))
    network.eval()
    return len(norms)
