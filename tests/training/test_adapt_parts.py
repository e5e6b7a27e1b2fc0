"""The parts of an adaptation, each beside a slow and obvious one: memory, batches, seeds."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402
from torch.nn.modules.batchnorm import _BatchNorm  # noqa: E402

from siamese_search.errors import UsageError  # noqa: E402
from siamese_search.model.network import APNNetwork, NetworkSpec  # noqa: E402
from siamese_search.training.backbone import appearance  # noqa: E402
from siamese_search.training.clusters import FORMER, ClusterSampler, ClusterTrainer, Memory, figures, renew_statistics  # noqa: E402
from siamese_search.training.config import ADAPT  # noqa: E402
from siamese_search.vectors.clustering import cluster  # noqa: E402


def unit(rng: np.random.Generator, rows: int, dim: int = 6) -> np.ndarray:
    found = rng.normal(size=(rows, dim)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def filled(rng: np.random.Generator) -> tuple[Memory, np.ndarray, np.ndarray]:
    labels = np.array([0, 1, 0, 2, 1, 0, 3, 2, 2, 4])
    embeddings = unit(rng, len(labels))
    memory = Memory(len(labels), 6)
    memory.start(torch.from_numpy(embeddings), torch.from_numpy(labels))
    return memory, embeddings, labels


def test_a_cluster_begins_as_the_mean_of_its_images():
    memory, embeddings, labels = filled(np.random.default_rng(0))
    assert memory.count == 5
    for label in range(5):
        mean = embeddings[labels == label].mean(axis=0)
        np.testing.assert_allclose(memory.centroids[label], mean / np.linalg.norm(mean), atol=1e-6)
    assert not memory.centroids[5:].any()
    assert (memory.former == -1).all()
    memory.start(torch.from_numpy(embeddings), torch.from_numpy(labels[::-1].copy()))
    assert memory.former.tolist() == labels.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_the_loss_is_infonce_with_one_s_own_centroid(seed):
    rng = np.random.default_rng(seed)
    memory, _, _ = filled(rng)
    batch, labels = unit(rng, 7), rng.integers(0, 5, 7)
    terms = []
    for row, label in zip(batch, labels, strict=True):
        scores = [float(np.dot(row, memory.centroids[one].numpy())) / 0.05 for one in range(5)]
        terms.append(-np.log(np.exp(scores[label]) / np.sum(np.exp(scores))))
    loss = memory.loss(torch.from_numpy(batch), torch.from_numpy(labels), 0.05)
    assert float(loss) == pytest.approx(np.mean(terms), rel=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_an_update_moves_each_centroid_to_the_hardest_image_of_the_batch(seed):
    rng = np.random.default_rng(seed)
    memory, _, _ = filled(rng)
    batch, labels = unit(rng, 9), rng.integers(0, 4, 9)
    wanted = memory.centroids.numpy().copy()
    for label in set(labels.tolist()):
        own = [row for row in range(9) if labels[row] == label]
        chosen = min(own, key=lambda row: float(batch[row] @ wanted[label]))
        moved = 0.1 * wanted[label] + 0.9 * batch[chosen]
        wanted[label] = moved / np.linalg.norm(moved)
    memory.update(torch.from_numpy(batch), torch.from_numpy(labels), 0.1)
    np.testing.assert_allclose(memory.centroids, wanted, atol=1e-6)


def test_the_gradient_is_that_of_the_memory_before_its_update():
    rng = np.random.default_rng(3)
    memory, _, _ = filled(rng)
    labels = torch.from_numpy(rng.integers(0, 5, 6))
    batch = torch.from_numpy(unit(rng, 6)).requires_grad_()
    before = memory.centroids[:5].clone()
    loss = memory.loss(batch, labels, 0.05)
    memory.update(batch.detach(), labels, 0.1)
    loss.backward()
    again = batch.detach().clone().requires_grad_()
    F.cross_entropy(again @ before.T / 0.05, labels).backward()
    torch.testing.assert_close(batch.grad, again.grad)


def test_batches_hold_groups_of_one_cluster_with_cameras_in_equal_parts():
    labels = np.array([0] * 8 + [1] * 5 + [2, 3, 4])
    cameras = np.array([0] * 6 + [1] * 2 + [0, 0, 1, 1, 2] + [0, 0, 0])
    sampler = ClusterSampler(labels, cameras, p=2, k=4, seed=1)
    seen: list[int] = []
    for epoch in range(6):
        batches = list(sampler.epoch(epoch))
        assert len(batches) == sampler.steps(epoch)
        for batch in batches:
            assert len(np.unique(batch[np.isin(labels[batch], (2, 3, 4))])) == np.isin(labels[batch], (2, 3, 4)).sum()
            for label in (0, 1):
                own = batch[labels[batch] == label]
                assert len(own) % 4 == 0
                if label == 0 and len(own):
                    assert (cameras[own] == 0).sum() == (cameras[own] == 1).sum()
        again = list(sampler.epoch(epoch))
        assert all((a == b).all() for a, b in zip(batches, again, strict=True))
        seen += np.concatenate(batches).tolist()
    assert set(seen) == set(range(16))


@pytest.mark.parametrize("iters", [1, 3, 11])
def test_an_epoch_has_as_many_batches_as_were_asked_for(iters):
    labels, cameras = np.repeat(np.arange(6), 3), np.full(18, -1)
    sampler = ClusterSampler(labels, cameras, p=2, k=2, iters=iters)
    assert len(list(sampler.epoch(0))) == sampler.steps(0) == iters


def test_known_identities_stay_together_and_apart():
    rng = np.random.default_rng(5)
    middles = unit(rng, 4, 32)
    vectors = np.repeat(middles, 6, axis=0) + 0.05 * rng.normal(size=(24, 32)).astype(np.float32)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    free = cluster(vectors, neighbours=5)
    assert (free == np.repeat(np.arange(4), 6)).all()
    seeds = np.full(24, -1)
    seeds[[0, 6]] = 0  # two clusters that are one identity
    seeds[[12, 13]] = 1, 2  # one cluster that is two
    found = cluster(vectors, neighbours=5, seeds=seeds)
    assert found[0] == found[6]
    assert found[12] != found[13]
    assert (found[18:] == found[18]).all()
    nobody = cluster(vectors, neighbours=5, seeds=np.full(24, -1))
    assert (nobody == free).all()


def test_figures_of_clusters_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 2])
    known = ["a", "a", "b", "b", None, "c"]
    found = figures(labels, np.full(6, -1), known)
    assert (found["clusters"], found["singles"]) == (2, 1)
    assert "agreement" not in found
    assert found["purity"] == pytest.approx(4 / 5)
    assert figures(labels, labels, [None] * 6) == {"clusters": 2, "singles": 1, "agreement": 1.0}
    assert figures(np.arange(3), np.arange(3), ["a", "b", "c"])["ari"] == 1.0


@pytest.mark.parametrize(
    "wrong", [{"least": 0.0}, {"neighbours": 0}, {"temperature": float("nan")}, {"momentum": 1.5}, {"lr": 0.0}]
)
def test_a_value_that_cannot_work_is_refused_by_its_option(wrong):
    with pytest.raises(UsageError, match=f"--{next(iter(wrong))}"):
        ADAPT.with_options(**wrong)


class Pixels:
    """Of images that are in memory: what the statistics need of a source."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def get(self, rows: np.ndarray) -> np.ndarray:
        return self.images[rows]


@pytest.mark.parametrize("mix", [0.0, 0.4])
def test_renewed_statistics_are_those_of_all_images_and_some_of_the_former(mix):
    """The first normalisation reads the images themselves: its statistics can be summed by hand."""
    spec = NetworkSpec("test_efficientnet", 8, 32, 16, neck="bn", instance_mix=mix)
    network, images = (APNNetwork(spec), np.random.default_rng(0).integers(0, 255, (160, 32, 16, 3)).astype(np.uint8))
    norm = network.backbone.bn1
    with torch.no_grad():
        norm.running_mean.fill_(5.0)
        maps = network.backbone.conv_stem(network.normalise(torch.from_numpy(images)))
    weights = {name: value.clone() for name, value in network.state_dict().items() if "running" not in name}
    assert renew_statistics(network, Pixels(images), np.arange(160)) == 1 + sum(
        isinstance(module, _BatchNorm) for module in network.modules() if module is not norm
    )
    share = 160 / (160 + FORMER)
    torch.testing.assert_close(
        norm.running_mean, maps.mean((0, 2, 3)) * share + 5.0 * (1 - share), rtol=1e-3, atol=1e-3
    )
    torch.testing.assert_close(norm.running_var, maps.var((0, 2, 3)) * share + 1 - share, rtol=1e-2, atol=1e-2)
    assert not any(module.training for module in network.modules())
    assert norm.momentum == 0.1
    for name, value in weights.items():
        if "num_batches" not in name:
            assert torch.equal(network.state_dict()[name], value)


def test_a_network_without_normalisations_stays_as_it_is():
    network = APNNetwork(NetworkSpec("test_convnext", 5, 32, 32))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert renew_statistics(network, Pixels(np.zeros((4, 32, 32, 3), np.uint8)), np.arange(4)) == 0
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


class Coloured:
    """Images of four colours, twelve of each, as a trainer takes them."""

    records = [SimpleNamespace(camera="c1")] * 48
    labels = np.zeros(48, np.int64)

    def get(self, rows: np.ndarray) -> np.ndarray:
        colours = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200], [200, 200, 40]], np.uint8)
        noise = np.random.default_rng(1).integers(0, 9, (48, 32, 32, 3), dtype=np.uint8)
        return noise[rows] + colours[rows % 4][:, None, None]


@pytest.mark.parametrize("novice", [True, False])
def test_clusters_are_handed_over_from_appearance_to_embeddings(novice):
    config = ADAPT.with_options(
        backbone="test_efficientnet", dim=8, height=32, width=32, batch_size=8, images_per_identity=2, epochs=4,
        neighbours=8, freeze=0,
    )  # fmt: skip
    torch.manual_seed(0)
    network = APNNetwork(NetworkSpec("test_efficientnet", 8, 32, 32, neck="bn"))
    trainer = ClusterTrainer(network, config, Coloured(), seeds=np.full(48, -1), novice=novice)
    given: list[np.ndarray] = []
    trainer.cluster = lambda vectors: given.append(vectors) or np.arange(48) % 4
    rows = np.arange(48)
    with appearance(trainer.result.backbone) as found:
        own = trainer.centred(trainer.embed())[1]
    looks = trainer.centred(torch.cat(found).numpy())[1]
    for epoch, share in enumerate((0, 0.25, 0.5, 0.75)):
        trainer.progress.epoch = epoch
        trainer.start_epoch()
        wanted = share * own @ own.T + (1 - share) * looks @ looks.T if novice else own @ own.T
        np.testing.assert_allclose(given[-1] @ given[-1].T, wanted, atol=1e-5)
        assert given[-1].dtype == np.float32
    assert (cluster(looks, neighbours=8) == rows % 4).all()
