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

import siamese_search
from siamese_search.evaluation.calibrate import save_calibration
from siamese_search.gallery import open_gallery
from siamese_search.io.images import read_image
from siamese_search.model.bundle import PACKAGED, Bundle, load_bundle
from siamese_search.model.calibration import Calibration, figures_of
from siamese_search.retrieval.judging import gallery_calibration

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def calibrated(sss: Run, demo: Path, tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ``model``, and ``.sss`` filled by it and calibrated on the demo gallery before that."""
    cwd = tmp_path_factory.mktemp("calibrated")
    shutil.copytree(tiny_bundle.path, cwd / "model")
    done = sss("evaluate", demo / "gallery", "--model", "model", "--no-cameras", "--calibrate", cwd=cwd)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("calibrated")]
    assert "gallery 'default' in .sss, which has no images yet; sss calibrate --undo takes it back" in done.stdout
    assert load_bundle(cwd / "model").meta == tiny_bundle.meta  # which every gallery of that model shares
    with open_gallery(cwd / ".sss") as gallery:
        found = gallery_calibration(gallery)
    assert found is not None
    assert f"0.1: {found.threshold(0.1):.4f}" in line
    assert sss("ingest", demo / "gallery", "--model", "model", cwd=cwd).returncode == 0
    return cwd


def test_searches_say_match_or_no_match(sss: Run, demo: Path, calibrated: Path) -> None:
    query = sorted((demo / "gallery").glob("0001_*.jpg"))[0]
    done = sss("search", query, "-k", "30", "--fmr", "0.1", "--format", "json", cwd=calibrated)
    (answer,) = json.loads(done.stdout)
    threshold = answer["verdict"]["threshold"]
    assert answer["in_gallery"] is True
    assert (answer["verdict"]["false_match_rate"], answer["verdict"]["compared"]) == (0.1, 26)
    assert [hit["match"] for hit in answer["results"]] == [hit["score"] >= threshold for hit in answer["results"]]
    assert {hit["match"] for hit in answer["results"]} == {True, False}
    chances = [hit["probability"] for hit in answer["results"]]
    assert chances == sorted(chances, reverse=True)
    shown = sss("search", query, "--fmr", "0.1", "--where", "camera=1", cwd=calibrated).stdout
    assert "match" in shown
    assert "the gallery's calibration: a query that is not here gets " in shown.splitlines()[-1]
    assert shown.splitlines()[-1].endswith(" false matches")
    assert max(map(len, shown.splitlines()[-2:])) <= 80
    assert "at fmr 0.1" in shown
    # Without a rate of one's own, match and probability say the same.
    likely = sss("search", query, "-k", "30", "--prior", "0.5", "--format", "json", cwd=calibrated).stdout
    hits = json.loads(likely)[0]["results"]
    assert [hit["match"] for hit in hits] == [hit["probability"] >= 0.5 for hit in hits]
    assert {hit["match"] for hit in hits} == {True, False}
    (usual,) = json.loads(sss("search", query, "-k", "30", "--format", "json", cwd=calibrated).stdout)
    assert usual["verdict"]["identities"] == 6 + 2  # each distractor is somebody of their own
    assert usual["verdict"]["prior"] == pytest.approx(1 / 16)
    assert "(prior 1 in 16);\nthe gallery's calibration: " in sss("search", query, cwd=calibrated).stdout
    assert usual["verdict"]["calibration"] == "gallery"


def test_a_timeline_marks_every_sighting(sss: Run, demo: Path, calibrated: Path) -> None:
    query = sorted((demo / "gallery").glob("0001_*.jpg"))[0]
    how = ("--timeline", "--fmr", "0.1", "--exclude-self")
    (found,) = json.loads(sss("search", query, *how, "--format", "json", cwd=calibrated).stdout)
    threshold = found["verdict"]["threshold"]
    assert [hit["match"] for hit in found["sightings"]] == [hit["score"] >= threshold for hit in found["sightings"]]
    assert query.name not in {hit["key"] for hit in found["sightings"]}
    assert "at fmr 0.1" in sss("search", query, *how, cwd=calibrated).stdout


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """An image that is like none of the people."""
    Image.new("RGB", (64, 128), "red").save(tmp_path / "red.png")
    return tmp_path / "red.png"


def test_a_stranger_is_not_in_the_gallery(sss: Run, calibrated: Path, stranger: Path) -> None:
    done = sss("search", stranger, "--min-score", "1", "--fmr", "0.1", cwd=calibrated)
    assert done.returncode == 0
    assert "no results: the nearest scores 0." in done.stdout
    assert "\nnot in the gallery;\na match scores" in done.stdout


def test_below_many_tables_what_a_match_is_stands_once(sss: Run, query: Path, calibrated: Path, stranger: Path) -> None:
    told = sss("search", query, query, stranger, "-k", "2", "--fmr", "0.1", cwd=calibrated).stdout
    assert told.count("a match scores") == 1
    assert told.rstrip().endswith("\nnot in the gallery")


def test_what_cannot_be_calibrated_is_said(
    refused: Callable[..., str], demo: Path, calibrated: Path, tiny_bundle: Bundle
) -> None:
    line = refused("search", demo / "queries", "--fmr", "1e-9", cwd=calibrated, code=2)
    assert "below what this model's calibration" in line
    both = ("evaluate", demo / "gallery", "--model", tiny_bundle.path, "--flip", "--calibrate")
    assert "calibrate without --flip" in refused(*both, code=2)


def test_a_rate_needs_a_calibrated_model(refused: Callable[..., str], query: Path, demo_store: Path) -> None:
    line = refused("search", query, "--store", demo_store, "--fmr", "0.01", code=2)
    assert "sss calibrate" in line


def test_a_pair_has_one_probability_in_searches_and_comparisons(sss: Run, demo: Path, calibrated: Path) -> None:
    query = sorted((demo / "queries").glob("*.jpg"))[0]

    def both(*how: str) -> tuple[float, float, dict[str, object]]:
        (answer,) = json.loads(sss("search", query, "-k", "1", *how, "--format", "json", cwd=calibrated).stdout)
        (hit,) = answer["results"]
        pair = json.loads(sss("compare", query, hit["path"], *how, "--format", "json", cwd=calibrated).stdout)
        assert pair["pairs"][0]["score"] == pytest.approx(hit["score"], abs=2e-6)
        assert (pair["prior"], pair["calibration"]) == (answer["verdict"]["prior"], "gallery")
        assert pair["pairs"][0]["same"] is hit["match"]
        return hit["probability"], pair["pairs"][0]["probability"], answer["verdict"]

    usual = both()
    assert usual[0] == pytest.approx(usual[1], abs=1e-4)
    even = both("--prior", "0.5")
    assert even[0] == pytest.approx(even[1], abs=1e-4)
    assert even[0] > usual[0]
    assert even[2]["prior"] == 0.5


def test_mirrored_queries_have_scores_only(sss: Run, demo: Path, calibrated: Path) -> None:
    query = sorted((demo / "queries").glob("*.jpg"))[0]
    (answer,) = json.loads(sss("search", query, "--flip", "--format", "json", cwd=calibrated).stdout)
    assert "verdict" not in answer
    assert "no verdicts with --flip" in answer["no_verdict"]
    assert "no verdicts with --flip" in sss("search", query, "--flip", "--fmr", "0.1", cwd=calibrated).stdout
    how = ("--timeline", "--flip", "--format", "json")
    (followed,) = json.loads(sss("search", query, *how, cwd=calibrated).stdout)
    assert followed["no_verdict"] == answer["no_verdict"]
    with siamese_search.open(calibrated / ".sss") as people:  # as sss serve has it
        (plain,), (mirrored,) = (people.search(query, flip=flip) for flip in (False, True))
    assert plain.verdict is not None
    assert (mirrored.verdict, mirrored.in_gallery) == (None, None)
    assert mirrored.no_verdict == answer["no_verdict"]
    assert {hit.match for hit in mirrored.results} == {None}


def test_an_evaluation_of_mirrored_images_knows_no_thresholds(
    sss: Run, demo: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    shutil.copytree(tiny_bundle.path, tmp_path / "model")
    model = load_bundle(tmp_path / "model")
    save_calibration(model, Calibration((1.0, 0.1), (-1.0, 0.5), 10.0, -5.0, 50, 100))
    how = ("evaluate", demo / "gallery", "--model", "model", "--json")
    plain = json.loads(sss(*how, cwd=tmp_path).stdout)
    mirrored = json.loads(sss(*how, "--flip", cwd=tmp_path).stdout)
    assert plain["kept_calibration"]
    assert mirrored["kept_calibration"] is None
    assert any(note.endswith("so no thresholds") for note in mirrored["notes"])


def test_a_small_gallery_has_no_verdicts_by_the_models_calibration_and_says_so(
    sss: Run, demo: Path, tmp_path: Path
) -> None:
    query = sorted((demo / "queries").glob("*.jpg"))[0]
    told = sss("ingest", demo / "gallery", cwd=tmp_path).stderr
    why = "26 images cannot tell whether the model's calibration holds: scores only;"
    assert f"sss: {why}\n32 can, or with labels: sss calibrate\n" in told
    (answer,) = json.loads(sss("search", query, "--format", "json", cwd=tmp_path).stdout)
    assert answer["no_verdict"].startswith(why)
    assert {"verdict", "in_gallery"}.isdisjoint(answer)
    pair = json.loads(sss("compare", query, query, "--format", "json", cwd=tmp_path).stdout)
    assert (pair["same"], pair["no_verdict"]) == (None, answer["no_verdict"])  # in that gallery
    known = load_bundle(None)
    assert known.calibration is not None
    pixels = {one: read_image(one, known.input_size)[None] for one in sorted((demo / "queries").glob("*.jpg"))}
    usual = next(one for one in pixels if not known.calibration.strange(figures_of(pixels[one])).any())
    alone = json.loads(sss("compare", usual, usual, "--format", "json", cwd=query.parent).stdout)
    assert (alone["same"], alone["doubt"]) == (
        True, "1 image cannot tell whether the model's calibration holds",
    )  # fmt: skip
    assert why in sss("info", cwd=tmp_path).stdout
    assert sss("calibrate", cwd=tmp_path).returncode == 0
    (answer,) = json.loads(sss("search", query, "--format", "json", cwd=tmp_path).stdout)
    assert answer["verdict"]["calibration"] == "gallery"


def test_where_a_calibration_does_not_hold_the_ways_out_are_told(sss: Run, tmp_path: Path) -> None:
    """In noise any two images are more alike than people are, whatever the weights."""
    (tmp_path / "photos").mkdir()
    for number in range(40):
        pixels = np.random.default_rng(number).integers(0, 256, (128, 64, 3), np.uint8)
        name = f"{number // 4 + 1:04}_c{number % 2 + 1}s1_{number:06}_00.png"
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
    first = "this gallery is not like what the model was calibrated on: scores only;"
    ways = ["with labels: sss calibrate;", "without: sss adapt DIR --epochs 0 (a minute), then sss reindex --model RUN"]
    ingested = sss("ingest", "photos", cwd=tmp_path).stderr.splitlines()
    assert ingested[-3:] == [f"sss: {first}", *ways]
    query = "photos/0001_c1s1_000000_00.png"
    searched = sss("search", query, cwd=tmp_path).stdout.splitlines()
    assert searched[-3:] == [first, *ways]
    assert "\n".join(ways) in sss("info", cwd=tmp_path).stdout
    named = (
        "\n".join(ways)
        .replace("calibrate", "calibrate --gallery default")
        .replace("--model", "--gallery default --model")
    )
    assert named in sss("info", "--gallery", "default", cwd=tmp_path).stdout
    assert max(map(len, [*ingested[-3:], *searched[-3:]])) <= 80


def test_a_gallery_is_calibrated_on_its_own_labels_and_that_is_taken_back(
    sss: Run, refused: Callable[..., str], demo: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    model = ("--model", tiny_bundle.path)
    assert sss("ingest", demo / "gallery", *model, cwd=tmp_path).returncode == 0
    assert "nothing to take back" in refused("calibrate", "--undo", cwd=tmp_path, code=2)
    done = sss("calibrate", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert (found["identities"], found["collection"]) == (6, "default")
    again = sss("calibrate", cwd=tmp_path).stdout
    assert "written to gallery 'default' in .sss; sss calibrate --undo takes it back" in again
    facts = json.loads(sss("info", "--json", cwd=tmp_path).stdout)["galleries"][0]
    assert facts["calibration"] == "gallery"
    assert sss("push", "copy", cwd=tmp_path).stdout.splitlines()[0].endswith(", its calibration too")
    with open_gallery(tmp_path / "copy") as gallery:
        kept = gallery_calibration(gallery)
    assert kept is not None
    assert kept.to_json() == found["calibration"]
    done = sss("reindex", "--keep-vectors", "--storage", "float16", cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "its calibration is kept"
    done = sss("reindex", "--model", "bundled", cwd=tmp_path)
    assert "its calibration was of the former model" in done.stdout.splitlines()[-1]
    with open_gallery(tmp_path / ".sss") as gallery:
        assert gallery_calibration(gallery) is None
    assert sss("rollback", cwd=tmp_path).returncode == 0
    with open_gallery(tmp_path / ".sss") as gallery:
        assert gallery_calibration(gallery) == kept


def test_the_installed_package_is_never_written(
    sss: Run, refused: Callable[..., str], demo: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    before = (PACKAGED["bundled"] / "model.json").read_bytes()
    done = sss("evaluate", demo / "gallery", "--calibrate", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "gallery 'default' in .sss" in done.stdout
    assert (PACKAGED["bundled"] / "model.json").read_bytes() == before
    other = ("evaluate", demo / "gallery", "--model", tiny_bundle.path, "--calibrate")
    assert "made by another model" in refused(*other, cwd=tmp_path, code=2)


def test_compare_says_same_or_different_by_its_exit_code(
    sss: Run, refused: Callable[..., str], demo: Path, calibrated: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    one, *others = sorted((demo / "gallery").glob("*.jpg"))
    done = sss("compare", one, one, "--model", "model", "--fmr", "0.1", cwd=calibrated)
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].split() == ["verdict", "same"]
    noise = np.random.default_rng(0).integers(0, 256, (128, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    done = sss("compare", one, tmp_path / "noise.png", "--threshold", "0.9999", "--model", "model", cwd=calibrated)
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
    assert "the nearest 12 of 26 columns" in shown.stderr
    best = max(answer["pairs"], key=lambda pair: pair["score"])
    assert f" B1   {Path(best['b']).name}\n" in shown.stdout
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
