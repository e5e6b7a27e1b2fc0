"""``sss adapt`` as a user runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from PIL import Image

from siamese_search.curation.label_table import read_label_table

Run = Callable[..., CompletedProcess[str]]

SMALL = (
    "--init", "none", "--backbone", "test_efficientnet", "--dim", "16", "--height", "32", "--width", "16",
    "--epochs", "2", "--freeze", "0", "--neighbours", "4", "--device", "cpu", "--settle", "1",
)  # fmt: skip


def test_images_without_labels_make_a_model_a_table_and_a_sheet(sss: Run, demo: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    done = sss("adapt", demo / "gallery", *SMALL, "--out", "runs/mine", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "mine"
    assert done.stdout.splitlines()[0].split() == ["model", str(run)]
    assert f"look at {run}/clusters.png" in done.stdout
    assert "not used; by them purity" in done.stdout
    assert "epoch   2/2  loss" in done.stderr
    assert f"sss reindex --model {run}" in done.stderr
    assert "not calibrated, so no verdicts" in done.stderr
    with Image.open(run / "clusters.png") as sheet:
        assert sheet.width > 400
    table = read_label_table(run / "clusters.csv", {})
    assert not table.problems
    assert len(table.rows) == len(list((demo / "gallery").iterdir()))
    # What was found can be ingested with the model, looked through, and applied.
    assert sss("ingest", demo / "gallery", "--model", run, "--store", tmp_path / "s").returncode == 0
    told = sss("label", run / "clusters.csv", "--store", tmp_path / "s", "--dry-run")
    assert told.returncode == 0, told.stderr
    again = sss("adapt", demo / "gallery", *SMALL, "--out", "runs/mine", cwd=tmp_path)
    assert again.returncode == 1
    assert "already holds a run" in again.stderr


def test_json_says_what_was_made(sss: Run, demo: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    done = sss("adapt", demo / "gallery", *SMALL, "--iters", "2", "--out", "run", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert set(told) == {
        "bundle", "fingerprint", "images", "epochs", "settled", "clusters", "singles", "purity", "ari",
        "calibrated_on", "failed",
    }  # fmt: skip
    assert (told["epochs"], told["settled"], told["calibrated_on"]) == (2, False, None)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "no DATA given"),
        (("nowhere",), 1, "nowhere"),
        (("--resume", "nowhere"), 1, "no run to resume"),
        (("--resume", "nowhere", "--epochs", "3"), 2, "leave out --epochs"),
        ((".", "--momentum", "7"), 2, "--momentum"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    sss: Run, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    done = sss("adapt", *arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
