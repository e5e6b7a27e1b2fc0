"""``sss train A B``, and ``sss evaluate`` on either or both."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

SMALL = (
    "--preset", "apn", "--backbone", "test_efficientnet", "--height", "64", "--width", "32", "--dim", "16",
    "--epochs", "1", "--batch-size", "8", "--init", "none", "--device", "cpu",
)  # fmt: skip


def test_two_data_sets(sss: Callable, demo: Path, tmp_path: Path) -> None:
    for image in (demo / "gallery").glob("000[1-5]_*.jpg"):
        folder = tmp_path / "folders" / image.name[:4]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, folder)
    (tmp_path / "ids.txt").write_text("0001\ngallery/0002\nfolders/0003\n")
    done = sss(
        "train", demo / "gallery", "folders", *SMALL, "--holdout-ids", "ids.txt", "--out", "runs/both",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert any(line.startswith("gallery: 4 identities, ") for line in lines), done.stderr
    assert any(line.startswith("folders: 3 identities, ") for line in lines), done.stderr
    held = json.loads((tmp_path / "runs" / "both" / "model.json").read_text())["heldout_identities"]
    assert held == ["folders/0001", "folders/0003", "gallery/0001", "gallery/0002"]
    for data, count in ((), 4), (("folders",), 2):
        report = sss("evaluate", *data, "--model", "runs/both", "--no-cameras", "--json", cwd=tmp_path)
        assert report.returncode == 0, report.stderr
        assert f"the {count} identities that training held out" in report.stderr


def test_what_cannot_be_two_data_sets(refused: Callable, demo: Path, tmp_path: Path) -> None:
    assert "given twice" in refused("train", demo / "gallery", demo / "gallery", "--init", "none", code=2)
    assert "no such file" in refused("train", demo / "gallery", tmp_path / "nowhere")
