"""The four verbs from Python: lazily loaded, typed, and saying what was wrong."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import siamese_search as sss
from siamese_search.errors import (
    BundleError,
    DataError,
    FilterError,
    GalleryNotFoundError,
    MissingExtraError,
    ModelMismatchError,
    UsageError,
)
from siamese_search.gallery.contract import ModelRef
from siamese_search.io.images import read_image
from siamese_search.model.bundle import Bundle
from siamese_search.workspace import model_of


@pytest.fixture(autouse=True)
def no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test in an empty directory, away from anybody's settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    for name in ("SSS_STORE", "SSS_GALLERY", "SSS_MODEL", "SSS_THREADS", "SSS_BATCH_SIZE", "SSS_DATA"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def filled(demo: Path, tiny_bundle: Bundle) -> str:
    """The gallery ``default`` in ``./.sss``, made by the tiny model from 17 images."""
    assert sss.ingest(demo / "gallery", model=tiny_bundle.path).new == 17
    return ".sss"


def test_importing_costs_nothing_and_every_name_is_there() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, siamese_search; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert {"numpy", "click", "siamese_search.api"}.isdisjoint(done.stdout.split())
    for name in set(sss.__all__) - {"TrainResult"}:  # that one needs torch
        assert getattr(sss, name) is not None
        assert name in dir(sss)
    with pytest.raises(AttributeError, match="frobnicate"):
        sss.frobnicate  # noqa: B018


def test_the_verbs_can_be_had_from_api_too() -> None:
    from siamese_search import api

    verbs = {
        name
        for name in sss.__all__
        if getattr(getattr(sss, name), "__module__", "").startswith(("siamese_search.api.", "ingest.run"))
    }
    assert {"ingest", "search", "train", "evaluate"} < verbs <= set(dir(api))
    assert all(getattr(api, name) is getattr(sss, name) for name in verbs)
    with pytest.raises(AttributeError, match="frobnicate"):
        api.frobnicate  # noqa: B018


def test_ingest_then_search_by_path_array_and_directory(filled: str, demo: Path) -> None:
    member = min((demo / "gallery").glob("0001_*"))
    by_path, by_array = sss.search(member, read_image(member), k=2)
    assert by_path.results[0].path.samefile(member)
    assert by_path.results[0].score == pytest.approx(1.0, abs=1e-4)
    assert [hit.key for hit in by_array.results] == [hit.key for hit in by_path.results]
    several = sss.search(demo / "queries", k=1, where="camera=1,2,3", store=filled)
    assert [answer.path for answer in several] == sorted((demo / "queries").iterdir())


def test_a_directory_without_images_costs_no_other_query(filled: str, demo: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    member = min((demo / "gallery").glob("0001_*"))
    found, none = sss.search(member, tmp_path / "empty", k=1, store=filled)
    assert found.results[0].path.samefile(member)
    assert (none.path, none.results) == (tmp_path / "empty", ())
    assert "not a regular file" in str(none.error)
    with pytest.raises(DataError, match="no images in it"):
        sss.search(tmp_path / "empty", store=filled)


def test_the_gallery_remembers_its_model(filled: str, demo: Path, tiny_bundle: Bundle) -> None:
    again = sss.ingest(demo / "gallery")
    assert (again.new, again.unchanged) == (0, 17)
    assert model_of(ModelRef(tiny_bundle.fingerprint, 32, tiny_bundle.name)).path == tiny_bundle.path
    with pytest.raises(ModelMismatchError, match="sss reindex"):
        model_of(ModelRef("f" * 64, 32, "gone/away"))
    with pytest.raises(ModelMismatchError):
        sss.search(demo / "queries", model="bundled")


def test_settings_are_the_defaults(filled: str, demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSS_GALLERY", "other")
    with pytest.raises(GalleryNotFoundError, match="other"):
        sss.search(demo / "queries")
    assert len(sss.search(demo / "queries", gallery="default")) == 4


def test_what_is_wrong_is_said_before_anything_is_loaded_or_made(demo: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one directory"):
        sss.ingest()
    with pytest.raises(DataError, match="nowhere"):
        sss.ingest("nowhere")
    with pytest.raises(UsageError, match="k is 0"):
        sss.search("x.jpg", k=0)
    with pytest.raises(UsageError, match="at least one query"):
        sss.search()
    with pytest.raises(UsageError, match="path is empty"):  # and no search for all images that lie here
        sss.search("")
    with pytest.raises(FilterError):
        sss.search("x.jpg", where="camera")
    with pytest.raises(BundleError, match="no such model"):
        sss.evaluate(demo / "gallery", model="nowhere")
    with pytest.raises(UsageError, match="unknown hyperparameter 'epoch'"):
        sss.train(demo / "gallery", epoch=3)
    with pytest.raises(UsageError, match="not both"):
        sss.train(demo / "gallery", holdout=2, holdout_ids=["0001"])
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_ingest_goes_on(demo: Path, tiny_bundle: Bundle) -> None:
    stop = threading.Event()
    first = sss.ingest(demo / "gallery", model=tiny_bundle.path, batch_size=4, stop=stop, progress=lambda _: stop.set())
    assert first.interrupted
    assert first.new < 17
    second = sss.ingest(demo / "gallery", batch_size=4)
    assert (second.new + second.unchanged, second.unchanged) == (17, first.new)


def test_training_without_torch_names_the_extra(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "siamese_search.training.run", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"\[torch\]"):
        sss.train(demo / "gallery")


def test_evaluate_chooses_the_identities(demo: Path, tiny_bundle: Bundle) -> None:
    said: list[str] = []
    report = sss.evaluate(demo / "gallery", queries=demo / "queries", model=tiny_bundle.path, notify=said.append)
    assert (report.ranking.queries, report.ranking.gallery) == (4, 17)
    assert said[-1] == "all 4 identities"
    two = sss.evaluate(demo / "gallery", model=tiny_bundle.path, identities=["0001", "0002"])
    assert {record.identity for record in two.plan.queries} == {"0001", "0002"}
    # Distractors stay: they are the negatives of the protocol.
    assert "0000" in two.plan.gallery_ids
    assert np.isfinite(two.mAP)
    with pytest.raises(DataError, match="held no identities out"):
        sss.evaluate(demo / "gallery", model=tiny_bundle.path, identities="heldout")
