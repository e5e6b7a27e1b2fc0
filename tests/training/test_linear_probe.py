"""Heads fitted to an embedding network before it is trained further: they learn, the network stays, resumes agree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from siamese_search.model.network import APNNetwork, NetworkSpec  # noqa: E402
from siamese_search.training.config import PRESETS, TrainConfig  # noqa: E402
from siamese_search.training.data import HoldOut  # noqa: E402
from siamese_search.training.initial import fit_heads  # noqa: E402
from siamese_search.training.run import Silent, TrainRequest, train  # noqa: E402
from siamese_search.training.trainer import Trainer  # noqa: E402

CONFIG = PRESETS["reid"].with_options(
    backbone="test_efficientnet", dim=16, height=32, width=16, batch_size=8, images_per_identity=2, epochs=2
)


class Tinted:
    """Images of one colour per label, with noise."""

    def __init__(self, labels: np.ndarray) -> None:
        rng = np.random.default_rng(3)
        colours = rng.integers(20, 236, (int(labels.max()) + 1, 3))
        noise = rng.integers(-12, 12, (len(labels), 32, 16, 3))
        self._pixels = (colours[labels][:, None, None] + noise).clip(0, 255).astype(np.uint8)

    def get(self, indices: np.ndarray) -> np.ndarray:
        return self._pixels[indices]


def make_trainer(config: TrainConfig = CONFIG, teacher: np.ndarray | None = None) -> Trainer:
    torch.manual_seed(0)
    network = APNNetwork(NetworkSpec(config.backbone, 16, 32, 16, neck=config.neck))
    labels = np.repeat(np.arange(5), 8)
    return Trainer(network, config, Tinted(labels), labels, teacher=teacher)


def unit_rows(n: int, d: int) -> np.ndarray:
    rows = np.random.default_rng(1).normal(size=(n, d)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_the_heads_learn_and_the_network_stays_as_it_is() -> None:
    trainer = make_trainer(teacher=unit_rows(40, 8)[None])
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    heads = {name: value.clone() for name, value in trainer.heads.state_dict().items()}
    seen: list[tuple[int, int]] = []
    losses = fit_heads(trainer, 30, progress=lambda done, total: seen.append((done, total)))
    assert len(losses) == 30
    assert losses[-1] < losses[0]
    assert seen[-1] == (40, 40)
    after = trainer.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not any(torch.equal(value, trainer.heads.state_dict()[name]) for name, value in heads.items())
    assert all(p.grad is None for p in trainer.heads.parameters())
    assert trainer.network.training


def test_the_same_seed_gives_the_same_heads() -> None:
    one, two = make_trainer(), make_trainer()
    assert fit_heads(one, 3) == fit_heads(two, 3)
    assert torch.equal(one.heads["classifier"].weight, two.heads["classifier"].weight)
    other = make_trainer(replace(CONFIG, seed=1))
    fit_heads(other, 3)
    assert not torch.equal(one.heads["classifier"].weight, other.heads["classifier"].weight)


def test_the_fitted_heads_come_near_the_least_loss() -> None:
    """Oracle: the same convex loss, by L-BFGS over all images at once."""
    trainer = make_trainer()
    rows = np.arange(len(trainer.labels))
    with torch.no_grad():  # a trained network has met its images: batch norm gives embeddings of a usual size
        for _ in range(60):
            trainer.network(trainer.network.normalise(torch.from_numpy(trainer.images.get(rows))))
    fit_heads(trainer, 300)
    trainer.network.eval()
    with torch.no_grad():
        necked = trainer.network(trainer.network.normalise(torch.from_numpy(trainer.images.get(rows))))[1]
        fitted = float(trainer.head_loss(necked, *trainer.targets(rows)))
        untrained = float(make_trainer().head_loss(necked, *trainer.targets(rows)))
    optimizer = torch.optim.LBFGS(trainer.heads.parameters(), max_iter=500, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = trainer.head_loss(necked, *trainer.targets(rows))
        loss.backward()
        return loss

    optimizer.step(closure)
    least = float(trainer.head_loss(necked, *trainer.targets(rows)).detach())
    assert least < untrained - 0.2
    assert fitted < least + 0.2 * (untrained - least)


@pytest.mark.parametrize("config", [replace(CONFIG, probe_epochs=0), replace(CONFIG, identity_weight=0.0)])
def test_nothing_to_fit(config: TrainConfig) -> None:
    assert fit_heads(make_trainer(config), config.probe_epochs) == []


class Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def test_a_run_from_a_bundle_fits_its_heads_once(people: Path, tmp_path: Path) -> None:
    def request(out: str, init: str, config: TrainConfig, held: int) -> TrainRequest:
        return TrainRequest(
            data=people, out=tmp_path / out, config=config, init=init, device="cpu", threads=1,
            holdout=HoldOut(amount=held),
        )  # fmt: skip

    train(request("first", "none", CONFIG, 2))
    first = str(tmp_path / "first")

    def told(out: str, config: TrainConfig, held: int) -> bool:
        reporter = Told()
        train(request(out, first, config, held), reporter)
        return any("new heads fitted" in line for line in reporter.lines)

    one = CONFIG.with_options(epochs=1)
    assert told("others", one, 3)  # other identities: no head of the first run fits
    assert not told("same", one, 2)  # the first run's own heads are taken
    assert not told("off", one.with_options(probe_epochs=0), 3)
