"""MixStyle: other cameras in the middle of the network (Zhou et al., "Domain Generalization with MixStyle", ICLR 2021).

The mean and deviation of the channels of early feature maps hold the style of an image. Mixed with those of another
image of the batch, they teach the rest of the network to do without them. Nothing of it is left after training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from siamese_search.model.stages import stages
from siamese_search.training.pixels import moved

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


class MixStyle:
    """A forward hook that mixes the styles of a share of the training batches.

    Draws come from torch's global generator on the CPU, and the device is not waited for.
    """

    def __init__(self, probability: float) -> None:
        self.probability = probability
        #: Partners and shares to use instead of drawing them: a recorded graph reads always the same memory.
        self.given: tuple[Tensor, Tensor] | None = None

    def draw(self, n: int) -> tuple[Tensor, Tensor] | None:
        """Partners, int64 [n], and shares, float32 [n], for a batch; None for one that stays as it is."""
        if float(torch.rand(())) >= self.probability:
            return None
        share = torch.distributions.Beta(_ALPHA, _ALPHA).sample((n,))
        return torch.randperm(n), share

    def __call__(self, module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        # Of the module itself: the copy that a moving average keeps is in another mode than the trained network.
        if not module.training:
            return None
        if self.given is not None:
            return mix_styles(output, *self.given)
        drawn = self.draw(len(output))
        return None if drawn is None else mix_styles(output, *(moved(t, output.device) for t in drawn))


def add_mixstyle(backbone: nn.Module, probability: float) -> int:
    """Mix styles after the first stages of a timm backbone, in that share of its training batches.

    Returns after how many stages; 0 for a backbone without ``blocks`` or ``layer1`` …, which then stays as it was.
    """
    first = stages(backbone)[:_STAGES]
    for stage in first:
        stage.register_forward_hook(MixStyle(probability))
    return len(first)


def mixers(backbone: nn.Module) -> list[MixStyle]:
    """The hooks that :func:`add_mixstyle` has added."""
    hooks = [hook for module in backbone.modules() for hook in module._forward_hooks.values()]
    return [hook for hook in hooks if isinstance(hook, MixStyle)]
