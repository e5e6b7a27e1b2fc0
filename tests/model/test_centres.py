"""What a camera's images share is taken away: beside a slow oracle, in a bundle, and in all that embeds by one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import siamese_search as sss
from siamese_search.errors import BundleError, UsageError
from siamese_search.io.images import read_image
from siamese_search.model.bundle import Bundle
from siamese_search.model.centres import PRIOR, Centres

Vectors = np.ndarray


def unit(vectors: Vectors) -> Vectors:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def slowly(embeddings: Vectors, cameras: list[str | None]) -> Vectors:
    """By the words of the docstring, one image and one camera at a time."""
    groups: dict[str | None, list[Vectors]] = {}
    for vector, camera in zip(embeddings, cameras, strict=True):
        groups.setdefault(camera, []).append(vector)
    middle = sum(sum(group) / len(group) for group in groups.values()) / len(groups)
    found = []
    for vector, camera in zip(embeddings, cameras, strict=True):
        centre = middle
        if camera is not None:
            joined = [*groups[camera], *[middle] * PRIOR]
            centre = sum(joined) / len(joined)
        found.append((vector - centre) / np.linalg.norm(vector - centre))
    return np.stack(found)


@pytest.mark.parametrize("named", [["1", "2", "3"], ["1", None], [None], ["only"]])
def test_the_centres_are_those_of_the_oracle(named: list[str | None]) -> None:
    rng = np.random.default_rng(len(named))
    embeddings = unit(rng.normal(size=(40, 8)) + 1)
    cameras = [named[at] for at in rng.integers(0, len(named), 40)]
    found = Centres.of(embeddings, cameras).taken_from(embeddings, cameras)
    np.testing.assert_allclose(found, slowly(embeddings, cameras), atol=1e-5)


def test_what_all_images_of_a_camera_share_is_taken_away() -> None:
    rng = np.random.default_rng(0)
    people, tint = rng.normal(size=(64, 16)), 3 * rng.normal(size=(2, 16))
    vectors = unit(np.concatenate([people + tint[camera] for camera in (0, 1)]))
    cameras = ["0"] * 64 + ["1"] * 64
    found = Centres.of(vectors, cameras).taken_from(vectors, cameras)
    right = [(side[:64] @ side[64:].T).argmax(axis=1) == np.arange(64) for side in (vectors, found)]
    assert right[1].mean() > 0.95 > right[0].mean()


def test_a_camera_with_one_image_keeps_what_is_on_it() -> None:
    vectors = unit(np.random.default_rng(1).normal(size=(12, 16)))
    cameras = [str(at) for at in range(12)]
    found = Centres.of(vectors, cameras).taken_from(vectors, cameras)
    assert (np.einsum("ij,ij->i", found, vectors) > 0.9).all()


def test_an_unknown_camera_and_an_image_that_is_nothing_but_its_camera() -> None:
    vectors = unit(np.random.default_rng(2).normal(size=(6, 4)))
    centres = Centres.of(vectors, ["a", "b"] * 3)
    unknown = unit(vectors - centres.means[0])
    np.testing.assert_allclose(centres.taken_from(vectors), unknown, atol=1e-6)
    np.testing.assert_allclose(centres.taken_from(vectors, ["c", None] * 3), unknown, atol=1e-6)
    same = np.repeat(vectors[:1], 3, axis=0)
    np.testing.assert_array_equal(Centres.of(same, ["a"] * 3).taken_from(same, ["a"] * 3), same)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    from tests.training.conftest import draw_people

    return draw_people(tmp_path_factory.mktemp("people") / "images")


@pytest.fixture(scope="module")
def adapted(people: Path, tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the statistics and centres of these cameras."""
    out = tmp_path_factory.mktemp("adapted") / "run"
    sss.adapt(people, init=tiny_bundle.path, out=out, epochs=0, neighbours=4)
    return out


def raw(run: Path, paths: list[Path]) -> Vectors:
    bundle = sss.load_model(run).bundle
    from siamese_search.model.embedder import OnnxEmbedder

    return OnnxEmbedder(bundle).embed(np.stack([read_image(path, bundle.input_size) for path in paths]))


def test_every_way_to_a_vector_takes_the_centres(
    adapted: Path, people: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    """Ingest, reindex, encode and search give the same as the network and the oracle's arithmetic."""
    paths = sorted(people.iterdir())
    cameras: list[str | None] = [path.name.split("_c")[1][0] for path in paths]
    model = sss.load_model(adapted)
    assert model.fingerprint != sss.load_model(tiny_bundle.path).fingerprint
    plain = raw(adapted, paths)
    wanted = slowly(plain, cameras)
    np.testing.assert_allclose(model.encode(paths, cameras=cameras), wanted, atol=1e-2)
    with pytest.raises(UsageError, match="cameras for"):
        model.encode(paths, cameras=["1"])
    store = tmp_path / "store"
    with sss.open(store=store, model=adapted) as gallery:
        gallery.ingest(people)
        hits = gallery.search(paths[0], k=3, exclude_self=False)[0].results
    asked = model.encode(paths[0])[0]  # nobody says by which camera
    best = np.sort(wanted @ asked)[::-1][:3]
    np.testing.assert_allclose([hit.score for hit in hits], best, atol=1e-2)
    with sss.open(store=tmp_path / "other", model=tiny_bundle.path) as gallery:
        gallery.ingest(people)
    sss.reindex(store=tmp_path / "other", model=adapted)
    with sss.open(store=tmp_path / "other", model=adapted) as gallery:
        again = gallery.search(paths[0], k=3, exclude_self=False)[0].results
    assert [hit.path for hit in again] == [hit.path for hit in hits]
    np.testing.assert_allclose([hit.score for hit in again], best, atol=1e-2)


def test_a_copy_of_the_query_is_told_by_its_bytes(adapted: Path, people: Path, tmp_path: Path) -> None:
    """Its stored vector is less its camera's mean, the query's less that of all: the score is not 1."""
    asked = sorted(people.iterdir())[0]
    with sss.open(store=tmp_path / "store", model=adapted) as gallery:
        gallery.ingest(people)
        copy = tmp_path / "copy.jpg"
        shutil.copy(asked, copy)
        found = gallery.search(copy, k=50, exclude_self=True)[0].results
        kept = gallery.search(copy, k=50)[0].results
    assert len(kept) == len(found) + 1
    assert asked.name not in {Path(one.path).name for one in found}


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda meta: meta["centres"].pop(), "lacks fields"),
        (lambda meta: meta.update(centres={"1": 2}), "lacks fields"),
        (lambda meta: meta.update(centres=[1, 2, 3, 4]), "lacks fields"),
        (lambda meta: meta["centres"].__setitem__(0, "x"), "damaged or forged"),
        (lambda meta: meta.pop("centres"), "damaged or forged"),
    ],
)
def test_centres_that_are_another_models_are_refused(adapted: Path, tmp_path: Path, damage, says: str) -> None:
    other = tmp_path / "other"
    shutil.copytree(adapted, other)
    meta = json.loads((other / "model.json").read_text())
    damage(meta)
    (other / "model.json").write_text(json.dumps(meta))
    with pytest.raises(BundleError, match=says):
        sss.load_model(other)


def test_a_changed_file_of_centres_is_refused(adapted: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(adapted, other)
    content = (other / "centres.f32").read_bytes()
    (other / "centres.f32").write_bytes(content[:-4] + b"\0\0\0\0")
    with pytest.raises(BundleError, match="checksum"):
        sss.load_model(other)
    (other / "centres.f32").write_bytes(content[:-4])
    with pytest.raises(BundleError, match="truncated"):
        sss.load_model(other)
