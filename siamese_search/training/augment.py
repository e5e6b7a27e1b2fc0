"""Augmentation of whole batches on the training device, from a generator: the same seed, the same pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from siamese_search.training.config import TrainConfig

#: ITU-R BT.601 luma of red, green and blue.
_LUMA = (0.299, 0.587, 0.114)


def augment(images: Tensor, config: TrainConfig, generator: torch.Generator) -> Tensor:
    """Flip, shifted crop, colour jitter and random erasing of uint8 or float images [N, H, W, 3] in 0–255.

    Returns float32 [N, H, W, 3]; ``images`` stay as they are. Random numbers come from ``generator`` on the CPU,
    whatever the device, so that runs on different devices see the same augmentation. What only moves pixels
    comes first, while they are single bytes: passes over memory are what augmentation costs.
    """
    x = images
    n, height = x.shape[:2]

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    if config.flip > 0:
        x = _flip(x, uniform(n) < config.flip)
    if config.crop > 0:
        x = _shift(x, round(config.crop * height), uniform(n, 2))
    x = x.to(torch.float32, copy=True)
    if config.jitter > 0:
        x = _jitter(x, config.jitter, uniform(n, 3).to(x.device))
    if config.erase > 0:
        _erase(x, uniform(n) < config.erase, uniform(n, 4), uniform(n, 3).to(x.device))
    return x


def _flip(x: Tensor, chosen: Tensor) -> Tensor:
    """The chosen images mirrored. chosen: bool [n], on the CPU."""
    rows = chosen.nonzero()[:, 0].to(x.device)
    x = x.clone()
    x[rows] = x[rows].flip(2)
    return x


def _shift(x: Tensor, pad: int, r: Tensor) -> Tensor:
    """Pad by replicating the border and crop back at a random offset of up to ``pad`` pixels each way."""
    if pad == 0:
        return x
    n, height, width, channels = x.shape
    top, left = (r * (2 * pad + 1)).long().clamp(max=2 * pad).to(x.device).unbind(1)
    first, last = (x[:, :, end].expand(-1, -1, pad, -1) for end in (slice(1), slice(-1, None)))
    padded = torch.cat((first, x, last), 2).flatten(2)  # [n, height, (width + 2 pad) · channels]
    # Every crop of every row, as a view: one lookup then copies rows whole, not pixel by pixel.
    crops = padded.unfold(2, channels * width, channels)  # [n, height, 2 pad + 1, width · channels]
    rows = (top[:, None] + torch.arange(-pad, height - pad, device=x.device)).clamp(0, height - 1)
    return crops[torch.arange(n, device=x.device)[:, None], rows, left[:, None]].view(x.shape)


def _jitter(x: Tensor, strength: float, r: Tensor) -> Tensor:
    """Brightness, contrast about the mean grey and saturation about each pixel's grey, by factors in 1 ± strength.

    One after the other they are linear in a pixel, so they are one matrix and one offset per image.
    """
    brightness, contrast, saturation = (1.0 + strength * (2.0 * r - 1.0)).unbind(1)  # [n] each
    luma = torch.tensor(_LUMA, device=x.device)
    pixels = x.flatten(1, 2)  # [n, height · width, 3]
    grey = brightness * (pixels @ luma).mean(dim=1)
    scale = brightness * contrast
    matrix = (scale * saturation)[:, None, None] * torch.eye(3, device=x.device)
    matrix = matrix + (scale * (1.0 - saturation))[:, None, None] * luma[:, None]  # [n, 3 in, 3 out]
    offset = ((1.0 - contrast) * grey)[:, None, None]
    return torch.baddbmm(offset, pixels, matrix).clamp_(0.0, 255.0).view(x.shape)


def _erase(x: Tensor, chosen: Tensor, r: Tensor, colour: Tensor) -> None:
    """Paint one rectangle of 2–30 % of the area, aspect 0.3–3.3, in a random colour (Zhong et al., AAAI 2020).

    In place. chosen bool [n] and r [n, 4] are on the CPU, colour [n, 3] on the images' device: a rectangle is a
    slice, and finding it must not wait for the device.
    """
    _, height, width, _ = x.shape
    area = (0.02 + 0.28 * r[:, 0]) * height * width
    aspect = torch.exp((2.0 * r[:, 1] - 1.0) * 1.2)
    h = (area * aspect).sqrt().clamp(max=0.8 * height)
    w = (area / aspect).sqrt().clamp(max=0.8 * width)
    top = r[:, 2] * (height - h)
    left = r[:, 3] * (width - w)
    # Pixels whose index lies in [top, top + h), and so for the columns.
    edges = torch.stack((top, top + h, left, left + w), 1).ceil().long().tolist()
    colours = colour * 255.0
    for image in chosen.nonzero()[:, 0].tolist():
        a, b, c, d = edges[image]
        x[image, a:b, c:d] = colours[image]
