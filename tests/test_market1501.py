"""The whole way on real images: crops of Market-1501 in a gallery, searches, the held-out identities."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import siamese_search
from siamese_search.model.bundle import load_bundle

pytestmark = [pytest.mark.data, pytest.mark.slow]


def sss(*arguments: object, cwd: Path) -> Any:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SSS_")}
    done = subprocess.run(
        [sys.executable, "-m", "siamese_search", *map(str, arguments)],
        cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def crops(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All crops of the held-out identities, and every fiftieth of the others."""
    held = set((data_dir / "market1501" / "heldout_ids.txt").read_text().split())
    chosen = tmp_path_factory.mktemp("crops") / "train"
    chosen.mkdir()
    for number, path in enumerate(sorted((data_dir / "market1501" / "train").iterdir())):
        if number % 50 == 0 or path.name.split("_")[0] in held:
            shutil.copy(path, chosen)
    return chosen


@pytest.fixture(scope="module")
def workplace(crops: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory whose ``.sss`` holds them."""
    cwd = tmp_path_factory.mktemp("market")
    summary = sss("ingest", crops, "--json", cwd=cwd)
    count = len(list(crops.iterdir()))
    assert count > 2000
    assert (summary["seen"], summary["new"], summary["failed"]) == (count, count, [])
    return cwd


def heldout_images(data_dir: Path, count: int) -> list[Path]:
    ids = (data_dir / "market1501" / "heldout_ids.txt").read_text().split()
    chosen = ids[:: max(1, len(ids) // count)][:count]
    return [sorted((data_dir / "market1501" / "train").glob(f"{identity}_*"))[0] for identity in chosen]


def test_the_bundled_model_says_whom_it_learned_from(data_dir: Path) -> None:
    names = {path.name.split("_")[0] for path in (data_dir / "market1501" / "train").iterdir()}
    held = set((data_dir / "market1501" / "heldout_ids.txt").read_text().split())
    bundle = load_bundle()
    assert set(bundle.meta["training"]["identity_names"]) == names - {"-1", "0000"} - held
    assert len(bundle.meta["training"]["identity_names"]) == 643
    assert set(bundle.heldout_identities) == held


def test_a_second_ingest_embeds_nothing(workplace: Path, crops: Path) -> None:
    summary = sss("ingest", crops, "--json", cwd=workplace)
    assert (summary["new"], summary["changed"], summary["unchanged"]) == (0, 0, len(list(crops.iterdir())))


def test_searches_find_the_right_identity(workplace: Path, data_dir: Path) -> None:
    queries = heldout_images(data_dir, 54)
    answers = sss("search", *queries, "-k", 5, "--exclude-self", "--format", "json", cwd=workplace)
    assert [Path(answer["query"]).name for answer in answers] == [query.name for query in queries]
    for answer, query in zip(answers, queries):
        assert len(answer["results"]) == 5
        assert query.name not in {hit["key"] for hit in answer["results"]}
        scores = [hit["score"] for hit in answer["results"]]
        assert scores == sorted(scores, reverse=True)
    right = sum(answer["results"][0]["identity"] == query.name.split("_")[0] for answer, query in zip(answers, queries))
    assert right >= 38  # 7 in 10; the first image of an identity is often its hardest, of a lone camera


def test_other_cameras_only_by_filter(workplace: Path, data_dir: Path) -> None:
    query = heldout_images(data_dir, 10)[0]
    camera = query.name.split("_c")[1][0]
    answers = sss("search", query, "-k", 20, "--where", f"camera!={camera}", "--format", "json", cwd=workplace)
    assert len(answers[0]["results"]) == 20
    assert camera not in {hit["camera"] for hit in answers[0]["results"]}


def test_evaluation_on_the_heldout_identities(workplace: Path, data_dir: Path) -> None:
    """The model has not seen them, and so nothing is said of that: its own figures are found again. Rankings agree."""
    market = data_dir / "market1501"
    report = sss("evaluate", market / "train", "--identities", market / "heldout_ids.txt", "--json", cwd=workplace)
    (recipe,) = load_bundle().meta["metrics"].values()
    assert (report["queries"], report["gallery"]) == (1970, 1970)
    assert not any("trained on" in note or "learned from" in note for note in report["notes"])
    assert report["rank1"] == pytest.approx(recipe["rank1"], abs=0.005)
    assert report["mAP"] == pytest.approx(recipe["mAP"], abs=0.005)
    assert report["rank1"] == pytest.approx(report["exact"]["rank1"], abs=1e-9)
    assert report["mAP"] == pytest.approx(report["exact"]["mAP"], abs=1e-3)
    assert report["verification"]["auc"] > 0.95


def test_a_calibration_holds_for_other_identities(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calibrated on one half of the held-out identities, 1 % false matches are 0.5 to 2 % on the other half."""
    monkeypatch.chdir(tmp_path)  # the gallery in use, which gets the calibration, is of the working directory
    market = data_dir / "market1501"
    ids = (market / "heldout_ids.txt").read_text().split()
    shutil.copytree(load_bundle().path, tmp_path / "model")
    first, second = (
        siamese_search.evaluate(market / "train", identities=half, calibrate=True, model=tmp_path / "model", threads=2)
        for half in (ids[::2], ids[1::2])
    )
    for fitted, other in ((first, second), (second, first)):
        assert fitted.calibration is not None
        found = other.pairs.at_threshold(fitted.calibration.threshold(0.01))
        assert found is not None
        assert 0.005 <= found.false_accept_rate <= 0.02
