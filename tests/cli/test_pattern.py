"""``--pattern`` from the first word to the figures: an ingest proposes one, takes it, and evaluate reads the same."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from siamese_search.model.bundle import Bundle

pytest.importorskip("re2", reason="google-re2 is not installed")

Run = Callable[..., CompletedProcess[str]]


@pytest.fixture
def buses(demo: Path, tmp_path: Path) -> Path:
    """The people of the demo set, renamed ``bus_0001_cam2-0.jpg``."""
    root = tmp_path / "buses"
    root.mkdir()
    for number, image in enumerate(sorted((demo / "gallery").iterdir())):
        found = re.match(r"([0-9]+)_c([0-9]+)s", image.name)
        if found and found[1] != "0000":
            shutil.copyfile(image, root / f"bus_{found[1]}_cam{found[2]}-{number}.jpg")
    return root


def test_a_proposed_pattern_can_be_pasted(sss: Run, buses: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    place = ("--store", tmp_path / "store")
    plain = sss("ingest", buses, *place, "--model", tiny_bundle.path)
    assert plain.returncode == 0, plain.stderr
    (proposed,) = re.findall(r"--pattern .*?(?= takes)", plain.stderr)
    options = shlex.split(proposed)
    done = sss("ingest", buses, *place, *options)
    assert done.returncode == 0, done.stderr
    assert "layout pattern: identity, camera from names (" in done.stderr
    query = min(buses.iterdir())
    found = sss("search", query, *place, "--where", "camera=2", "--json")
    results = json.loads(found.stdout)[0]["results"]
    assert results
    assert {result["camera"] for result in results} == {"2"}
    assert {result["identity"] for result in results} <= {f"bus_{number:04}" for number in range(1, 7)}
    measured = sss("evaluate", buses, "--model", tiny_bundle.path, *options, "--json")
    assert measured.returncode == 0, measured.stderr
    answer = json.loads(measured.stdout)
    assert answer["cameras"] is True
    assert answer["queries"] == answer["gallery"] == len(list(buses.iterdir()))


def test_a_bad_pattern_is_refused_before_anything_is_made(refused: Run, buses: Path, tmp_path: Path) -> None:
    line = refused("ingest", buses, "--store", tmp_path / "store", "--pattern", "(?P<identity>.+", code=2)
    assert "no regular expression of RE2: missing )" in line
    line = refused("ingest", buses, "--store", tmp_path / "store", "--pattern", r"(.+)_cam(\d+)", code=2)
    assert r"pattern '(.+)_cam(\d+)' names no field" in line  # as it was typed
    assert not (tmp_path / "store").exists()


def test_a_pattern_without_identities_says_so(sss: Run, buses: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    how = ("--store", tmp_path / "store", "--model", tiny_bundle.path, "--pattern", r"(?P<who>.+)_cam")
    assert "no group 'identity', so there are none" in sss("ingest", buses, *how).stderr
