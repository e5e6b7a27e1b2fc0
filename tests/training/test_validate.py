from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from siamese_search.model.network import APNNetwork, NetworkSpec  # noqa: E402
from siamese_search.training.config import PRESETS  # noqa: E402
from siamese_search.training.loop import held_out_loss  # noqa: E402
from siamese_search.training.losses import make_sampler  # noqa: E402
from siamese_search.training.trainer import Trainer  # noqa: E402

IDENTITIES = [f"id{i // 5}" for i in range(40)]
FEATURES = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)


def distance(a: int, b: int, unit: bool) -> float:
    x, y = FEATURES[a].astype(float), FEATURES[b].astype(float)
    if unit:
        x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    return float(np.linalg.norm(x - y))


def test_the_triplet_loss_of_apn_equals_the_oracle() -> None:
    config = PRESETS["apn"]
    labels = np.arange(40) // 5
    batches = list(make_sampler(config, labels).epoch(0))
    losses, right = [], []
    for batch in batches:
        near = [distance(a, p, True) for a, p, _ in batch]
        far = [distance(a, n, True) for a, _, n in batch]
        losses.append(np.mean([max(x - y + config.margin, 0) for x, y in zip(near, far, strict=True)]))
        right.append(np.mean([x < y for x, y in zip(near, far, strict=True)]))
    found = held_out_loss(config, FEATURES, IDENTITIES)
    assert found is not None
    assert found.loss == pytest.approx(np.mean(losses), abs=1e-5)
    assert found.accuracy == pytest.approx(np.mean(right), abs=1e-6)


@pytest.mark.parametrize("name", list(PRESETS))
def test_it_repeats_and_draws_nothing_from_torch(name: str) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = held_out_loss(PRESETS[name], FEATURES, IDENTITIES)
    assert first == held_out_loss(PRESETS[name], FEATURES, IDENTITIES)
    assert torch.equal(before, torch.get_rng_state())
    assert first is not None
    assert 0 <= first.accuracy <= 1


@pytest.mark.parametrize("name", list(PRESETS))
def test_identities_pulled_apart_have_no_loss(name: str) -> None:
    """Eight identities on far corners, their images on one spot: every triplet is right."""
    corners = np.repeat(np.eye(8, dtype=np.float32) * 50, 5, axis=0)
    config = PRESETS[name].with_options(unit_triplets=False)
    found = held_out_loss(config, corners, IDENTITIES)
    assert found is not None
    assert found.loss == pytest.approx(0.0, abs=1e-6)
    assert found.accuracy == 1.0


@pytest.mark.parametrize("identities", [["a"] * 40, [str(i) for i in range(40)]])
def test_held_out_images_without_triplets_have_no_figure(identities: list[str]) -> None:
    assert all(held_out_loss(config, FEATURES, identities) is None for config in PRESETS.values())


@pytest.mark.parametrize("name", list(PRESETS))
def test_the_unnamed_are_no_identities(name: str) -> None:
    strangers = np.random.default_rng(3).normal(size=(9, 6)).astype(np.float32)
    features = np.concatenate([strangers[:4], FEATURES, strangers[4:]])
    identities = [*[""] * 4, *IDENTITIES, *[""] * 5]
    assert held_out_loss(PRESETS[name], features, identities) == held_out_loss(PRESETS[name], FEATURES, IDENTITIES)
    assert held_out_loss(PRESETS[name], strangers, [""] * 9) is None


class Pictures:
    def get(self, indices: np.ndarray) -> np.ndarray:
        grid = np.random.default_rng(1).integers(0, 256, (16, 32, 16, 3), dtype=np.uint8)
        return grid[indices]


def trained(ema: float, steps: int) -> tuple[Trainer, list[dict[str, torch.Tensor]]]:
    """A trainer after some steps, and the weights that it had after each."""
    torch.manual_seed(0)
    config = PRESETS["reid"].with_options(ema=ema, batch_size=4, images_per_identity=2, height=32, width=16)
    spec = NetworkSpec(backbone="test_efficientnet", dim=8, height=32, width=16, neck="bn")
    trainer = Trainer(APNNetwork(spec), config, Pictures(), np.arange(16) // 4)
    history: list[dict[str, torch.Tensor]] = []

    def keep(_: object) -> None:
        history.append({k: v.detach().clone() for k, v in trainer.network.state_dict().items()})

    trainer.train_epoch(keep, lambda: len(history) == steps)
    return trainer, history


def test_the_moving_average_follows_its_formula_and_changes_no_training() -> None:
    trainer, history = trained(0.6, 4)
    name = "embedding.weight"
    expected = history[0][name].double()
    for step, weights in enumerate(history):
        done = max(0, step - 1)  # timm's warm-up: min(decay, 1 - (1 + steps)^(-2/3))
        decay = min(0.6, 1 - (1 + done) ** (-2 / 3)) if done else 0.0
        expected = decay * expected + (1 - decay) * weights[name].double()
    average = trainer.result.state_dict()[name].double()
    assert torch.allclose(average, expected, atol=1e-6)
    assert not torch.allclose(average, history[-1][name].double(), atol=1e-6)
    plain, without = trained(0.0, 4)
    assert plain.result is plain.network
    assert all(torch.equal(history[-1][key], without[-1][key]) for key in without[-1])
    assert set(plain.modules) == {"network", "heads"}
    assert set(trainer.modules) == {"network", "heads", "ema"}
