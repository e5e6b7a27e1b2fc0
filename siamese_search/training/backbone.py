"""What training does to a backbone: frozen first parts, no taps of convolutions that only meet padding, mixed styles.

The first parts work on the largest maps: without their backward pass EfficientNet-B0 trains in 0.6 of the time at
128×64, and what they hold after ImageNet, edges and colours, is what people and other objects share.

On a feature map 4×2 a 5×5 kernel reaches past both sides from every pixel, so its outer columns multiply zeros. The
gradient of such a convolution takes oneDNN thirty times as long as that of the 3×3 beside it: EfficientNet-B0 at 128×64
trains a fifth faster with its kernels trimmed.

MixStyle shows it other cameras in its middle (Zhou et al., "Domain Generalization with MixStyle", ICLR 2021): the mean
and deviation of the channels of early maps hold the style of an image. Mixed with those of another image of the batch,
they teach the rest of the network to do without them. Nothing of it is left after training.

The last maps of ImageNet's weights tell a person from a dog, not two people; the first ones hold the clothes, and where
they are. A mean per stripe of the height is the classic descriptor of a person (Zheng et al., "Scalable Person
Re-identification", ICCV 2015). The object is in the middle of its image, what is beside it is background.

On CUDA forward and backward pass are replayed as graphs, not launched kernel by kernel. A recorded graph has one shape
and one place in memory, so what changes from step to step (the images, whose styles are mixed) is copied there first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from siamese_search.model.network import APNNetwork, first_parts, stages
from siamese_search.training.data import moved


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
    """A forward hook that mixes the styles of a share of the training batches, drawn by torch's global generator."""

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
    """Mix styles after the first stages in that share of the training batches; returns after how many, or 0 of none."""
    first = stages(backbone)[:_STAGES]
    for stage in first:
        stage.register_forward_hook(MixStyle(probability))
    return len(first)


def mixers(backbone: nn.Module) -> list[MixStyle]:
    """The hooks that :func:`add_mixstyle` has added."""
    hooks = [hook for module in backbone.modules() for hook in module._forward_hooks.values()]
    return [hook for hook in hooks if isinstance(hook, MixStyle)]


#: False launches every kernel by itself, as where nothing can be recorded.
RECORD = True
#: Shapes of batches that are recorded; each holds the memory of a whole step.
_MOST_SHAPES = 3

Forward = Callable[[Tensor], tuple[Tensor, Tensor]]


class Passes:
    """(features, necked) of a batch in training mode, in bf16 on CUDA; recorded there where ``record`` says so.

    The same random numbers as without recording: MixStyle's are drawn by :meth:`__call__` in the order of its stages.
    """

    def __init__(self, network: APNNetwork, device: torch.device, *, record: bool) -> None:
        self._network = network
        self._half = device.type == "cuda"
        self._device = device
        self._record = record and RECORD
        self._recorded: dict[tuple[int, ...], Forward | None] = {}
        self._mixers = mixers(network.backbone)
        self._given: dict[int, list[tuple[Tensor, Tensor]]] = {}  # by the size of a batch

    def __call__(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        shape = tuple(inputs.shape)
        if self._record and shape not in self._recorded and len(self._recorded) < _MOST_SHAPES:
            self._recorded[shape] = self._recording(inputs)
        run = self._recorded.get(shape)
        if run is None:
            with self._autocast():
                features, necked = self._network(inputs)
            return features, necked
        for mixer, (partner, share) in zip(self._mixers, self._given[len(inputs)], strict=True):
            drawn = mixer.draw(len(inputs)) or (torch.arange(len(inputs)), torch.ones(len(inputs)))
            partner.copy_(moved(drawn[0], self._device))
            share.copy_(moved(drawn[1], self._device))
        return run(inputs)

    def _autocast(self) -> Any:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._half, cache_enabled=not self._record)

    def _recording(self, inputs: Tensor) -> Forward | None:
        """The passes of a batch of this shape; None where they cannot be recorded. The network stays as it is."""
        network, n, device = self._network, len(inputs), self._device
        buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
        pairs = [(torch.arange(n, device=device), torch.ones(n, device=device)) for _ in self._mixers]
        given = self._given.setdefault(n, pairs)
        for mixer, pair in zip(self._mixers, given, strict=True):
            mixer.given = pair
        try:
            with self._autocast(), torch.backends.cudnn.flags(enabled=True, benchmark=True):
                return record(_Whole(network), inputs.detach().clone())
        except (RuntimeError, AssertionError):
            if self._half:
                torch.cuda.synchronize(self._device)
            return None
        finally:
            for mixer in self._mixers:
                mixer.given = None  # only the recording reads it
            with torch.no_grad():  # the runs before the recording have moved the statistics
                for name, buffer in network.named_buffers():
                    buffer.copy_(buffers[name])


class _Whole(nn.Module):
    """Holds the network, so that what is recorded does not take the place of the network's own ``forward``."""

    def __init__(self, network: APNNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        features, necked = self.network(inputs)
        return features, necked


def record(module: nn.Module, inputs: Tensor) -> Forward:
    """Forward and backward of ``module`` for inputs of this shape as CUDA graphs."""
    recorded: Forward = torch.cuda.make_graphed_callables(module, (inputs,))  # type: ignore[assignment]
    return recorded


#: Stages after the stem; stripes; and the deviation of a normal distribution of columns, as a share of the width.
_LOOKED_AT, _STRIPES, _SPREAD = 3, 8, 0.22


def in_stripes(maps: Tensor) -> Tensor:
    """Unit rows [n, 8 · c] of maps [n, c, h, w]."""
    off = (torch.arange(maps.shape[3], device=maps.device) + 0.5) / maps.shape[3] - 0.5
    columns = torch.softmax(-0.5 * (off / _SPREAD) ** 2, 0)
    return F.normalize(F.adaptive_avg_pool1d((maps.float() * columns).sum(3), _STRIPES).flatten(1), dim=1)


@contextmanager
def appearance(backbone: nn.Module) -> Iterator[list[Tensor]]:
    """Every batch that the backbone sees meanwhile adds its descriptors, unit rows [b, d], if its stages have maps."""
    found: list[Tensor] = []
    parts: list[Tensor] = []
    first = stages(backbone)[:_LOOKED_AT]

    def seen(module: nn.Module, _: object, maps: Tensor) -> None:
        if maps.ndim == 4:
            parts.append(in_stripes(maps))
        if module is first[-1] and parts:
            found.append(F.normalize(torch.cat(parts, 1), dim=1).cpu())
            parts.clear()

    hooks = [stage.register_forward_hook(seen) for stage in first]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
