"""The demo set: real files, the same bytes for the same seed, and identity signal that cameras disturb."""

from __future__ import annotations

import io
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamese_search.datasets.demo import MARKER, generate_demo
from siamese_search.datasets.layouts import load_dataset
from siamese_search.datasets.synthetic.cameras import make_places, photograph
from siamese_search.datasets.synthetic.people import draw_people
from siamese_search.errors import DataError, UsageError
from siamese_search.io.images import read_image

SMALL = {"identities": 4, "cameras": 3, "images_per_camera": 2, "distractors": 3, "junk": 2}


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return generate_demo(tmp_path_factory.mktemp("demo") / "set", **SMALL)


def test_the_set_is_a_market1501_query_and_gallery(demo):
    gallery, queries = load_dataset(demo.gallery), load_dataset(demo.queries)
    assert gallery.layout == queries.layout == "market1501"
    assert demo.identities == gallery.identities == queries.identities == ["0001", "0002", "0003", "0004"]
    assert len(queries.records) == 4
    assert len(gallery.records) == 4 * 2 * 2 + 3 + 2
    assert demo.images == len(queries.records) + len(gallery.records)
    assert sum(r.identity == "0000" for r in gallery.records) == 3
    assert sum(r.identity == "-1" for r in gallery.records) == 2
    asked = {r.identity: r.camera for r in queries.records}
    seen = {(r.identity, r.camera) for r in gallery.records}
    assert not seen & set(asked.items())  # a query's own camera holds no answer
    assert {camera for identity, camera in seen if identity == "0001"} == set("123") - {asked["0001"]}


def test_files_are_jpegs_of_the_size(demo, tmp_path):
    for path in (*demo.gallery.iterdir(), *demo.queries.iterdir()):
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 128))
    large = generate_demo(tmp_path / "large", identities=2, cameras=2, distractors=0, size=(256, 128))
    assert {read_image(p).shape for p in large.gallery.iterdir()} == {(256, 128, 3)}


def test_another_process_makes_the_same_bytes(demo, tmp_path):
    code = (
        "import sys; from pathlib import Path; from siamese_search.datasets.demo import generate_demo;"
        f" generate_demo(Path(sys.argv[1]), **{SMALL!r})"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "again")], check=True, timeout=120)
    assert contents(tmp_path / "again") == contents(demo.gallery.parent)


def test_repeating_changes_nothing_and_other_arguments_replace(tmp_path):
    out = tmp_path / "set"
    options = {"identities": 3, "cameras": 2, "distractors": 1}
    generate_demo(out, **options)
    first = contents(out)
    times = {p.name: p.stat().st_mtime_ns for p in (out / "gallery").iterdir()}
    (out / "queries" / ".0001_c1s1_000001_01.jpg.part").write_bytes(b"left by a crash")
    (out / "gallery" / "0009_c1s1_000001_01.jpg").write_bytes(b"of an earlier set")
    damaged = sorted((out / "queries").glob("*.jpg"))[0]
    damaged.write_bytes(b"torn")
    generate_demo(out, **options)
    assert contents(out) == first
    assert {p.name: p.stat().st_mtime_ns for p in (out / "gallery").iterdir()} == times
    generate_demo(out, **options, seed=1)
    second = contents(out)
    assert not set(first.values()) & {data for name, data in second.items() if name.endswith(".jpg")}
    fresh = tmp_path / "fresh"
    generate_demo(fresh, **options, seed=1)
    assert contents(fresh) == second  # nothing of the first set is left


def test_people_do_not_depend_on_how_many_there_are():
    assert draw_people(9, 5)[:4] == draw_people(4, 5)
    assert draw_people(9, 5) != draw_people(9, 6)
    assert len(set(draw_people(60, 0))) == 60


def test_lookalikes_share_clothes_and_differ_elsewhere():
    people = draw_people(30, 0)
    for model, double in zip(people[::2], people[1::2]):
        assert (double.top, double.bottom, double.pattern) == (model.top, model.bottom, model.pattern)
        assert max(abs(a - b) for a, b in zip(model.top_colour, double.top_colour)) <= 5
        assert double.bag != model.bag


def test_cameras_shift_colours_more_than_poses_do():
    (person,) = draw_people(1, 3)
    places = make_places(4, 0)

    def mean_colour(camera: int, shot: int) -> np.ndarray:
        data = photograph(person, places[camera], np.random.default_rng([camera, shot]), (128, 64))
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image, dtype=np.float64)[30:70, 24:40].mean((0, 1))

    means = np.asarray([[mean_colour(c, s) for s in range(4)] for c in range(4)])
    within = np.linalg.norm(means - means.mean(1, keepdims=True), axis=-1).mean()
    between = np.linalg.norm(means.mean(1) - means.mean((0, 1)), axis=-1).mean()
    assert between > within


def test_identity_is_visible_within_a_camera_but_colour_layout_fails_across(tmp_path):
    """Nearest neighbour on coarse pixels: the slow, obvious retrieval that a trained network must beat."""
    people, places = draw_people(12, 0), make_places(4, 0)

    @cache
    def features(camera: int, shot: int) -> np.ndarray:
        rows = []
        for index, person in enumerate(people):
            rng = np.random.default_rng([index, camera, shot])
            path = tmp_path / f"{index}_{camera}_{shot}.jpg"
            path.write_bytes(photograph(person, places[camera], rng, (128, 64)))
            body = read_image(path).astype(np.float32)[12:116, 16:48]
            coarse = body.reshape(13, 8, 4, 8, 3).mean((1, 3)).ravel()
            rows.append((coarse - coarse.mean()) / coarse.std())
        return np.asarray(rows)

    def rank1(a: np.ndarray, b: np.ndarray) -> float:
        return float(((a @ b.T).argmax(1) == np.arange(len(people))).mean())

    same = np.mean([rank1(features(c, 0), features(c, 1)) for c in range(4)])
    across = np.mean([rank1(features(c, 0), features(d, 1)) for c, d in ((0, 1), (1, 2), (2, 3), (3, 0))])
    assert same > 3 / len(people)  # far from chance
    assert across < 0.75 * same


def test_progress_counts_to_the_end(tmp_path):
    seen = []
    made = generate_demo(tmp_path / "x", identities=2, cameras=2, distractors=0, progress=lambda *a: seen.append(a))
    assert seen == [(i + 1, made.images) for i in range(made.images)]


def test_other_peoples_directories_are_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty and not a demo set"):
        generate_demo(tmp_path, **SMALL)
    with pytest.raises(DataError, match="is a file"):
        generate_demo(tmp_path / "thesis.txt", **SMALL)
    assert contents(tmp_path) == {"thesis.txt": b"mine"}
    with pytest.raises(DataError, match="cannot be written"):
        generate_demo(tmp_path / "thesis.txt" / "below", **SMALL)
    with pytest.raises(DataError, match="cannot be written"):
        generate_demo(tmp_path / ("x" * 300), **SMALL)


def test_foreign_files_in_a_demo_set_survive(tmp_path):
    out = tmp_path / "set"
    generate_demo(out, identities=2, cameras=2, distractors=0)
    assert (out / MARKER).is_file()
    (out / "gallery" / "note.txt").write_text("mine")
    generate_demo(out, identities=2, cameras=2, distractors=0, seed=9)
    assert (out / "gallery" / "note.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "options",
    [{"identities": 1}, {"cameras": 1}, {"images_per_camera": 0}, {"distractors": -1}, {"seed": -1}, {"size": (8, 8)}],
)
def test_numbers_that_cannot_work(tmp_path, options):
    with pytest.raises(UsageError, match="out of range"):
        generate_demo(tmp_path / "x", **options)
    assert not (tmp_path / "x").exists()
