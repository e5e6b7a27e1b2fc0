"""The parts of a timm backbone in order, the stem, then its stages; and statistics of single images in the first ones.

The mean and the deviation of the channels of early maps hold a camera: its light, contrast and colours. Batch
normalisation takes away those of the cameras that were trained on; a share of the image's own takes away some of what
any other camera adds. Instance normalisation alone would take what tells people apart too (Pan et al., "Two at Once:
IBN-Net", ECCV 2018). Statistics are mixed as by You et al., "Test-time Batch Statistics Calibration for Covariate
Shift", 2021, whose batch is here one image: an embedding never depends on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from siamese_search.errors import UsageError


def stages(backbone: nn.Module) -> list[nn.Module]:
    """What follows the stem, in order; empty for a backbone without ``blocks`` or ``layer1`` …"""
    blocks = getattr(backbone, "blocks", None)
    if isinstance(blocks, nn.Sequential):
        return list(blocks)
    return [
        layer for i in range(1, 5) if isinstance(layer := getattr(backbone, f"layer{i}", None), nn.Module)
    ]


def first_parts(backbone: nn.Module, count: int, option: str) -> list[nn.Module]:
    """The modules of the first ``count`` parts, the stem among them.

    option: what asked for them. Raises UsageError for a backbone with fewer parts.
    """
    found = stages(backbone)
    if count > len(found):
        raise UsageError(f"{option}: {count} is too many, this backbone has a stem and {len(found)} stages")
    names = [name for name, _ in backbone.named_children()]
    before = names[: names.index("blocks" if "blocks" in names else "layer1")]
    stem = [module for name in before for module in backbone.get_submodule(name).modules()]
    return stem + [module for stage in found[: count - 1] for module in stage.modules()]


#: Parts whose statistics are mixed: what is left of a camera later is small, and so are the maps.
PARTS = 2
#: Rows of a map that its statistics are taken from, at least: all pixels would cost as much as the convolutions.
_ROWS = 32


class _Mixed(nn.BatchNorm2d):
    """A 2-D batch normalisation whose mean and variance are partly those of each image; the same state."""

    share: float

    def mixed(self, x: Tensor) -> Tensor:
        """float [n, c, h, w] → float [n, c, h, w], scaled and shifted by channel."""
        step = max(1, x.shape[2] // _ROWS)
        seen = x[:, :, ::step, ::step]
        own_var, own_mean = torch.var_mean(seen, dim=(2, 3), correction=0)
        mean, var = self._usual(own_mean, own_var, seen[:, 0].numel())
        mean = torch.lerp(mean, own_mean, self.share)
        scale = self.weight * torch.rsqrt(torch.lerp(var, own_var, self.share) + self.eps)
        shift = self.bias - mean * scale
        return x * scale[:, :, None, None] + shift[:, :, None, None]

    def _usual(self, own_mean: Tensor, own_var: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """(mean, variance), [n, c] each: of the batch in training, which moves the running ones; else the running.

        own_mean, own_var: of each image, [n, c]. count: of the values of a channel that they are made of.
        """
        assert self.running_mean is not None
        assert self.running_var is not None
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean = own_mean.mean(0)
            var = own_var.mean(0) + own_mean.var(0, correction=0)  # within the images and between them
            with torch.no_grad():
                assert self.num_batches_tracked is not None
                self.num_batches_tracked.add_(1)
                momentum = 1.0 / self.num_batches_tracked if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
                self.running_var.lerp_(
                    (var * (count / max(count - 1, 1))).to(self.running_var.dtype), momentum
                )
        return mean.expand_as(own_mean), var.expand_as(own_var)


class _MixedPlain(_Mixed):
    """Takes the place of ``nn.BatchNorm2d``."""

    def forward(self, x: Tensor) -> Tensor:
        return self.mixed(x)


class _MixedAct(_Mixed):
    """Takes the place of timm's ``BatchNormAct2d``, which holds the activation too."""

    drop: Callable[[Tensor], Tensor]
    act: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(self.mixed(x)))


def mix_statistics(backbone: nn.Module, share: float) -> None:
    """Let the batch normalisations of the first :data:`PARTS` parts use ``share`` of each image's own statistics.

    Names and state stay those of the backbone. Raises UsageError for a backbone without them.
    """
    found = first_parts(backbone, PARTS, "--instance-mix") if stages(backbone) else []
    norms: list[Any] = [module for module in found if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        raise UsageError("--instance-mix: the first stages of this backbone have no batch normalisation")
    for norm in norms:
        norm.__class__ = _MixedAct if hasattr(norm, "act") else _MixedPlain
        norm.share = share
