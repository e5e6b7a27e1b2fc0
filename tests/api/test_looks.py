"""A query that is no such object is told apart from one that is merely not there: on real photographs."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import siamese_search as sss
from siamese_search.cli.main import cli
from siamese_search.retrieval.judging import STRANGE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of half of the people, in which the bundled calibration holds."""
    photos, store = (tmp_path_factory.mktemp(name) for name in ("photos", "store"))
    for path in sorted((data_dir / "market1501" / "unseen50").rglob("*.jpg"))[::2]:
        shutil.copy(path, photos)
    sss.ingest(photos, store=store / "sss")
    return store / "sss"


def test_what_is_no_person_gets_no_verdict_and_a_person_does(store: Path, data_dir: Path, tmp_path: Path) -> None:
    people = sorted((data_dir / "market1501" / "unseen50").rglob("*.jpg"))[1::40]
    rng = np.random.default_rng(0)
    black, noise = tmp_path / "black.png", tmp_path / "noise.png"
    Image.new("RGB", (64, 128)).save(black)
    Image.fromarray(rng.integers(0, 256, (128, 64, 3), np.uint8)).save(noise)
    face = sorted((data_dir / "orl_faces").rglob("*.pgm"))[0]
    others = [black, noise, face]
    found = sss.search(*people, *others, store=store, k=3)
    assert all(one.verdict is not None and one.in_gallery is not None for one in found[: len(people)])
    for one in found[len(people) :]:
        assert (one.verdict, one.in_gallery, one.no_verdict) == (None, None, STRANGE)
        assert [result.match for result in one.results] == [None] * 3
        assert one.to_json()["no_verdict"] == STRANGE
    # Fused with a person it is still no person; of an item of the gallery nobody asks.
    (together,) = sss.search(people[0], black, store=store, together=True)
    assert together.no_verdict == STRANGE
    key = str(found[0].results[0].key)
    (alike,) = sss.search(like=[key], store=store)
    assert alike.verdict is not None


def test_two_faces_are_no_pair_of_people(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no gallery here
    one, other = (sorted((data_dir / "orl_faces" / name).glob("*.pgm"))[0] for name in ("s1", "s2"))
    person = sorted((data_dir / "market1501" / "unseen50").rglob("*.jpg"))[0]
    pair = sss.compare(one, other)
    assert pair.any_same is None
    assert STRANGE in pair.judge.why
    assert sss.compare(one, other, threshold=0.5).any_same is not None  # somebody's own threshold
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    shutil.copy(one, mixed)
    shutil.copy(person, mixed)
    found = sss.compare(person, mixed)
    assert found.any_same
    assert found.judge.doubt == (f"3 images cannot tell whether the model's calibration holds; 1 image of 3: {STRANGE}")
    table = CliRunner().invoke(cli, ["compare", str(person), str(mixed)])
    assert f"1 image of 3: {STRANGE}" in " ".join(table.output.split())


def test_a_gallerys_own_calibration_knows_its_looks(data_dir: Path, tmp_path: Path) -> None:
    photos, store = data_dir / "orl_faces", tmp_path / "sss"
    sss.ingest(photos, store=store)
    kept = sss.calibrate(store=store).calibration
    assert kept is not None
    assert kept.looks is not None
    person = sorted((data_dir / "market1501" / "unseen50").rglob("*.jpg"))[0]
    face = sorted(photos.rglob("*.pgm"))[0]
    stranger, known = sss.search(person, face, store=store)
    assert stranger.no_verdict == STRANGE
    assert known.in_gallery
