from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from siamese_search.training.augment import augment  # noqa: E402
from siamese_search.training.presets import PRESETS  # noqa: E402

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
