"""Augmentation of whole batches on the training device, from a generator: the same seed, the same pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from siamese_search.training.presets import TrainConfig


def augment(images: Tensor, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """Flip, shifted crop, colour jitter and random erasing of uint8 or float images [N, H, W, 3] in 0–255.

    Returns float32 [N, H, W, 3]. Random numbers come from ``generator`` on the CPU, whatever the device,
    so that runs on different devices see the same augmentation.
    """
    x = images.float()
    n, height = x.shape[:2]
    device = x.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator).to(device)

    if config.flip > 0:
        flipped = uniform(n) < config.flip
        x = torch.where(flipped[:, None, None, None], x.flip(2), x)
    if config.crop > 0:
        x = _shift(x, round(config.crop * height), uniform(n, 2))
    if config.jitter > 0:
        x = _jitter(x, config.jitter, uniform(n, 3))
    if config.erase > 0:
        x = _erase(x, uniform(n) < config.erase, uniform(n, 4), uniform(n, 1, 1, 3))
    return x


def _shift(x: Tensor, pad: int, r: Tensor) -> Tensor:
    """Pad by replicating the border and crop back at a random offset of up to ``pad`` pixels each way."""
    if pad == 0:
        return x
    n, height, width, _ = x.shape
    padded = F.pad(x.permute(0, 3, 1, 2), (pad, pad, pad, pad), mode="replicate").permute(0, 2, 3, 1)
    top = (r[:, 0] * (2 * pad + 1)).long().clamp(max=2 * pad)
    left = (r[:, 1] * (2 * pad + 1)).long().clamp(max=2 * pad)
    rows = top[:, None] + torch.arange(height, device=x.device)
    columns = left[:, None] + torch.arange(width, device=x.device)
    index = torch.arange(n, device=x.device)[:, None, None]
    return padded[index, rows[:, :, None], columns[:, None, :]]


def _jitter(x: Tensor, strength: float, r: Tensor) -> Tensor:
    """Brightness, contrast and saturation, each by a factor in 1 ± strength."""
    factor = 1.0 + strength * (2.0 * r - 1.0)
    brightness, contrast, saturation = (factor[:, i, None, None, None] for i in range(3))
    x = x * brightness
    grey = x @ torch.tensor([0.299, 0.587, 0.114], device=x.device)
    mean = grey.mean(dim=(1, 2), keepdim=True)[..., None]
    x = (x - mean) * contrast + mean
    grey = x @ torch.tensor([0.299, 0.587, 0.114], device=x.device)
    return ((x - grey[..., None]) * saturation + grey[..., None]).clamp(0.0, 255.0)


def _erase(x: Tensor, chosen: Tensor, r: Tensor, colour: Tensor) -> Tensor:
    """One rectangle of 2–30 % of the area, aspect 0.3–3.3, in a random colour (Zhong et al., AAAI 2020)."""
    _, height, width, _ = x.shape
    area = (0.02 + 0.28 * r[:, 0]) * height * width
    aspect = torch.exp((2.0 * r[:, 1] - 1.0) * 1.2)
    h = (area * aspect).sqrt().clamp(max=0.8 * height)
    w = (area / aspect).sqrt().clamp(max=0.8 * width)
    top = r[:, 2] * (height - h)
    left = r[:, 3] * (width - w)
    ys = torch.arange(height, device=x.device)
    xs = torch.arange(width, device=x.device)
    inside_y = (ys >= top[:, None]) & (ys < (top + h)[:, None])
    inside_x = (xs >= left[:, None]) & (xs < (left + w)[:, None])
    inside = inside_y[:, :, None] & inside_x[:, None, :] & chosen[:, None, None]
    return torch.where(inside[..., None], colour * 255.0, x)
