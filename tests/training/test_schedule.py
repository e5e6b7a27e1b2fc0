from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from PIL import Image  # noqa: E402

from siamese_search.errors import ImageError, UsageError  # noqa: E402
from siamese_search.training.config import PRESETS, RESTART_WARMUP, stage_at, stages  # noqa: E402
from siamese_search.training.data import HoldOut, PixelSource  # noqa: E402
from siamese_search.training.run import Silent, TrainRequest, train  # noqa: E402
from siamese_search.training.trainer import StepReport, Trainer  # noqa: E402

SMALL = {"backbone": "test_efficientnet", "dim": 16, "height": 32, "width": 16}
REID = PRESETS["reid"].with_options(**SMALL, batch_size=8, images_per_identity=2, epochs=3, warmup_epochs=0.5)


def test_a_run_of_one_size_is_one_stage() -> None:
    (stage,) = stages(PRESETS["reid"])
    assert (stage.size, stage.first, stage.last, stage.lr) == ((256, 128), 0, 60, 1e-3)


def test_the_recipe_for_a_cpu_begins_at_half_the_size() -> None:
    found = [(s.size, s.first, s.last, round(s.lr, 9)) for s in stages(PRESETS["reid-cpu"])]
    assert found == [((128, 64), 0, 6, 4e-4), ((256, 128), 6, 8, 1.6e-4)]


@given(
    small=st.lists(st.tuples(st.integers(8, 600), st.integers(8, 600), st.integers(1, 40)), max_size=4),
    rest=st.integers(1, 40),
)
def test_every_epoch_is_in_one_stage(small: list[tuple[int, int, int]], rest: int) -> None:
    config = PRESETS["reid"].with_options(
        sizes="+".join(f"{h}x{w}:{n}" for h, w, n in small), epochs=sum(n for _, _, n in small) + rest
    )
    expected = [(h, w) for h, w, n in small for _ in range(n)] + [(256, 128)] * rest
    assert [stage_at(config, epoch).size for epoch in range(config.epochs)] == expected
    assert stage_at(config, config.epochs).size == (256, 128)


@pytest.mark.parametrize(
    "sizes", ["128", "128x64", "128x64:0", "4x64:2", "128x64:-1", "128x64:2;9", "a:b", "128x64:60", "64x64:59,9x9:1"]
)
def test_sizes_that_cannot_work_are_named(sizes: str) -> None:
    with pytest.raises(UsageError, match="--sizes"):
        stages(PRESETS["reid"].with_options(sizes=sizes))


def test_a_network_of_one_size_has_no_stages() -> None:
    with pytest.raises(UsageError, match="simple_cnn"):
        stages(PRESETS["contrastive"].with_options(backbone="simple_cnn", sizes="50x50:2"))


def test_every_stage_warms_up_and_cools_down() -> None:
    config = PRESETS["reid"].with_options(sizes="64x32:4", epochs=6, lr=1.0, restart=0.5, warmup_epochs=2.0)
    first, second = stages(config)
    assert first.learning_rate(0.0, "cosine") == pytest.approx(0.01)
    assert first.learning_rate(2.0, "cosine") == pytest.approx(1.0)
    assert first.learning_rate(3.0, "cosine") == pytest.approx(0.5)
    assert first.learning_rate(4.0, "cosine") == pytest.approx(0.0)
    assert second.learning_rate(4.0, "cosine") == pytest.approx(0.005)
    assert second.learning_rate(4.0 + RESTART_WARMUP, "cosine") == pytest.approx(0.5)
    middle = 4.0 + RESTART_WARMUP + (2.0 - RESTART_WARMUP) / 3
    assert second.learning_rate(middle, "cosine") == pytest.approx(0.5 * (1 + math.cos(math.pi / 3)) / 2)
    assert second.learning_rate(5.5, "constant") == 0.5


class Sizes(Silent):
    """Notes the learning rate of every step, and what is said."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.said: list[str] = []

    def step(self, report: StepReport) -> None:
        self.rates.append(report.lr)

    def message(self, text: str) -> None:
        self.said.append(text)


def test_a_run_trains_at_each_size_and_ends_at_the_full_one(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    moments: list[bool] = []
    plain = Trainer._step

    def step(self: Trainer, batch: object) -> tuple[float, float, float]:
        seen.append(self.images.get(batch.reshape(-1)[:1]).shape[1:3])  # type: ignore[attr-defined]
        moments.append(bool(self.optimizer.state))
        return plain(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "_step", step)
    config = REID.with_options(sizes="16x8:1,24x12:1", validate_every=1)
    reporter = Sizes()
    result = train(
        TrainRequest(people, tmp_path / "run", config, holdout=HoldOut(amount=2), init="none", threads=1), reporter
    )
    steps = len(seen) // 3
    assert seen == [(16, 8)] * steps + [(24, 12)] * steps + [(32, 16)] * steps
    assert [not m for m in moments] == [i % steps == 0 for i in range(len(seen))]  # afresh at each size
    assert max(reporter.rates[steps:]) <= config.restart * config.lr < max(reporter.rates[:steps])
    assert result.bundle.input_size == (32, 16)
    assert all("mAP" in row for row in result.history)
    assert [text for text in reporter.said if text.startswith("epochs")] == [
        "epochs 2 to 2 at 24×12, peak learning rate 0.0004",
        "epochs 3 to 3 at 32×16, peak learning rate 0.0004",
    ]


def test_wrong_sizes_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    config = REID.with_options(sizes="16x8:3")
    with pytest.raises(UsageError, match="--sizes"):
        train(TrainRequest(tmp_path / "nowhere", tmp_path / "run", config, init="none"))
    assert not (tmp_path / "run").exists()


def test_pixels_are_read_again_at_another_size(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (40, 80), "teal").save(tmp_path / f"{name}.png")
    (tmp_path / "c.png").write_bytes(b"no image")
    pixels = PixelSource([tmp_path / f"{name}.png" for name in "abc"], (32, 16), threads=1)
    pixels.resize((16, 8))
    assert pixels.get(pixels.usable).shape == (2, 16, 8, 3)
    assert [error.path.name for error in pixels.failed] == ["c.png"]  # known before: no news
    (tmp_path / "b.png").unlink()
    with pytest.raises(ImageError, match=r"b\.png"):
        pixels.resize((24, 12))
