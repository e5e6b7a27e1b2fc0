"""The APN network: a backbone (timm's, or the small ``simple_cnn``), pooled, and a linear embedding.

One network embeds anchor, positive and negative alike ("Siamese"): there is a single set of weights.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from siamese_search.errors import UsageError
from siamese_search.model import simple_cnn
from siamese_search.model.stages import mix_statistics

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
    instance_mix: float = 0.0  # younger than the first bundles

    def to_json(self) -> dict[str, Any]:
        """Of a network without it, no word of ``instance_mix``: fingerprints are made of this."""
        data = asdict(self)
        if not self.instance_mix:
            del data["instance_mix"]
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> NetworkSpec:
        fields: Any = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
        return cls(**fields)


def normalisation(backbone: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """(mean, std) of RGB in 0–1 that a new network of this backbone is built with."""
    if backbone == simple_cnn.NAME:
        return simple_cnn.MEAN, simple_cnn.STD
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
        if spec.instance_mix:
            mix_statistics(self.backbone, spec.instance_mix)
        self.pool = _create_pool(spec)
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
        """uint8 RGB [N, H, W, 3] → normalised float32 [N, 3, H, W], channels-last in memory.

        constants: of :meth:`constants`, made once; making them waits for the device.
        """
        mean, std = constants or self.constants(images.device)
        return ((images.float() - mean) / std).permute(0, 3, 1, 2)


class DeployNetwork(nn.Module):
    """What is exported: uint8 [N, H, W, 3] RGB in, unit float32 [N, dim] out; nothing is left to do outside."""

    def __init__(self, network: APNNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.embed(self.network.normalise(images))


def _create_pool(spec: NetworkSpec) -> nn.Module:
    if spec.backbone == simple_cnn.NAME:
        if spec.pool != "avg":
            raise UsageError(
                f"--pool {spec.pool}: {spec.backbone} ends in fully connected layers, leave out --pool"
            )
        return nn.Identity()
    return GeMPool() if spec.pool == "gem" else AvgPool()


def _create_backbone(spec: NetworkSpec) -> Any:
    if spec.backbone == simple_cnn.NAME:
        return simple_cnn.SimpleCNN(spec.height, spec.width)
    if not timm.is_model(spec.backbone):
        near = ", ".join(timm.list_models(f"*{spec.backbone[:6]}*")[:5]) or "efficientnet_b0"
        raise UsageError(f"unknown backbone {spec.backbone!r}: timm has no such model; near it: {near}")
    # global_pool="" leaves pooling to us; num_classes=0 drops timm's classifier.
    return timm.create_model(spec.backbone, pretrained=False, num_classes=0, global_pool="")


def _undo_last_stride(backbone: nn.Module) -> None:
    """Give the last down-sampling convolution stride 1, so that the final map is twice as high and wide (Sun et al.,
    PCB, ECCV 2018). timm's ``output_stride`` would dilate the later kernels instead.
    """
    strided = [
        module for module in backbone.modules() if isinstance(module, nn.Conv2d) and module.stride == (2, 2)
    ]
    if not strided:
        raise UsageError("--last-stride 1: this backbone has no strided convolution to change")
    last = strided[-1]
    if last.groups == 1 and last.kernel_size == (1, 1):
        # A residual's projection: its main branch holds a second strided convolution of the same block.
        strided[-2].stride = (1, 1)
    last.stride = (1, 1)
