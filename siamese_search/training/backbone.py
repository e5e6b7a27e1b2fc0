"""What makes training a backbone cheaper: frozen first parts, and no taps of convolutions that only meet padding.

The first parts work on the largest maps: without their backward pass EfficientNet-B0 trains in 0.6 of the time at
128×64, and what they hold after ImageNet, edges and colours, is what people and other objects share.

On a feature map 4×2 a 5×5 kernel reaches past both sides from every pixel, so its outer columns multiply zeros. The
gradient of such a convolution takes oneDNN thirty times as long as that of the 3×3 beside it: EfficientNet-B0 at 128×64
trains a fifth faster with its kernels trimmed.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from siamese_search.model.stages import first_parts


def freeze(backbone: nn.Module, count: int) -> list[nn.Module]:
    """Take the first ``count`` parts, the stem among them, out of the training; returns their normalisations.

    The caller keeps those in evaluation mode (:func:`hold`): statistics that go on moving would be training too.
    Raises UsageError for a backbone with fewer parts.
    """
    if count == 0:
        return []
    kept = first_parts(backbone, count, "--freeze")
    for module in kept:
        module.requires_grad_(False)
    return [module for module in kept if isinstance(module, _BatchNorm)]


def hold(frozen: list[nn.Module]) -> None:
    """Put frozen normalisations back into evaluation mode, after ``network.train()``."""
    for module in frozen:
        module.eval()


class TrimmedConv2d(nn.Conv2d):
    """A depthwise ``Conv2d`` of stride 1 that leaves out taps which meet nothing but padding; the same weights."""

    def forward(self, x: Tensor) -> Tensor:
        """float [n, c, h, w] → float [n, c, h, w]."""
        weight, padding = self.weight, [k // 2 for k in self.kernel_size]
        for axis, (kernel, length) in enumerate(zip(self.kernel_size, x.shape[2:], strict=True)):
            extra = kernel // 2 - (length - 1)  # taps on each side that reach past every pixel
            if extra > 0:
                weight = weight.narrow(2 + axis, extra, kernel - 2 * extra)
                padding[axis] -= extra
        return F.conv2d(x, weight, self.bias, 1, padding, 1, self.groups)


def trim(network: nn.Module) -> int:
    """Turn the depthwise convolutions that may be trimmed into such; returns how many. State and names stay."""
    found = [module for module in network.modules() if type(module) is nn.Conv2d and _can_be_trimmed(module)]
    for module in found:
        module.__class__ = TrimmedConv2d
    return len(found)


def _can_be_trimmed(conv: nn.Conv2d) -> bool:
    half = tuple(k // 2 for k in conv.kernel_size)
    return (
        conv.groups == conv.in_channels > 1
        and min(conv.kernel_size) > 1
        and all(k % 2 for k in conv.kernel_size)
        and conv.stride == conv.dilation == (1, 1)
        and tuple(conv.padding) == half
        and conv.padding_mode == "zeros"
    )
