"""``--model fast``: the second model of the package, by its name wherever a model is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

from siamese_search.model.bundle import PACKAGED, load_bundle
from siamese_search.model.embedder import OnnxEmbedder

Run = Callable[..., CompletedProcess[str]]
Refused = Callable[..., str]


def test_a_gallery_made_by_it_is_searched_by_it(
    sss: Run, refused: Refused, demo: Path, query: Path, tmp_path: Path
) -> None:
    """Without a word: the gallery remembers its name. The other model is refused."""
    made = sss("ingest", demo / "gallery", "--model", "fast", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    found = json.loads(sss("search", query, "--format", "json", cwd=tmp_path).stdout)
    assert found[0]["results"][0]["identity"] == "0001"
    facts = json.loads(sss("info", "--gallery", "default", "--json", cwd=tmp_path).stdout)["galleries"][0]
    assert facts["model"]["name"] == "fast"
    assert facts["model"]["fingerprint"] == load_bundle("fast").fingerprint
    assert "sss reindex" in refused("ingest", demo / "gallery", "--model", "bundled", cwd=tmp_path)
    again = sss("ingest", demo / "gallery", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    back = sss("reindex", "--model", "bundled", cwd=tmp_path)
    assert back.returncode == 0, back.stderr
    assert "now by fast" in sss("rollback", cwd=tmp_path).stdout


def test_it_is_measured_beside_the_other(sss: Run, demo: Path) -> None:
    done = sss("evaluate", demo / "gallery", "--queries", demo / "queries", "--compare", "bundled", "fast", "--json")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", ["train", "adapt"])
def test_it_cannot_be_trained_further(refused: Refused, demo: Path, tmp_path: Path, verb: str) -> None:
    out = tmp_path / "run"
    line = refused(verb, demo / "gallery", "--init", "fast", "--out", out)
    assert "fast: an int8 model holds no weights to train" in line
    assert not out.exists()


def test_it_runs_on_the_cpu_alone(refused: Refused, demo: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    line = refused("ingest", demo / "gallery", "--model", "fast", "--device", "openvino", cwd=tmp_path, code=2)
    assert "use --device cpu" in line


def test_both_models_are_small_and_say_nearly_the_same(demo: Path) -> None:
    from siamese_search.io.images import read_image

    size = sum(path.stat().st_size for place in PACKAGED.values() for path in place.iterdir())
    assert size <= 20e6
    fast, whole = load_bundle("fast"), load_bundle("bundled")
    assert fast.name == "fast"
    assert fast.calibration is not None
    assert fast.input_size == whole.input_size
    assert set(fast.heldout_identities) == set(whole.heldout_identities)
    pixels = np.stack([read_image(path, fast.input_size) for path in sorted((demo / "gallery").iterdir())])
    one, other = (OnnxEmbedder(bundle, threads=1).embed(pixels) for bundle in (fast, whole))
    assert float((one * other).sum(axis=1).mean()) > 0.8
