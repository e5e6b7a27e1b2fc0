"""Augmentation of whole batches on the training device: the same random numbers, the same pixels.

The numbers of an image are one row of a table (:func:`draw`). A batch draws its own, or reads them from a table for the
whole data set: then a view of an image can be made again, at any size, and a teacher need be asked about it only once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from siamese_search.training.config import TrainConfig

#: ITU-R BT.601 luma of red, green and blue.
_LUMA = (0.299, 0.587, 0.114)

#: The columns of a row of random numbers, by the step that reads them.
_FLIP, _BLUR, _GREY = 0, 1, 2
_CROP, _ZOOM, _JITTER, _TINT = slice(3, 5), slice(5, 7), slice(7, 10), slice(10, 13)
_PATCH, _ERASE, _BOX, _COLOUR, _DETAIL = slice(13, 17), 17, slice(18, 22), slice(22, 25), slice(25, 27)
COLUMNS = 27

#: What a teacher sees of a view: all but mirroring, which hardly changes its answer, and erasing, for what it says of
#: the whole person is what a student that sees a part shall learn.
TAUGHT = [*(column for column in range(_ERASE) if column != _FLIP), *range(COLUMNS)[_DETAIL]]


def draw(n: int, generator: torch.Generator) -> Tensor:
    """Random numbers for n images, float32 [n, COLUMNS] in 0–1, on the CPU whatever the training device."""
    return torch.rand((n, COLUMNS), generator=generator)


def view_draws(config: TrainConfig, n: int, view: int) -> Tensor:
    """The random numbers of view 1, 2 … of each of n images, float32 [n, COLUMNS]; they depend on the seed alone."""
    return draw(n, torch.Generator().manual_seed(104_729 * (config.seed + 1) + view))


def view_recipe(config: TrainConfig) -> str:
    """What the pixels of a view depend on, as text: vectors of views belong to one recipe."""
    names = ("seed", "crop", "zoom", "blur", "detail", "jitter", "tint", "grey")
    mix = f" view_mix={config.view_mix}" if config.view_mix else ""
    return " ".join(f"{name}={getattr(config, name)}" for name in names) + mix


def view_mix(config: TrainConfig, n: int, view: int) -> tuple[Tensor, Tensor]:
    """Whose lower part each of n images takes in view 1, 2 …: (int64 [n] indices, float32 [n] height where it begins).

    A height of 1 leaves an image whole. Two people in one are somebody whom no label knows and a teacher does: of n
    images come n² people (after CutMix, Yun et al., ICCV 2019, and "Knowledge distillation: A good teacher is patient
    and consistent", Beyer et al., CVPR 2022). They depend on the seed alone.
    """
    generator = torch.Generator().manual_seed(224_737 * (config.seed + 1) + view)
    partner = torch.randperm(n, generator=generator)
    r = torch.rand((n, 2), generator=generator)
    return partner, torch.where(r[:, 0] < config.view_mix, 0.35 + 0.3 * r[:, 1], 1.0)


def mixed(images: Tensor, partners: Tensor, cut: Tensor) -> Tensor:
    """Images [n, H, W, 3] with the part below ``cut`` (float32 [n], a share of the height) of their partners."""
    height = images.shape[1]
    rows = (torch.arange(height, device=images.device) + 0.5) / height
    return torch.where((rows < cut[:, None])[:, :, None, None], images, partners)


def augment(images: Tensor, config: TrainConfig, random: Tensor, *, masks: bool | None = None) -> Tensor:
    """Uint8 or float images [n, H, W, 3] in 0–255, changed as ``config`` says; float32 [n, H, W, 3].

    random: float32 [n, COLUMNS], see :func:`draw`. ``images`` stay as they are. What only moves pixels comes first,
    while they are single bytes: passes over memory are what augmentation costs.
    masks: change all images and keep the changes of some, so that nothing waits for the device; by default
    everywhere but on the CPU, where it is quicker to visit those few. The pixels are the same.
    """
    x, r = images, random.to(images.device)
    masks = x.device.type != "cpu" if masks is None else masks
    height = x.shape[1]
    if config.flip > 0:
        x = _some(x if masks else x.clone(), r[:, _FLIP] < config.flip, lambda chosen: chosen.flip(2), masks)
    if config.zoom > 0:
        x = _zoom(x, config, r[:, _CROP], r[:, _ZOOM])
    elif config.crop > 0:
        x = _shift(x, round(config.crop * height), r[:, _CROP])
    x = x.to(torch.float32, copy=True)
    if config.blur > 0:
        x = _some(x, r[:, _BLUR] < config.blur, _halved, masks)
    if config.detail > 0:
        x = _detail(x, config.detail * (1.5 * r[:, _DETAIL] - 0.5))
    if config.jitter > 0 or config.tint > 0:
        x = _jitter(x, config, r[:, _JITTER], r[:, _TINT])
    if config.grey > 0:
        x = _grey(x, r[:, _GREY] < config.grey, r[:, _PATCH], masks)
    if config.erase > 0:
        x = _erase(x, r[:, _ERASE] < config.erase, r[:, _BOX], r[:, _COLOUR], masks)
    return x


def _some(x: Tensor, chosen: Tensor, change: Callable[[Tensor], Tensor], masks: bool) -> Tensor:
    """The chosen images changed. chosen: bool [n]. x may be changed in place."""
    if masks:
        return torch.where(chosen[:, None, None, None], change(x), x)
    rows = chosen.nonzero()[:, 0]
    if len(rows):
        x[rows] = change(x[rows])
    return x


def _shift(x: Tensor, pad: int, r: Tensor) -> Tensor:
    """Pad by replicating the border and crop back at a random offset of up to ``pad`` pixels each way."""
    if pad == 0:
        return x
    n, height, width, channels = x.shape
    top, left = (r * (2 * pad + 1)).long().clamp(max=2 * pad).unbind(1)
    first, last = (x[:, :, end].expand(-1, -1, pad, -1) for end in (slice(1), slice(-1, None)))
    padded = torch.cat((first, x, last), 2).flatten(2)  # [n, height, (width + 2 pad) · channels]
    # Every crop of every row, as a view: one lookup then copies rows whole, not pixel by pixel.
    crops = padded.unfold(2, channels * width, channels)  # [n, height, 2 pad + 1, width · channels]
    rows = (top[:, None] + torch.arange(-pad, height - pad, device=x.device)).clamp(0, height - 1)
    return crops[torch.arange(n, device=x.device)[:, None], rows, left[:, None]].view(x.shape)


def _zoom(x: Tensor, config: TrainConfig, shift: Tensor, zoom: Tensor) -> Tensor:
    """Boxes that are cut tighter or wider: height and width scaled each by up to 1 + zoom either way, then shifted.

    Detectors differ in how close they cut. Outside the image its border is repeated.
    """
    n, height, width, _ = x.shape
    reach = torch.log1p(torch.tensor(config.zoom))
    scale = torch.exp((2.0 * zoom - 1.0) * reach)  # [n, 2] of height and width; above 1 more of the scene is seen
    moved = (2.0 * shift - 1.0) * config.crop * 2.0  # in half heights, the unit of a sampling grid
    theta = torch.zeros(n, 2, 3, device=x.device)
    theta[:, 0, 0], theta[:, 0, 2] = scale[:, 1], moved[:, 1] * height / width
    theta[:, 1, 1], theta[:, 1, 2] = scale[:, 0], moved[:, 0]
    grid = F.affine_grid(theta, [n, 3, height, width], align_corners=False)
    pixels = x.permute(0, 3, 1, 2).float()
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False).permute(0, 2, 3, 1)


def _halved(x: Tensor) -> Tensor:
    """At half their size and back: a person farther from the camera."""
    small = F.avg_pool2d(x.permute(0, 3, 1, 2), 2)
    return F.interpolate(small, x.shape[1:3], mode="bilinear").permute(0, 2, 3, 1)


def _detail(x: Tensor, octaves: Tensor) -> Tensor:
    """Detail under two pixels times 2^octaves, that of two to four pixels times half as many octaves.

    octaves: float32 [n, 2]. Small pictures that were enlarged have little of either, a large and sharp box has much.
    No change of place or light brings the one to the other, and all first filters see the difference.
    """
    pixels = x.permute(0, 3, 1, 2)
    half = F.avg_pool2d(pixels, 2, ceil_mode=True)
    coarse = half - F.interpolate(F.avg_pool2d(half, 2, ceil_mode=True), half.shape[2:], mode="bilinear")
    fine = pixels - F.interpolate(half, pixels.shape[2:], mode="bilinear")
    of_fine = torch.exp2(octaves[:, 0])[:, None, None, None] - 1.0
    of_coarse = torch.exp2(octaves[:, 1] / 2)[:, None, None, None] - 1.0
    pixels = pixels + of_fine * fine + F.interpolate(of_coarse * coarse, pixels.shape[2:], mode="bilinear")
    return pixels.clamp_(0.0, 255.0).permute(0, 2, 3, 1)


def _jitter(x: Tensor, config: TrainConfig, r: Tensor, tint: Tensor) -> Tensor:
    """Brightness, contrast about the mean grey, saturation about each pixel's grey, then a gain for each channel.

    All factors lie in 1 ± strength. One after the other they are linear in a pixel: one matrix and offset per image.
    """
    brightness, contrast, saturation = (1.0 + config.jitter * (2.0 * r - 1.0)).unbind(1)  # [n] each
    gain = 1.0 + config.tint * (2.0 * tint - 1.0)  # [n, 3]
    luma = _luma(x.device)
    pixels = x.flatten(1, 2)  # [n, height · width, 3]
    grey = brightness * (pixels @ luma).mean(dim=1)
    scale = brightness * contrast
    matrix = (scale * saturation)[:, None, None] * torch.eye(3, device=x.device)
    matrix = matrix + (scale * (1.0 - saturation))[:, None, None] * luma[:, None]  # [n, 3 in, 3 out]
    offset = ((1.0 - contrast) * grey)[:, None, None] * gain[:, None]
    return torch.baddbmm(offset, pixels, matrix * gain[:, None]).clamp_(0.0, 255.0).view(x.shape)


@cache
def _luma(device: torch.device) -> Tensor:
    """Made once: a constant from the host waits for the device."""
    return torch.tensor(_LUMA, device=device)


def _grey(x: Tensor, chosen: Tensor, r: Tensor, masks: bool) -> Tensor:
    """The chosen images without colour in one rectangle, or, a third of them, altogether (Gong et al., CVPRW 2021).

    x may be changed in place.
    """
    luma = _luma(x.device)
    edges = _rectangles(x, torch.cat((0.3 + 0.7 * r[:, :1], r[:, 1:]), 1), 1.0)
    part = r[:, 0] < 2 / 3
    if masks:
        area = (_inside(x, edges) | ~part[:, None, None]) & chosen[:, None, None]
        return torch.where(area[..., None], (x @ luma)[..., None], x)
    corners, parts = edges.tolist(), part.tolist()
    for image in chosen.nonzero()[:, 0].tolist():
        a, b, c, d = corners[image] if parts[image] else (0, x.shape[1], 0, x.shape[2])
        x[image, a:b, c:d] = (x[image, a:b, c:d] @ luma)[..., None]
    return x


def _erase(x: Tensor, chosen: Tensor, r: Tensor, colour: Tensor, masks: bool) -> Tensor:
    """Paint one rectangle of 2–30 % of the area, aspect 0.3–3.3, in a random colour (Zhong et al., AAAI 2020).

    chosen bool [n], r [n, 4], colour [n, 3] in 0–1. x may be changed in place.
    """
    edges = _rectangles(x, torch.cat((0.02 + 0.28 * r[:, :1], r[:, 1:]), 1), 0.8)
    colours = colour * 255.0
    if masks:
        area = _inside(x, edges) & chosen[:, None, None]
        return torch.where(area[..., None], colours[:, None, None], x)
    corners = edges.tolist()
    for image in chosen.nonzero()[:, 0].tolist():
        a, b, c, d = corners[image]
        x[image, a:b, c:d] = colours[image]
    return x


def _inside(x: Tensor, edges: Tensor) -> Tensor:
    """Which pixels of each image lie in its rectangle, bool [n, H, W]."""
    top, bottom, left, right = edges[..., None].unbind(1)  # [n, 1] each
    rows, columns = (torch.arange(size, device=x.device) for size in x.shape[1:3])
    tall, wide = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return tall[:, :, None] & wide[:, None, :]


def _rectangles(x: Tensor, r: Tensor, longest: float) -> Tensor:
    """(top, bottom, left, right) of one rectangle per image, int64 [n, 4].

    r: [n, 4] area as a share, aspect, and place. No side is longer than this share of the image's.
    """
    _, height, width, _ = x.shape
    area = r[:, 0] * height * width
    aspect = torch.exp((2.0 * r[:, 1] - 1.0) * 1.2)
    h = (area * aspect).sqrt().clamp(max=longest * height)
    w = (area / aspect).sqrt().clamp(max=longest * width)
    top = r[:, 2] * (height - h)
    left = r[:, 3] * (width - w)
    # Pixels whose index lies in [top, top + h), and so for the columns.
    return torch.stack((top, top + h, left, left + w), 1).ceil().long()
