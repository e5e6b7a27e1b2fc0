from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from siamese_search.training.augment import COLUMNS, TAUGHT, draw, view_draws, view_recipe  # noqa: E402
from siamese_search.training.augment import augment as augment_with  # noqa: E402
from siamese_search.training.config import PRESETS  # noqa: E402

NONE = PRESETS["apn"]


def images(n: int = 8) -> torch.Tensor:
    return torch.randint(0, 256, (n, 32, 16, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def augment(source: torch.Tensor, config, random: torch.Generator) -> torch.Tensor:
    return augment_with(source, config, draw(len(source), random))


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
    n, height, width = 12, 32, 16
    random = draw(n, generator(3))
    flips, shifts, factors, erased = random[:, 0], random[:, 3:5], random[:, 7:10], random[:, 17]
    boxes, colours = random[:, 18:22], random[:, 22:25].view(n, 1, 1, 3)
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
            tall, wide = (min(math.sqrt(area * aspect), 0.8 * height), min(math.sqrt(area / aspect), 0.8 * width))
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


STRONG = NONE.with_options(
    zoom=0.3, crop=0.1, tint=0.3, jitter=0.3, grey=1.0, blur=1.0, detail=2.0, erase=0.5, flip=0.5
)


def test_every_step_draws_from_its_own_numbers() -> None:
    """Other numbers for one step change nothing where that step is switched off, and something where it is on."""
    source = images(16)
    random = draw(16, generator(4))
    other = draw(16, generator(5))
    steps = {
        "flip": [0], "blur": [1], "grey": [2, *range(13, 17)], "crop": [3, 4], "zoom": [5, 6], "jitter": [7, 8, 9],
        "tint": [10, 11, 12], "erase": list(range(17, 25)), "detail": [25, 26],
    }  # fmt: skip
    assert sorted(column for columns in steps.values() for column in columns) == list(range(COLUMNS))
    config = STRONG.with_options(grey=0.5, blur=0.5)
    for name, columns in steps.items():
        changed = random.clone()
        changed[:, columns] = other[:, columns]
        off = config.with_options(**{name: 0.0})
        if name != "crop":  # a zoom without a shift still reads nothing of it: see below
            assert torch.equal(augment_with(source, off, random), augment_with(source, off, changed)), name
        assert not torch.equal(augment_with(source, config, random), augment_with(source, config, changed)), name


def test_zoom_scales_about_the_middle_and_repeats_the_border() -> None:
    source = torch.arange(32 * 16, dtype=torch.float32).view(1, 32, 16, 1).expand(1, 32, 16, 3) % 256
    random = torch.full((1, COLUMNS), 0.5)
    config = NONE.with_options(zoom=1.0)
    assert torch.allclose(augment_with(source, config, random), source, atol=1e-3)
    random[0, 5], random[0, 6] = 1.0, 0.5  # twice as much of the height is seen, the width as it was
    out = augment_with(source, config, random)
    shrunk = torch.nn.functional.avg_pool2d(source.permute(0, 3, 1, 2), (2, 1)).permute(0, 2, 3, 1)
    assert torch.allclose(out[:, 8:24], shrunk, atol=1e-2)
    assert torch.allclose(out[:, :8], source[:, :1].expand(1, 8, 16, 3), atol=1e-2)
    assert torch.allclose(out[:, 24:], source[:, -1:].expand(1, 8, 16, 3), atol=1e-2)


def test_grey_takes_the_colour_of_a_rectangle_or_of_all() -> None:
    source = images(64)
    out = augment_with(source, NONE.with_options(grey=1.0), draw(64, generator()))
    grey = (out.amax(-1) - out.amin(-1)) < 1e-2
    share = grey.float().mean(dim=(1, 2))
    assert float(share.min()) > 0.05
    assert 0.1 < float((share > 0.99).float().mean()) < 0.6
    luma = torch.tensor([0.299, 0.587, 0.114])
    assert torch.allclose(out @ luma, source.float() @ luma, atol=1e-2)


def test_tint_changes_the_balance_of_the_channels_and_nothing_else() -> None:
    source = torch.full((8, 32, 16, 3), 100.0)
    random = draw(8, generator(7))
    out = augment_with(source, NONE.with_options(tint=0.2), random)
    expected = 100.0 * (1 + 0.2 * (2 * random[:, 10:13] - 1))
    assert torch.allclose(out, expected[:, None, None].expand_as(out), atol=1e-3)


def test_blur_keeps_the_mean_and_loses_detail() -> None:
    source = images(8)
    out = augment_with(source, NONE.with_options(blur=1.0), draw(8, generator()))
    assert torch.allclose(out.mean(dim=(1, 2)), source.float().mean(dim=(1, 2)), atol=2.0)
    assert bool((out.std(dim=(1, 2)) < source.float().std(dim=(1, 2))).all())


def test_detail_strengthens_what_is_fine_and_leaves_what_is_smooth() -> None:
    stripes = torch.tensor([90.0, 110.0]).repeat(8)[None, None, :, None].expand(1, 32, 16, 3)  # each pair means 100
    coarse = torch.tensor([90.0, 90.0, 110.0, 110.0]).repeat(4)[None, None, :, None].expand(1, 32, 16, 3)
    config = NONE.with_options(detail=2.0)
    random = torch.full((1, COLUMNS), 1 / 3)  # no change: from 1/3 on detail is strengthened
    for source in (stripes, coarse, images(1).float()):
        assert torch.allclose(augment_with(source, config, random), source, atol=1e-3)
    random[:, 25] = 1.0
    assert torch.allclose(augment_with(stripes, config, random) - 100, 4 * (stripes - 100), atol=1e-3)
    random[:, 25] = 0.0
    assert torch.allclose(augment_with(stripes, config, random) - 100, (stripes - 100) / 2, atol=1e-3)
    random[:, 25], random[:, 26] = 1 / 3, 1.0
    assert torch.allclose(augment_with(stripes, config, random), stripes, atol=1e-3)
    assert 1.3 < float(augment_with(coarse, config, random).std() / coarse.std()) < 2.0
    random[:, 25:] = 1.0
    assert torch.allclose(augment_with(torch.full((1, 32, 16, 3), 70.0), config, random), torch.tensor(70.0))


def test_a_view_can_be_made_again_and_depends_on_its_number_and_the_seed() -> None:
    one = view_draws(STRONG, 20, 1)
    assert torch.equal(one, view_draws(STRONG, 20, 1))
    assert not torch.equal(one, view_draws(STRONG, 20, 2))
    assert not torch.equal(one, view_draws(STRONG.with_options(seed=1), 20, 1))
    assert view_recipe(STRONG) == view_recipe(STRONG.with_options(erase=0.1, flip=0.0, epochs=3))
    assert view_recipe(STRONG) != view_recipe(STRONG.with_options(seed=1))
    assert view_recipe(STRONG) != view_recipe(STRONG.with_options(tint=0.1))


def test_what_a_teacher_sees_does_not_depend_on_mirroring_and_erasing() -> None:
    random, other = draw(16, generator(8)), draw(16, generator(9))
    other[:, TAUGHT] = random[:, TAUGHT]
    seen = STRONG.with_options(flip=0.0, erase=0.0)
    assert torch.equal(augment_with(images(16), seen, random), augment_with(images(16), seen, other))


@pytest.mark.parametrize("config", [PRESETS["reid"], STRONG, STRONG.with_options(grey=0.5, blur=0.3)])
def test_masks_give_the_same_pixels_as_visiting_the_chosen_images(config) -> None:
    random = draw(48, generator(11))
    for source in (images(48), images(48).float()):
        before = source.clone()
        one = augment_with(source, config, random, masks=False)
        other = augment_with(source, config, random, masks=True)
        assert torch.allclose(one, other, atol=1e-3, rtol=0)  # products of another shape are rounded otherwise
        assert torch.equal(source, before)
    exact = config.with_options(jitter=0.0, tint=0.0, grey=0.0, blur=0.0, detail=0.0)
    assert torch.equal(
        augment_with(images(48), exact, random, masks=False), augment_with(images(48), exact, random, masks=True)
    )


def test_masks_never_wait_for_a_value() -> None:
    """A tensor without values refuses whatever would have to wait for one."""
    out = augment_with(images().to("meta"), STRONG, draw(8, generator()).to("meta"))
    assert out.shape == (8, 32, 16, 3)
