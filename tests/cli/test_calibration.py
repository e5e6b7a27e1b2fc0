"""``sss evaluate --calibrate`` and what searches say from then on, as a user meets them."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamese_search.model.bundle import Bundle, load_bundle

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def calibrated(sss: Run, demo: Path, tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ``model``, calibrated on the demo gallery, and ``.sss`` filled by it."""
    cwd = tmp_path_factory.mktemp("calibrated")
    shutil.copytree(tiny_bundle.path, cwd / "model")
    done = sss("evaluate", demo / "gallery", "--model", "model", "--no-cameras", "--calibrate", cwd=cwd)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("calibrated")]
    found = load_bundle(cwd / "model").calibration
    assert found is not None
    assert f"0.1: {found.threshold(0.1):.4f}" in line
    assert load_bundle(cwd / "model").fingerprint == tiny_bundle.fingerprint
    assert sss("ingest", demo / "gallery", "--model", "model", cwd=cwd).returncode == 0
    return cwd


def test_searches_say_match_or_no_match(sss: Run, demo: Path, calibrated: Path) -> None:
    query = sorted((demo / "gallery").glob("0001_*.jpg"))[0]
    done = sss("search", query, "-k", "30", "--fmr", "0.1", "--format", "json", cwd=calibrated)
    (answer,) = json.loads(done.stdout)
    threshold = answer["verdict"]["threshold"]
    assert answer["in_gallery"] is True
    assert (answer["verdict"]["false_match_rate"], answer["verdict"]["compared"]) == (0.1, 26)
    assert [hit["match"] for hit in answer["results"]] == [
        hit["score"] >= threshold for hit in answer["results"]
    ]
    assert {hit["match"] for hit in answer["results"]} == {True, False}
    chances = [hit["probability"] for hit in answer["results"]]
    assert chances == sorted(chances, reverse=True)
    shown = sss("search", query, "--fmr", "0.1", "--where", "camera=1", cwd=calibrated).stdout
    assert "match" in shown
    assert "the chance of any false match among 1" in shown.splitlines()[-1]
    assert "at fmr 0.1" in shown
    # Without a rate of one's own, match and probability say the same.
    (usual,) = json.loads(sss("search", query, "-k", "30", "--format", "json", cwd=calibrated).stdout)
    assert [hit["match"] for hit in usual["results"]] == [
        hit["probability"] >= 0.5 for hit in usual["results"]
    ]
    assert usual["verdict"]["identities"] == 6 + 2  # each distractor is somebody of their own
    assert usual["verdict"]["prior"] == pytest.approx(1 / 16)
    assert "among 8 identities" in sss("search", query, cwd=calibrated).stdout


def test_a_timeline_marks_every_sighting(sss: Run, demo: Path, calibrated: Path) -> None:
    query = sorted((demo / "gallery").glob("0001_*.jpg"))[0]
    how = ("--timeline", "--fmr", "0.1", "--exclude-self")
    (found,) = json.loads(sss("search", query, *how, "--format", "json", cwd=calibrated).stdout)
    threshold = found["verdict"]["threshold"]
    assert [hit["match"] for hit in found["sightings"]] == [
        hit["score"] >= threshold for hit in found["sightings"]
    ]
    assert query.name not in {hit["key"] for hit in found["sightings"]}
    assert "at fmr 0.1" in sss("search", query, *how, cwd=calibrated).stdout


def test_a_stranger_is_not_in_the_gallery(sss: Run, calibrated: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    done = sss("search", tmp_path / "noise.png", "--min-score", "1", "--fmr", "0.1", cwd=calibrated)
    assert done.returncode == 0
    assert "no results" in done.stdout
    assert "not in the gallery: a match scores" in done.stdout


def test_what_cannot_be_calibrated_is_said(
    refused: Callable[..., str], demo: Path, calibrated: Path, tiny_bundle: Bundle
) -> None:
    line = refused("search", demo / "queries", "--fmr", "1e-9", cwd=calibrated, code=2)
    assert "below what this model's calibration" in line
    both = ("evaluate", demo / "gallery", "--model", tiny_bundle.path, "--flip", "--calibrate")
    assert "calibrate without flip" in refused(*both, code=2)


def test_a_rate_needs_a_calibrated_model(refused: Callable[..., str], query: Path, demo_store: Path) -> None:
    line = refused("search", query, "--store", demo_store, "--fmr", "0.01", code=2)
    assert "--calibrate" in line


def test_compare_says_same_or_different_by_its_exit_code(
    sss: Run, refused: Callable[..., str], demo: Path, calibrated: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    one, *others = sorted((demo / "gallery").glob("*.jpg"))
    done = sss("compare", one, one, "--model", "model", "--fmr", "0.1", cwd=calibrated)
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].split() == ["verdict", "same"]
    noise = np.random.default_rng(0).integers(0, 256, (128, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    done = sss(
        "compare", one, tmp_path / "noise.png", "--threshold", "0.9999", "--model", "model", cwd=calibrated
    )
    assert (done.returncode, done.stdout.splitlines()[0].split()) == (1, ["verdict", "different"])
    # What could not be told is never "different".
    undecided = sss("compare", one, others[0], "--model", tiny_bundle.path)
    assert undecided.returncode == 2
    assert "score" in undecided.stdout
    assert "--threshold" in undecided.stderr
    (tmp_path / "broken.jpg").write_bytes(b"")
    assert "empty file" in refused("compare", one, tmp_path / "broken.jpg", "--threshold", "0", code=2)
    both = ("compare", one, one, "--model", "model", "--fmr", "0.1", "--threshold", "0")
    assert "not both" in refused(*both, cwd=calibrated, code=2)


def test_compare_of_directories_is_a_matrix(sss: Run, demo: Path, calibrated: Path) -> None:
    a, b = demo / "queries", demo / "gallery"
    how = ("--model", "model", "--fmr", "0.1", "--save", "pairs.png")
    done = sss("compare", a, b, *how, "--format", "json", cwd=calibrated)
    answer = json.loads(done.stdout)
    assert len(answer["pairs"]) == 6 * 26
    assert answer["same"] is (done.returncode == 0)
    with Image.open(calibrated / "pairs.png") as picture:
        assert picture.format == "PNG"
    shown = sss("compare", a, b, *how, cwd=calibrated)
    assert "the first 12 of 26 columns" in shown.stderr
    rows = [line for line in shown.stdout.splitlines() if ".jpg" in line and "0." in line]
    assert [row.split()[0] for row in rows] == sorted(path.name for path in a.glob("*.jpg"))


def test_fused_queries_are_judged_and_pushed_ones_are_not(sss: Run, demo: Path, calibrated: Path) -> None:
    one, other, *_ = sorted((demo / "gallery").glob("0001_*.jpg"))
    how = ("--fmr", "0.1", "--format", "json")
    (fused,) = json.loads(sss("search", one, other, "--together", *how, cwd=calibrated).stdout)
    assert fused["query"].endswith(" and 1 more")
    assert fused["in_gallery"] is True
    (pushed,) = json.loads(sss("search", one, "--not", other, *how, cwd=calibrated).stdout)
    assert "verdict" not in pushed
    (liked,) = json.loads(sss("search", "--like", one.name, *how, cwd=calibrated).stdout)
    assert one.name not in {hit["key"] for hit in liked["results"]}
    assert sss("search", cwd=calibrated).returncode == 2
