"""compare_models() and ``sss evaluate --compare``: the same queries, two models, and how sure the difference is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import siamese_search as sss
from siamese_search.errors import DataError, UsageError
from siamese_search.model.bundle import META_NAME, Bundle


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six people, four pictures each."""
    rng = np.random.default_rng(0)
    for identity in range(6):
        colour = rng.integers(20, 236, 3)
        for shot in range(4):
            pixels = (colour + rng.normal(0, 60, (64, 32, 3))).clip(0, 255).astype(np.uint8)
            path = tmp_path / "photos" / f"p{identity}" / f"{shot}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return tmp_path / "photos"


def run(bundle: Bundle, out: Path, data: Path, heldout: list[str]) -> Path:
    shutil.copytree(bundle.path, out)
    meta = json.loads((out / META_NAME).read_text())
    (out / META_NAME).write_text(json.dumps({**meta, "heldout_identities": heldout}))
    (out / "run.json").write_text(json.dumps({"data": str(data), "layout": "folders"}))
    return out


def test_the_same_model_twice_is_a_tie(tiny_bundle: Bundle, photos: Path) -> None:
    pair = sss.compare_models(tiny_bundle.path, tiny_bundle.path, photos, threads=1)
    assert pair.a.ranking.queries == 24
    for found in pair.differences.values():
        assert (found.a, found.difference, found.better) == (found.b, 0.0, 0.5)
    assert pair.differences["mAP"].a == pytest.approx(pair.a.mAP)
    json.dumps(pair.to_json())


def test_only_identities_that_both_held_out_count(tiny_bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    a = run(tiny_bundle, tmp_path / "a", photos, ["p0", "p1", "p2"])
    b = run(tiny_bundle, tmp_path / "b", photos, ["p1", "p2", "p3"])
    said: list[str] = []
    pair = sss.compare_models(a, b, notify=said.append, threads=1)
    assert set(pair.a.plan.query_ids) == set(pair.b.plan.query_ids) == {"p1", "p2"}
    assert [line.split(": ", 1)[1] for line in said] == ["the 3 identities that training held out"] * 2
    c = run(tiny_bundle, tmp_path / "c", photos, ["p4", "p5"])
    with pytest.raises(DataError, match="held out by both"):
        sss.compare_models(a, c, photos, threads=1)
    with pytest.raises(UsageError, match="leave model out"):
        sss.compare_models(a, c, photos, model=a, threads=1)
    assert set(sss.compare_models(a, c, photos, identities="all", threads=1).a.plan.query_ids) == {
        f"p{i}" for i in range(6)
    }


def test_one_model_at_a_time_is_calibrated(tiny_bundle: Bundle, photos: Path) -> None:
    with pytest.raises(UsageError, match="one model at a time"):
        sss.compare_models(tiny_bundle.path, tiny_bundle.path, photos, calibrate=True)
