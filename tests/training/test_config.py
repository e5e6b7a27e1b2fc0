from __future__ import annotations

import dataclasses

import pytest

from siamese_search.errors import UsageError
from siamese_search.model.bundle import load_bundle
from siamese_search.training.config import PRESETS, network_of, preset


def test_bundled_is_the_packages_whatever_a_directory_here_is_called(tmp_path, monkeypatch) -> None:
    """As the default of an adaptation nobody has typed it."""
    (tmp_path / "bundled").mkdir()
    (tmp_path / "bundled" / "model.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert network_of("bundled") == load_bundle().meta["network"]


def test_the_classic_recipe() -> None:
    apn = PRESETS["apn"]
    assert (apn.margin, apn.lr, apn.batch_size, apn.epochs) == (1.0, 1e-3, 32, 15)
    assert (apn.height, apn.width, apn.dim, apn.backbone) == (128, 64, 512, "efficientnet_b0")
    assert (apn.optimizer, apn.schedule, apn.batches, apn.neck) == ("adam", "constant", "apn", "none")


def test_the_contrastive_recipe() -> None:
    config = PRESETS["contrastive"]
    assert (config.batches, config.margin, config.unit_triplets) == ("pairs", 2.0, False)
    assert config.schedule != "constant"
    assert config.backbone == "efficientnet_b0"


def test_simple_cnn_brings_its_size_along_unless_another_is_asked_for() -> None:
    config = PRESETS["contrastive"].with_options(backbone="simple_cnn")
    assert (config.height, config.width, config.dim) == (100, 100, 5)
    other = PRESETS["contrastive"].with_options(backbone="simple_cnn", height=60, dim=16)
    assert (other.height, other.width, other.dim) == (60, 100, 16)
    assert (config.with_options(width=80).height, config.with_options(width=80).width) == (100, 80)
    assert other.with_options(backbone="simple_cnn").height == 60  # it already was


def test_presets_are_valid_frozen_and_explained() -> None:
    for name, config in PRESETS.items():
        config.check()
        assert config.preset == name
        with pytest.raises(dataclasses.FrozenInstanceError):
            config.epochs = 3  # type: ignore[misc]
    assert all(field.metadata["help"] for field in dataclasses.fields(PRESETS["reid"]))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epochs", 0), ("lr", 0.0), ("lr", float("nan")), ("margin", -1.0), ("margin", float("nan")),
        ("flip", 1.5), ("batch_size", 1), ("batch_size", 7), ("height", 4), ("images_per_identity", 1),
    ],
)  # fmt: skip
def test_values_that_cannot_work_name_their_option(option: str, value: float) -> None:
    with pytest.raises(UsageError, match="--" + option.replace("_", "-")):
        PRESETS["reid"].with_options(**{option: value})


def test_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="reid, reid-cpu, apn, contrastive"):
        preset("magic")
