from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from siamese_search.training.augment import augment  # noqa: E402
from siamese_search.training.config import PRESETS  # noqa: E402

NONE = PRESETS["apn"]


def images(n: int = 8) -> torch.Tensor:
    return torch.randint(
        0, 256, (n, 32, 16, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_apn_preset_changes_no_pixel() -> None:
    assert torch.equal(augment(images(), NONE, generator()), images().float())


def test_the_same_seed_gives_the_same_pixels_and_another_seed_others() -> None:
    reid = PRESETS["reid"]
    assert torch.equal(augment(images(), reid, generator()), augment(images(), reid, generator()))
    assert not torch.equal(augment(images(), reid, generator()), augment(images(), reid, generator(2)))


def test_values_stay_in_range() -> None:
    out = augment(images(64), PRESETS["reid"], generator())
    assert out.shape == (64, 32, 16, 3)
    assert float(out.min()) >= 0.0
    assert float(out.max()) <= 255.0


def test_flip_always_mirrors_the_width() -> None:
    out = augment(images(), NONE.with_options(flip=1.0), generator())
    assert torch.equal(out, images().float().flip(2))


def test_crop_only_shifts() -> None:
    source = images(1)
    out = augment(source, NONE.with_options(crop=0.1), generator(5))[0]
    pad = 3
    padded = torch.nn.functional.pad(source.float().permute(0, 3, 1, 2), (pad,) * 4, mode="replicate")[0]
    windows = [
        padded[:, top : top + 32, left : left + 16].permute(1, 2, 0)
        for top in range(2 * pad + 1)
        for left in range(2 * pad + 1)
    ]
    assert sum(torch.equal(out, window) for window in windows) >= 1


def test_erase_paints_one_rectangle_of_one_colour() -> None:
    source = torch.zeros(32, 32, 16, 3, dtype=torch.uint8)
    out = augment(source, NONE.with_options(erase=1.0), generator())
    for image in out:
        changed = (image > 0).any(-1)
        rows, columns = changed.any(1).nonzero()[:, 0], changed.any(0).nonzero()[:, 0]
        block = changed[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert block.all()
        assert 0.0 < block.numel() / changed.numel() <= 0.45
        assert len(torch.unique(image[changed], dim=0)) == 1


def test_each_step_is_what_it_says_image_by_image() -> None:
    """The whole recipe against the plain operations, in order, with the same random numbers."""
    config = PRESETS["reid"].with_options(crop=0.1, jitter=0.4)
    draw = generator(3)
    n, height, width = 12, 32, 16
    flips, shifts = torch.rand(n, generator=draw), torch.rand(n, 2, generator=draw)
    factors, erased = torch.rand(n, 3, generator=draw), torch.rand(n, generator=draw)
    boxes, colours = torch.rand(n, 4, generator=draw), torch.rand(n, 1, 1, 3, generator=draw)
    source = images(n)
    out = augment(source, config, generator(3))
    luma = torch.tensor([0.299, 0.587, 0.114])
    for i, image in enumerate(source.float()):
        if flips[i] < config.flip:
            image = image.flip(1)
        pad = 3
        padded = torch.nn.functional.pad(image.permute(2, 0, 1)[None], (pad,) * 4, mode="replicate")[0]
        down, right = int(shifts[i, 0] * 7), int(shifts[i, 1] * 7)
        image = padded[:, down : down + height, right : right + width].permute(1, 2, 0)
        brightness, contrast, saturation = (1 + 0.4 * (2 * factors[i] - 1)).tolist()
        image = image * brightness
        mean = (image @ luma).mean()
        image = (image - mean) * contrast + mean
        grey = (image @ luma)[..., None]
        image = ((image - grey) * saturation + grey).clamp(0, 255)
        if erased[i] < config.erase:
            area = (0.02 + 0.28 * float(boxes[i, 0])) * height * width
            aspect = math.exp((2 * float(boxes[i, 1]) - 1) * 1.2)
            tall, wide = (
                min(math.sqrt(area * aspect), 0.8 * height),
                min(math.sqrt(area / aspect), 0.8 * width),
            )
            top, left = float(boxes[i, 2]) * (height - tall), float(boxes[i, 3]) * (width - wide)
            image = image.clone()
            for y in range(height):
                for x in range(width):
                    if top <= y < top + tall and left <= x < left + wide:
                        image[y, x] = colours[i, 0, 0] * 255
        assert torch.allclose(out[i], image, atol=1e-3), i


def test_the_source_is_left_as_it_was() -> None:
    for source in (images(), images().float()):
        before = source.clone()
        for config in (PRESETS["reid"], NONE, NONE.with_options(erase=1.0), NONE.with_options(flip=1.0)):
            augment(source, config, generator())
            assert torch.equal(source, before)
