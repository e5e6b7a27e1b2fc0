"""Duplicates: which pairs are looked at, what the files say of them, and which image is kept."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from vectors import MODEL, units

from siamese_search.curation.duplicates import find_duplicates
from siamese_search.datasets.records import encode_key, point_id
from siamese_search.gallery import open_gallery
from siamese_search.gallery.filters import Condition
from siamese_search.gallery.storage import Storage
from siamese_search.vectors import near_pairs as module
from siamese_search.vectors.near_pairs import near_pairs


@pytest.mark.parametrize("dim", [16, 192])
@pytest.mark.parametrize("threshold", [0.3, 0.9, 0.99])
def test_pairs_are_those_of_the_whole_matrix(monkeypatch, dim, threshold):
    monkeypatch.setattr(module, "BLOCK", 37)
    rng = np.random.default_rng(0)
    centres = units(rng, 12, dim)
    noise = rng.standard_normal((150, dim)) * rng.choice([0.001, 0.02, 0.3], (150, 1))
    vectors = (centres[rng.integers(0, 12, 150)] + noise).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = vectors @ vectors.T
    rows, columns = np.nonzero(np.triu(scores >= threshold, 1))
    wanted = {(i, j) for i, j in zip(rows.tolist(), columns.tolist())}
    edge = {(i, j) for i, j in wanted if abs(scores[i, j] - threshold) < 1e-5}
    assert 30 < len(wanted) < 11_000
    found = {}
    ticks = []
    for i, j, values in near_pairs(vectors, threshold, progress=lambda *tick: ticks.append(tick)):
        for a, b, value in zip(i.tolist(), j.tolist(), values.tolist()):
            assert (a, b) not in found
            found[a, b] = value
    assert set(found) - edge == wanted - edge
    assert all(abs(value - scores[pair]) < 1e-5 for pair, value in found.items())
    assert ticks[-1] == (15, 15)


def picture(path, seed, size=(64, 128), quality=95):
    """Smooth colours like a photograph's, decided by the seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (10, 6, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, quality=quality)
    return path


def put(gallery, paths, vectors, **more):
    """Points for these files, with these vectors."""
    payloads = []
    for path in paths:
        there = path.stat() if path.exists() else None
        state = {"size": there.st_size, "mtime_ns": there.st_mtime_ns} if there else {"size": 5, "mtime_ns": 5}
        payloads.append({"source": "s", "key": path.name, "path": encode_key(str(path)), **state, **more})
    gallery.upsert([point_id("s", str(path)) for path in paths], vectors, payloads)


def shown(groups):
    return [(group.kind, [Path(one.path).name for one in group.members]) for group in groups]


def test_files_decide_what_vectors_only_suggest(gallery, tmp_path):
    """All vectors are the same: the model cannot tell these people apart, and their files can."""
    one = picture(tmp_path / "one.png", 1)
    copy = tmp_path / "copy.png"
    shutil.copyfile(one, copy)
    os.utime(copy, (1, 1))  # the oldest
    poor = picture(tmp_path / "poor.jpg", 1, quality=40)
    small = picture(tmp_path / "small.jpg", 1, size=(32, 64))
    other, twin = picture(tmp_path / "other.jpg", 2), tmp_path / "twin.jpg"
    shutil.copyfile(other, twin)
    os.utime(other, (5, 5))
    third = picture(tmp_path / "third.jpg", 3)
    paths = [one, copy, poor, small, other, twin, third]
    put(gallery, paths, np.tile(units(np.random.default_rng(0), 1), (7, 1)))
    groups = find_duplicates(gallery)
    assert shown(groups) == [
        ("similar", ["copy.png", "one.png", "poor.jpg", "small.jpg"]),
        ("identical", ["other.jpg", "twin.jpg"]),
    ]
    assert [m.same_bytes for m in groups[0].members] == [True, True, False, False]
    assert (groups[0].members[3].width, groups[0].members[3].height) == (32, 64)
    assert all(path.exists() for path in paths)
    only = [Condition("key", "=", ("one.png", "poor.jpg"))]
    assert shown(find_duplicates(gallery, where=only)) == [("similar", ["one.png", "poor.jpg"])]


def test_vectors_that_are_far_apart_are_not_looked_at(gallery, tmp_path):
    paths = [picture(tmp_path / "a.png", 1), picture(tmp_path / "b.png", 1)]
    vectors = np.zeros((2, MODEL.dim), np.float32)
    vectors[0, 0] = 1
    vectors[1, :2] = 0.8, 0.6
    put(gallery, paths, vectors)
    assert find_duplicates(gallery) == []
    assert shown(find_duplicates(gallery, 0.75)) == [("identical", ["a.png", "b.png"])]


def test_a_file_that_is_there_twice_is_one_file(gallery, tmp_path):
    real = picture(tmp_path / "real.png", 1)
    (tmp_path / "link.png").symlink_to(real)
    put(gallery, [real, tmp_path / "link.png"], np.tile(units(np.random.default_rng(0), 1), (2, 1)))
    assert find_duplicates(gallery) == []
    shutil.copyfile(real, tmp_path / "copy.png")
    put(gallery, [tmp_path / "copy.png"], units(np.random.default_rng(0), 1))
    (group,) = find_duplicates(gallery)
    assert len(group.members) == 2
    assert len({os.path.realpath(one.path) for one in group.members}) == 2


def test_files_that_cannot_be_read_are_unconfirmed_and_not_kept(gallery, tmp_path):
    there = picture(tmp_path / "there.png", 1)
    gone = [tmp_path / "gone.png", tmp_path / "gone too.png"]
    row = units(np.random.default_rng(0), 1)
    put(gallery, gone, np.tile(row, (2, 1)))
    assert shown(find_duplicates(gallery)) == [("unconfirmed", ["gone too.png", "gone.png"])]
    put(gallery, [there], row)
    assert shown(find_duplicates(gallery)) == [("unconfirmed", ["gone too.png", "gone.png"])]  # another size


def test_blank_pictures_are_told_apart_by_their_colour(gallery, tmp_path):
    paths = [tmp_path / name for name in ("black.png", "nearly.png", "white.png")]
    for path, grey in zip(paths, (0, 1, 255)):
        Image.new("RGB", (20, 20), (grey, grey, grey)).save(path)
    put(gallery, paths, np.tile(units(np.random.default_rng(0), 1), (3, 1)))
    ((_, names),) = shown(find_duplicates(gallery))
    assert sorted(names) == ["black.png", "nearly.png"]


def test_an_empty_gallery_has_none(gallery):
    assert find_duplicates(gallery) == []


@pytest.mark.parametrize("named", [True, False])
def test_people_before_one_camera_are_not_one_picture(gallery, tmp_path, named):
    """Frames of one camera agree nearly everywhere: what counts is where they do not."""
    scene = np.random.default_rng(5).integers(0, 256, (16, 28, 3), dtype=np.uint8)
    people = np.random.default_rng(6).integers(40, 215, (4, 8, 4, 3), dtype=np.uint8)
    row = units(np.random.default_rng(0), 1)
    paths = []
    for number, person in enumerate(people):
        frame = Image.fromarray(scene).resize((640, 360), Image.Resampling.BICUBIC)
        frame.paste(Image.fromarray(person).resize((40, 100), Image.Resampling.BICUBIC), (300, 150))
        paths.append(tmp_path / f"{number}.jpg")
        frame.save(paths[-1], quality=92)
        put(gallery, paths[-1:], row, **({"identity": f"id{number}"} if named else {}))
    assert find_duplicates(gallery) == []
    again = tmp_path / "again.jpg"
    Image.open(paths[0]).resize((320, 180)).save(again, quality=40)
    put(gallery, [again], row, **({"identity": "id0"} if named else {}))
    assert shown(find_duplicates(gallery)) == [("similar", ["0.jpg", "again.jpg"])]


def test_two_names_for_the_same_bytes_are_one_picture_and_for_like_ones_two(gallery, tmp_path):
    first = picture(tmp_path / "a.jpg", 1)
    shutil.copyfile(first, tmp_path / "b.jpg")
    Image.open(first).save(tmp_path / "c.jpg", quality=80)
    for name in "abc":
        put(gallery, [tmp_path / f"{name}.jpg"], units(np.random.default_rng(0), 1), identity=name)
    assert shown(find_duplicates(gallery)) == [("identical", ["a.jpg", "b.jpg"])]


@pytest.mark.parametrize("vectors", ["float32", "float16"])
def test_copies_are_found_at_a_threshold_of_one(tmp_path, vectors):
    paths = [picture(tmp_path / f"{n}.png", n) for n in range(8)]
    copies = [Path(shutil.copyfile(path, tmp_path / f"{path.stem}c.png")) for path in paths]
    rows = units(np.random.default_rng(3), 8)
    with open_gallery(tmp_path / "s", model=MODEL, create=True, mode="w", storage=Storage(vectors)) as gallery:
        put(gallery, [*paths, *copies], np.concatenate((rows, rows)))
        assert len(find_duplicates(gallery, 1.0)) == 8
