"""Data sets that are small, lopsided or of every image mode: what can be learnt from is, the rest is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from siamese_search.errors import DataError  # noqa: E402
from siamese_search.model.network import APNNetwork, NetworkSpec  # noqa: E402
from siamese_search.training.config import PRESETS, TrainConfig  # noqa: E402
from siamese_search.training.data import HoldOut, LabelledImages, PixelSource, label_images, load_split  # noqa: E402
from siamese_search.training.trainer import Trainer  # noqa: E402

SIZE = (32, 16)


def draw(path: Path, mode: str = "RGB", size: tuple[int, int] = (20, 30), seed: int = 0) -> None:
    """A noisy picture of this mode; size is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    if mode == "I;16":
        Image.fromarray(noise[..., 0].astype(np.uint16) * 257).save(path)
    else:
        Image.fromarray(noise).convert(mode).save(path)


def images_of(root: Path) -> LabelledImages:
    split = load_split(root, "folders", HoldOut(amount=0))
    return label_images(split.train, PixelSource([r.path for r in split.train.records], SIZE, threads=1))


def one_epoch(images: LabelledImages, config: TrainConfig) -> dict[str, float]:
    config = config.with_options(height=SIZE[0], width=SIZE[1], batch_size=8)
    spec = NetworkSpec(backbone="test_efficientnet", dim=8, height=SIZE[0], width=SIZE[1], neck=config.neck)
    trainer = Trainer(APNNetwork(spec), config, images, images.labels)
    assert trainer.train_epoch()
    trainer.check_finite()
    return trainer.finish_epoch()


@pytest.mark.parametrize("name", list(PRESETS))
def test_two_identities_and_one_of_a_single_image(tmp_path: Path, name: str) -> None:
    for shot in range(5):
        draw(tmp_path / "anna" / f"{shot}.png", seed=shot)
    draw(tmp_path / "ben" / "only.png", seed=9)
    images = images_of(tmp_path)
    assert sorted(np.bincount(images.labels).tolist()) == [1, 5]
    assert np.isfinite(one_epoch(images, PRESETS[name])["loss"])


@pytest.mark.parametrize("name", list(PRESETS))
def test_identities_of_one_image_each_teach_nothing(tmp_path: Path, name: str) -> None:
    for identity in "abc":
        draw(tmp_path / identity / "only.png")
    with pytest.raises(DataError, match="every identity has only one"):
        one_epoch(images_of(tmp_path), PRESETS[name])


def test_one_identity_teaches_nothing(tmp_path: Path) -> None:
    for shot in range(4):
        draw(tmp_path / "anna" / f"{shot}.png", seed=shot)
    with pytest.raises(DataError, match="at least 2"):
        images_of(tmp_path)


def test_two_identities_leave_nobody_to_hold_out(tmp_path: Path) -> None:
    for name in ("anna", "ben"):
        for shot in range(3):
            draw(tmp_path / name / f"{shot}.png", seed=shot)
    with pytest.raises(DataError, match=r"2 identities found \(anna, ben\).* --holdout 0") as caught:
        load_split(tmp_path, "auto", HoldOut())
    assert str(caught.value).startswith(str(tmp_path))
    assert len(load_split(tmp_path, "auto", HoldOut(amount=0)).train.identities) == 2


def test_images_of_mixed_sizes_and_modes_train_together(tmp_path: Path) -> None:
    kinds = [
        ("rgb.jpg", "RGB", (64, 128)), ("grey.png", "L", (7, 300)), ("palette.png", "P", (40, 40)),
        ("alpha.png", "RGBA", (128, 64)), ("print.jpg", "CMYK", (33, 65)), ("deep.png", "I;16", (16, 32)),
        ("bit.png", "1", (1, 1)), ("greyalpha.png", "LA", (90, 31)),
    ]  # fmt: skip
    for identity in ("anna", "ben"):
        for number, (file, mode, size) in enumerate(kinds):
            draw(tmp_path / identity / file, mode, size, seed=number)
    images = images_of(tmp_path)
    assert not images.pixels.failed
    pixels = images.get(np.arange(16))
    assert pixels.shape == (16, *SIZE, 3)
    assert pixels.dtype == np.uint8
    for number, record in enumerate(images.records):
        if record.path.name in ("grey.png", "deep.png"):
            assert np.ptp(pixels[number].astype(int), axis=-1).max() == 0
            assert pixels[number].std() > 5
    assert np.isfinite(one_epoch(images, PRESETS["reid"])["loss"])
