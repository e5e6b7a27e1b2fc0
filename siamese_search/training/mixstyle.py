"""MixStyle: other cameras in the middle of the network (Zhou et al., "Domain Generalization with MixStyle", ICLR 2021).

The mean and deviation of the channels of early feature maps hold the style of an image: light, contrast, the colours
of a camera. Mixed with those of another image of the batch, they teach the rest of the network to do without them.
Nothing of it is left after training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Of the Beta distribution that the shares are drawn from: most are near 0 or 1.
_ALPHA = 0.1
_EPS = 1e-6
#: Stages of the backbone after which styles are mixed: the first two hold most of the style.
_STAGES = 2


def mix_styles(features: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """Features [n, c, h, w] with channel means and deviations moved towards those of other images of the batch.

    partner: int64 [n], whose style is mixed in. share: float [n] of one's own style that stays.
    Gradients do not flow through the statistics.
    """
    detached = features.detach()
    mean = detached.mean(dim=(2, 3), keepdim=True)
    deviation = (detached.var(dim=(2, 3), keepdim=True, unbiased=False) + _EPS).sqrt()
    own = share.to(features.dtype).view(-1, 1, 1, 1)
    new_mean = own * mean + (1 - own) * mean[partner]
    new_deviation = own * deviation + (1 - own) * deviation[partner]
    scale = new_deviation / deviation
    return features * scale + (new_mean - mean * scale)


def add_mixstyle(backbone: nn.Module, probability: float) -> int:
    """Mix styles after the first stages of a timm backbone, in that share of its training batches.

    Draws come from torch's global generator. Returns after how many stages; 0 for a backbone without ``blocks`` or
    ``layer1`` …, which then stays as it was.
    """
    stages = _stages(backbone)[:_STAGES]

    def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if not backbone.training or float(torch.rand(())) >= probability:
            return None
        n = len(output)
        share = torch.distributions.Beta(_ALPHA, _ALPHA).sample((n,)).to(output.device)
        return mix_styles(output, torch.randperm(n).to(output.device), share)

    for stage in stages:
        stage.register_forward_hook(hook)
    return len(stages)


def _stages(backbone: nn.Module) -> list[nn.Module]:
    blocks = getattr(backbone, "blocks", None)
    if isinstance(blocks, nn.Sequential):
        return list(blocks)
    return [
        layer for i in range(1, 5) if isinstance(layer := getattr(backbone, f"layer{i}", None), nn.Module)
    ]
