"""Whole galleries from Python: re-indexed, rolled back, described, pushed, pulled and dropped."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

import siamese_search as sss
from siamese_search import workspace
from siamese_search.datasets.demo import generate_demo
from siamese_search.errors import DataError, GalleryNotFoundError, ModelMismatchError, StoreError, UsageError
from siamese_search.gallery.contract import ModelRef
from siamese_search.model.bundle import Bundle
from siamese_search.retrieval.searcher import Searcher


@pytest.fixture(autouse=True)
def no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test in an empty directory, away from anybody's settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    for name in ("SSS_STORE", "SSS_GALLERY", "SSS_MODEL", "SSS_THREADS", "SSS_BATCH_SIZE", "SSS_DATA"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("upkeep") / "demo"
    generate_demo(out, identities=4, cameras=3, distractors=1)
    return out


@pytest.fixture
def filled(demo: Path, tiny_bundle: Bundle) -> str:
    """The gallery ``default`` in ``./.sss``, made by the tiny model from 17 images."""
    assert sss.ingest(demo / "gallery", model=tiny_bundle.path).new == 17
    return ".sss"


def points(store: str | Path = ".sss", *, crc: bool = True) -> dict[str, dict[str, Any]]:
    """Every payload by id, with or without the checksum of its vector."""
    with sss.open_gallery(store) as gallery:
        return {
            point.id: {name: value for name, value in point.payload.items() if crc or name != "crc"}
            for point in gallery.scroll()
        }


def own_score(demo: Path) -> float:
    """How well a member of the gallery is found by its own image, with the gallery's own model."""
    member = min((demo / "gallery").glob("0001_*"))
    best = sss.search(member, k=1)[0].results[0]
    assert best.path.samefile(member)
    return best.score


def test_describe_lists_galleries_and_the_model(filled: str, tiny_bundle: Bundle) -> None:
    facts = sss.describe()
    (gallery,) = facts["galleries"]
    assert (gallery["name"], gallery["points"]) == ("default", 17)
    assert (gallery["identities"], gallery["cameras"]) == (4, 3)  # a distractor is nobody
    assert (gallery["previous"], gallery["building"]) == (None, None)
    assert gallery["model"]["fingerprint"] == tiny_bundle.fingerprint
    assert facts["model"]["name"] == "bundled"
    with pytest.raises(GalleryNotFoundError):
        sss.describe(gallery="other")


def test_galleries_are_described_one_by_one(filled: str, demo: Path, tiny_bundle: Bundle) -> None:
    assert sss.galleries(store="elsewhere") == {"store": "elsewhere", "galleries": []}
    with sss.open_store(filled) as store:
        store.open("bare", model=ModelRef("e" * 64, 8), create=True, mode="w").close()
    facts = sss.galleries()
    assert [item["name"] for item in facts["galleries"]] == ["bare", "default"]
    bare, default = facts["galleries"]
    assert (bare["points"], bare["identities"], bare["cameras"]) == (0, 0, 0)
    for alone in (sss.describe(gallery="default"), sss.galleries(gallery="default")):
        assert alone["galleries"] == [default]


def test_reindex_replaces_the_vectors_and_keeps_the_rest(
    filled: str, demo: Path, tiny_bundle: Bundle, other_bundle: Bundle
) -> None:
    before = points()
    summary = sss.reindex(other_bundle.path)
    assert (summary.images, summary.embedded, summary.dropped, summary.recall) == (17, 17, [], 1.0)
    assert (summary.model, summary.former_model) == (other_bundle.name, tiny_bundle.name)
    after = points()
    assert {i: {**payload, "crc": 0} for i, payload in after.items()} == {
        i: {**payload, "crc": 0} for i, payload in before.items()
    }
    assert all(after[point]["crc"] != before[point]["crc"] for point in after)
    # A point is found by its own image again, in the new model's space.
    assert own_score(demo) == pytest.approx(1.0, abs=1e-4)
    with pytest.raises(UsageError, match="already"):
        sss.reindex(other_bundle.path)


def test_rollback_brings_the_former_vectors_and_model_back(
    filled: str, demo: Path, tiny_bundle: Bundle, other_bundle: Bundle
) -> None:
    before = points()
    with pytest.raises(StoreError, match="no former generation"):
        sss.rollback()
    sss.reindex(other_bundle.path)
    (item,) = sss.galleries()["galleries"]
    assert item["previous"]["fingerprint"] == tiny_bundle.fingerprint
    now, was = sss.rollback()
    assert (now.fingerprint, was.fingerprint) == (tiny_bundle.fingerprint, other_bundle.fingerprint)
    assert points() == before
    assert own_score(demo) == pytest.approx(1.0, abs=1e-4)
    sss.rollback()
    assert own_score(demo) == pytest.approx(1.0, abs=1e-4)
    assert sss.drop_old() == 1
    assert sss.galleries()["galleries"][0]["previous"] is None
    with pytest.raises(StoreError, match="no former generation"):
        sss.rollback()


def test_a_reindex_that_cannot_finish_changes_nothing(
    demo: Path, tiny_bundle: Bundle, other_bundle: Bundle, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(demo / "gallery", photos)
    sss.ingest(photos, model=tiny_bundle.path)
    gone = min(photos.iterdir())
    gone.unlink()
    with pytest.raises(DataError, match=f"{gone.name}.*nothing was changed.*--drop-missing"):
        sss.reindex(other_bundle.path)
    stop = threading.Event()
    stop.set()
    with pytest.raises(KeyboardInterrupt):
        sss.reindex(other_bundle.path, stop=stop)
    with sss.open_gallery(".sss") as gallery:
        assert (gallery.model.fingerprint, gallery.count()) == (tiny_bundle.fingerprint, 17)
    assert sss.describe()["galleries"][0]["building"]["fingerprint"] == other_bundle.fingerprint
    summary = sss.reindex(other_bundle.path, drop_missing=True)
    assert (summary.images, [Path(failure.path).name for failure in summary.dropped]) == (16, [gone.name])
    assert summary.to_json()["dropped"][0]["reason"] == "no such file"


def test_new_storage_settings_take_the_vectors_along(filled: str, demo: Path, tiny_bundle: Bundle) -> None:
    """No image is read: the directory may be gone."""
    before = points()
    summary = sss.reindex(keep_vectors=True)
    assert (summary.images, summary.embedded) == (17, 17)
    assert points() == before
    assert sss.galleries()["galleries"][0]["previous"]["fingerprint"] == tiny_bundle.fingerprint
    with pytest.raises(UsageError, match="one of the two"):
        sss.reindex(tiny_bundle.path, keep_vectors=True)


def reindexed(model: Bundle) -> None:
    """Another generation published, and the former one deleted."""
    sss.reindex(model.path)
    sss.drop_old()


def test_a_search_whose_generation_vanishes_is_answered_by_the_new_one(
    filled: str, demo: Path, tiny_bundle: Bundle, other_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gallery open, model loaded, and then the generation is replaced and deleted: once is forgiven."""
    search = Searcher.probes
    models: list[str] = []

    def meanwhile(searcher: Searcher, *args: Any, **options: Any) -> Any:
        models.append(searcher.embedder.fingerprint)
        if len(models) in replaced_before:
            reindexed({tiny_bundle.fingerprint: other_bundle, other_bundle.fingerprint: tiny_bundle}[models[-1]])
        return search(searcher, *args, **options)

    monkeypatch.setattr(Searcher, "probes", meanwhile)
    replaced_before = {1}
    assert own_score(demo) == pytest.approx(1.0, abs=1e-4)
    assert models == [tiny_bundle.fingerprint, other_bundle.fingerprint]
    models.clear()
    replaced_before = {1, 2}
    with pytest.raises(sss.SiameseSearchError, match="re-indexed meanwhile"):
        own_score(demo)


def test_push_and_pull_between_two_stores(filled: str, demo: Path, tmp_path: Path) -> None:
    before = points()
    summary = sss.push(tmp_path / "far")
    report = summary.report
    assert (report.points, report.copied, report.kept, report.extra, report.verified) == (17, 17, 0, 0, 17)
    assert points(tmp_path / "far") == before
    assert sss.push(tmp_path / "far").to_json() | {"seconds": 0} == {
        "points": 17, "copied": 0, "kept": 17, "extra": 0, "verified": 17, "seconds": 0, "calibrated": False,
        "collection": "default", "from": ".sss", "to": str(tmp_path / "far"), "model": summary.model,
    }  # fmt: skip
    sss.drop("default")
    assert sss.galleries()["galleries"] == []
    assert sss.pull(tmp_path / "far").report.copied == 17
    assert points() == before
    assert own_score(demo) == pytest.approx(1.0, abs=1e-4)  # it still knows its model


def test_a_copy_is_of_one_model_and_between_two_places(filled: str, other_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="both the source and the target"):
        sss.push(tmp_path / ".sss")
    sss.push("far")
    sss.reindex(other_bundle.path)
    with pytest.raises(ModelMismatchError):
        sss.push("far")
    with pytest.raises(GalleryNotFoundError):
        sss.pull("far", gallery="other")
    assert sss.galleries(store="far")["galleries"][0]["points"] == 17


def test_an_ingest_finds_the_model_of_now(
    filled: str, demo: Path, tiny_bundle: Bundle, other_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Re-indexed between asking the gallery for its model and opening it: it is asked again."""
    asked: list[str] = []
    model_of = workspace.model_of

    def meanwhile(model: ModelRef) -> Bundle:
        asked.append(model.fingerprint)
        if len(asked) == 1:
            sss.reindex(other_bundle.path)
        return model_of(model)

    monkeypatch.setattr(workspace, "model_of", meanwhile)
    summary = sss.ingest(demo / "gallery")
    assert asked == [tiny_bundle.fingerprint, other_bundle.fingerprint]
    assert (summary.new, summary.unchanged) == (0, 17)
