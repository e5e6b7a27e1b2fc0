"""The APN network: a backbone (timm's, or the small ``simple_cnn``), pooled, and a linear embedding.

One network embeds anchor, positive and negative alike ("Siamese"): there is a single set of weights.

The mean and the deviation of the channels of early maps hold a camera: its light, contrast and colours. Batch
normalisation takes away those of the cameras that were trained on; a share of the image's own takes away some of what
any other camera adds. Instance normalisation alone would take what tells people apart too (Pan et al., "Two at Once:
IBN-Net", ECCV 2018). Statistics are mixed as by You et al., "Test-time Batch Statistics Calibration for Covariate
Shift", 2021, whose batch is here one image: an embedding never depends on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from siamese_search.errors import UsageError

#: The small classic network: for grey faces and signatures.
SIMPLE_CNN = "simple_cnn"

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """Everything needed to build the network again: architecture and preprocessing."""

    backbone: str = "efficientnet_b0"
    dim: int = 512
    height: int = 256
    width: int = 128
    pool: Literal["avg", "gem"] = "avg"
    neck: Literal["none", "bn"] = "none"
    last_stride: Literal[1, 2] = 2
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    instance_mix: float = 0.0  # younger than the first bundles, as what follows
    enlarge: int = 1
    instance_mix_later: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Of a network without them, no word of the younger fields: fingerprints are made of this."""
        plain = {"instance_mix": 0.0, "enlarge": 1, "instance_mix_later": 0.0}
        return {name: value for name, value in asdict(self).items() if plain.get(name) != value}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> NetworkSpec:
        fields: Any = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
        return cls(**fields)


def normalisation(backbone: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """(mean, std) of RGB in 0–1 that a new network of this backbone is built with."""
    if backbone == SIMPLE_CNN:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # pixels go in as 0–1
    usual = timm.get_pretrained_cfg(backbone)
    return (usual.mean, usual.std) if usual else (IMAGENET_MEAN, IMAGENET_STD)


class GeMPool(nn.Module):
    """Generalised mean pooling, [N, C, H, W] -> [N, C] (Radenovic et al., PAMI 2019); p is learnt from 3."""

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor([p]))
        self.eps = eps

    def forward(self, features: Tensor) -> Tensor:
        powered = features.clamp(min=self.eps).pow(self.p)
        return powered.mean(dim=(2, 3)).pow(1.0 / self.p)


class AvgPool(nn.Module):
    """Global average pooling, [N, C, H, W] -> [N, C]."""

    def forward(self, features: Tensor) -> Tensor:
        return features.mean(dim=(2, 3))


class APNNetwork(nn.Module):
    """Backbone → pool → linear embedding → optional BNNeck.

    ``forward`` takes normalised float images [N, 3, H, W] and returns ``(features, necked)``, both
    [N, dim] and not yet of unit length: metric losses act on ``features``, an identity classifier on
    ``necked`` (Luo et al., "Bag of Tricks", CVPRW 2019). Without a neck the two are the same tensor.
    ``embed`` is what retrieval uses: ``necked``, L2-normalised.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = _create_backbone(spec)
        if spec.last_stride == 1:
            _undo_last_stride(self.backbone)
        if spec.instance_mix or spec.instance_mix_later:
            mix_statistics(self.backbone, spec.instance_mix, spec.instance_mix_later)
        self.pool: nn.Module = GeMPool() if spec.pool == "gem" else AvgPool()
        if spec.backbone == SIMPLE_CNN:
            if spec.pool != "avg":
                ends = f"{spec.backbone} ends in fully connected layers"
                raise UsageError(f"--pool {spec.pool}: {ends}, leave out --pool")
            self.pool = nn.Identity()
        channels = int(getattr(self.backbone, "head_hidden_size", None) or self.backbone.num_features)
        self.embedding = nn.Linear(channels, spec.dim, bias=spec.neck == "none")
        self.neck: nn.Module = nn.Identity()
        if spec.neck == "bn":
            neck = nn.BatchNorm1d(spec.dim)
            neck.bias.requires_grad_(False)  # BNNeck: a bias would move the classifier off the origin
            self.neck = neck

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.embedding(self.pool(self.backbone.forward_features(images)))
        return features, self.neck(features)

    def embed(self, images: Tensor) -> Tensor:
        """Unit-length embeddings, float32 [N, dim], of normalised float images [N, 3, H, W]."""
        return F.normalize(self.forward(images)[1].float(), dim=1)

    def constants(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the pixels, float32 [3] in 0–255, for :meth:`normalise`."""
        mean = torch.tensor(self.spec.mean, device=device) * 255.0
        return mean, torch.tensor(self.spec.std, device=device) * 255.0

    def normalise(self, images: Tensor, constants: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """uint8 RGB [N, H, W, 3] → normalised float32 [N, 3, H, W] × ``enlarge``, channels-last in memory.

        constants: of :meth:`constants`, made once; making them waits for the device.
        """
        mean, std = constants or self.constants(images.device)
        inputs = ((images.float() - mean) / std).permute(0, 3, 1, 2)
        if self.spec.enlarge == 1:
            return inputs
        return F.interpolate(inputs, scale_factor=self.spec.enlarge, mode="bilinear", align_corners=False)


class DeployNetwork(nn.Module):
    """What is exported: uint8 [N, H, W, 3] RGB in, unit float32 [N, dim] out; nothing is left to do outside."""

    def __init__(self, network: APNNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.embed(self.network.normalise(images))


def _create_backbone(spec: NetworkSpec) -> Any:
    if spec.backbone == SIMPLE_CNN:
        return SimpleCNN(spec.height * spec.enlarge, spec.width * spec.enlarge)
    if not timm.is_model(spec.backbone):
        near = ", ".join(timm.list_models(f"*{spec.backbone[:6]}*")[:5]) or "efficientnet_b0"
        raise UsageError(f"unknown backbone {spec.backbone!r}: timm has no such model; near it: {near}")
    # global_pool="" leaves pooling to us; num_classes=0 drops timm's classifier.
    return timm.create_model(spec.backbone, pretrained=False, num_classes=0, global_pool="")


def _undo_last_stride(backbone: nn.Module) -> None:
    """Give the last down-sampling convolution stride 1, so that the final map is twice as high and wide (Sun et al.,
    PCB, ECCV 2018). timm's ``output_stride`` would dilate the later kernels instead.
    """
    strided = [module for module in backbone.modules() if isinstance(module, nn.Conv2d) and module.stride == (2, 2)]
    if not strided:
        raise UsageError("--last-stride 1: this backbone has no strided convolution to change")
    last = strided[-1]
    if last.groups == 1 and last.kernel_size == (1, 1):
        # A residual's projection: its main branch holds a second strided convolution of the same block.
        strided[-2].stride = (1, 1)
    last.stride = (1, 1)


#: Beyond this many weights the first fully connected layer is surely a mistake.
_MAX_WEIGHTS = 250_000_000

_HIDDEN = 500


class SimpleCNN(nn.Module):
    """[N, 3, H, W] → [N, 500]. Raises UsageError where the input size makes it absurdly large.

    Three blocks of reflection padding, 3×3 convolution (4, 8, 8 channels), ReLU and batch norm at full resolution, then
    fully connected layers 500-500. The first of these sees every pixel, so the weights belong to one input size: at
    100×100 it holds 40 million of them.
    """

    num_features = _HIDDEN
    grey: Tensor

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        weights = 8 * height * width * _HIDDEN
        if weights > _MAX_WEIGHTS:
            raise UsageError(
                f"--backbone {SIMPLE_CNN}: {height}×{width} would need {weights / 1e6:.0f} million weights in a layer;"
                " choose a smaller --height and --width (100×100 is usual) or another backbone"
            )
        # ITU-R 601 luma, as Pillow converts to mode L. No state: it is the same in every network.
        luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
        self.register_buffer("grey", luma, persistent=False)
        self.blocks = nn.Sequential(*_block(1, 4), *_block(4, 8), *_block(8, 8))
        self.head = nn.Sequential(
            nn.Linear(8 * height * width, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, _HIDDEN), nn.ReLU()
        )

    def forward_features(self, images: Tensor) -> Tensor:
        grey = (images * self.grey).sum(1, keepdim=True)
        features: Tensor = self.head(self.blocks(grey).flatten(1))
        return features


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.ReflectionPad2d(1), nn.Conv2d(inputs, outputs, 3), nn.ReLU(), nn.BatchNorm2d(outputs)]


def stages(backbone: nn.Module) -> list[nn.Module]:
    """What follows the stem, in order; empty for a backbone without ``blocks`` or ``layer1`` …"""
    blocks = getattr(backbone, "blocks", None)
    if isinstance(blocks, nn.Sequential):
        return list(blocks)
    return [layer for i in range(1, 5) if isinstance(layer := getattr(backbone, f"layer{i}", None), nn.Module)]


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


#: Parts all of whose statistics are mixed. Later those of the last normalisation of a block are enough: its maps are
#: small, nothing waits behind it to be computed along, and it costs no time that can be measured.
PARTS = 2
#: Rows of a map that its statistics are taken from, at least: all pixels would cost as much as the convolutions.
_ROWS = 32


class _Mixed(nn.BatchNorm2d):
    """Takes the place of ``nn.BatchNorm2d``, or of timm's ``BatchNormAct2d``, which holds the activation too; the same
    state. Its mean and variance are partly those of each image.
    """

    share: float
    drop: Callable[[Tensor], Tensor]
    act: Callable[[Tensor], Tensor]

    def forward(self, x: Tensor) -> Tensor:
        """float [n, c, h, w] → float [n, c, h, w], scaled and shifted by channel."""
        step = max(1, x.shape[2] // _ROWS)
        seen = x[:, :, ::step, ::step]
        # Not torch.var_mean() and torch.lerp(), which become many more nodes in ONNX.
        own_mean = seen.mean((2, 3), keepdim=True)
        apart = seen - own_mean
        own_var = (apart * apart).mean((2, 3), keepdim=True)
        mean, var = self._usual(own_mean, own_var, seen[:, 0].numel())
        mean = mean + self.share * (own_mean - mean)
        var = var + self.share * (own_var - var)
        scale = self.weight[:, None, None] * torch.rsqrt(var + self.eps)
        x = x * scale + (self.bias[:, None, None] - mean * scale)
        return self.act(self.drop(x)) if hasattr(self, "act") else x

    def _usual(self, own_mean: Tensor, own_var: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """(mean, variance), [c, 1, 1] each: of the batch in training, which moves the running ones; else the running.

        own_mean, own_var: of each image, [n, c, 1, 1]. count: of the values of a channel that they are made of.
        """
        assert self.running_mean is not None
        assert self.running_var is not None
        if not self.training:
            return self.running_mean[:, None, None], self.running_var[:, None, None]
        mean = own_mean.mean(0)
        var = own_var.mean(0) + own_mean.var(0, correction=0)  # within the images and between them
        with torch.no_grad():
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            momentum = 1.0 / self.num_batches_tracked if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.flatten().to(self.running_mean.dtype), momentum)
            self.running_var.lerp_((var * (count / max(count - 1, 1))).flatten().to(self.running_var.dtype), momentum)
        return mean, var


def mix_statistics(backbone: nn.Module, share: float, later: float = 0.0) -> None:
    """Let batch normalisations use a share of each image's own statistics.

    share: in all of the first :data:`PARTS` parts. later: in the last one of each block of the other parts. Names and
    state stay those of the backbone. Raises UsageError for a backbone without them.
    """
    found = stages(backbone)
    first = _norms(first_parts(backbone, PARTS, "--instance-mix")) if found else []
    blocks = [block for stage in found[PARTS - 1 :] for block in stage.children()]
    last = [norm for block in blocks for norm in _norms(block.modules())[-1:]]
    for own, norms, option in ((share, first, "--instance-mix"), (later, last, "--instance-mix-later")):
        if own and not norms:
            raise UsageError(f"{option}: the stages of this backbone have no batch normalisation")
        for norm in norms if own else ():
            norm.__class__ = _Mixed
            norm.share = own


def _norms(modules: Iterable[nn.Module]) -> list[Any]:
    return [module for module in modules if isinstance(module, nn.BatchNorm2d)]
