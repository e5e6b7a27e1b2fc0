"""Names that a stranger's store holds, as every verb shows them: no terminal is to obey them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from siamese_search.gallery.contract import ModelRef
from siamese_search.gallery.edge import layout
from siamese_search.gallery.edge.store import EmbeddedStore
from siamese_search.model.bundle import load_bundle

ESCAPE = "\x1b]0;pwned\x07\x1b[2J\x9b31m\u202e"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A gallery whose every text holds escape sequences."""
    bundle = load_bundle()
    model = ModelRef(bundle.fingerprint, bundle.dim, f"runs/{ESCAPE}")
    vectors = np.eye(2, bundle.dim, dtype=np.float32)
    payload = {"identity": ESCAPE, "camera": ESCAPE, "path": f"/x/{ESCAPE}.jpg", "key": ESCAPE, "source": ESCAPE}
    rows = [{**payload, "note": ESCAPE, "size": 1, "mtime_ns": 1}] * 2
    ids = [f"00000000-0000-0000-0000-{number:012d}" for number in range(2)]
    with EmbeddedStore(tmp_path / "s").open("default", model=model, create=True, mode="w") as gallery:
        gallery.upsert(ids, vectors, rows)
    header = layout.current_generation(layout.find_gallery(tmp_path / "s", "default")) / "gallery.json"
    document = json.loads(header.read_text())
    header.write_text(json.dumps({**document, "name": ESCAPE}))
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ("info",),
        ("info", "--gallery", "default"),
        ("info", "--json"),
        ("galleries",),
        ("verify",),
        ("optimise",),
        ("duplicates",),
        ("rollback",),
        ("push", "other"),
        ("drop", "default", "--yes"),
    ],
)
def test_no_verb_shows_a_control_character(sss: Callable[..., object], place: Path, words: tuple[str, ...]) -> None:
    done = sss(*words, "--store", "s", cwd=place)
    shown = done.stdout + done.stderr  # type: ignore[attr-defined]
    assert shown
    assert "unexpected" not in shown
    assert not [one for one in shown.replace("\n", "") if not one.isprintable()]
