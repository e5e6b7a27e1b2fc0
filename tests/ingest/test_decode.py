"""embed_files: each file as the scan saw it, or named with its reason; and an ingest of a thousand damaged ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from damaged import DAMAGE, damaged_files, good_images, write_damaged
from fakes import ColourEmbedder, MemoryGallery, write_image

from ingest.pipeline import run_ingest
from ingest.plan import plan_files
from ingest.scan import scan_files, survey_roots
from ingest.stages import Tally, embed_files
from ingest.summary import IngestSummary
from siamese_search.io.images import read_image
from siamese_search.io.location import CHANGED

SUPPORT = Path(__file__).resolve().parents[1] / "support"
SIZE = ColourEmbedder.input_size


@pytest.fixture
def planned(tmp_path, gallery):
    """Ten files, scanned and planned."""
    for number in range(10):
        write_image(tmp_path / f"{number}.png")
    (chunk,) = scan_files(survey_roots([tmp_path], "flat"))
    return plan_files(chunk, gallery)


class Kept:
    """A sink; and what came of the batch beside it."""

    def __init__(self, planned):
        self.files, self.vectors = [], []
        summary = IngestSummary("default", "memory", "colours")
        tally = Tally(summary, None, None)
        assert embed_files([planned], ColourEmbedder(), self.put, tally, threads=2, stop=threading.Event())
        self.failures, self.seconds = summary.failures, tally.clock.seconds()

    def put(self, files, vectors):
        self.files += files
        self.vectors += list(vectors)


def embedded(files):
    return [ColourEmbedder().embed(read_image(path_of(file), SIZE)[None])[0] for file in files]


def path_of(file):
    return file.scanned.record.path


def test_a_batch_is_its_files_in_order(planned):
    batch = Kept(planned)
    assert batch.files == planned
    assert batch.failures == []
    assert batch.seconds["decode"] > 0
    assert batch.seconds["embed"] > 0
    np.testing.assert_array_equal(batch.vectors, embedded(planned))


def rewritten(path):
    write_image(path, seed="another picture, of another size in bytes", size=(40, 40))


def touched(path):
    os.utime(path, ns=(1, 1))


def emptied(path):
    os.truncate(path, 0)


def removed(path):
    path.unlink()


def replaced_by_a_pipe(path):
    path.unlink()
    os.mkfifo(path)


def replaced_by_a_directory(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("happens", "reason"),
    [
        (rewritten, CHANGED),
        (touched, CHANGED),
        (emptied, CHANGED),
        (removed, "no such file"),
        (replaced_by_a_pipe, "not a regular file"),
        (replaced_by_a_directory, "not a regular file"),
    ],
)
def test_what_happens_to_a_file_after_the_scan_is_named_and_costs_no_other(planned, happens, reason):
    happens(path_of(planned[4]))
    batch = Kept(planned)
    assert [(one.path, one.reason) for one in batch.failures] == [(str(path_of(planned[4])), reason)]
    assert batch.files == planned[:4] + planned[5:]
    np.testing.assert_array_equal(batch.vectors, embedded(batch.files))


def test_a_file_that_changes_during_an_ingest_is_not_stored_and_the_next_run_takes_it(tmp_path):
    paths = [write_image(tmp_path / f"{number}.png") for number in range(10)]
    gallery, embedder = MemoryGallery(), ColourEmbedder()
    embed = embedder.embed

    def meddling(images):
        if not embedder.batches:  # one file at a time: the others are not decoded yet, or three at most are
            write_image(paths[9], seed="written meanwhile")
        return embed(images)

    embedder.embed = meddling
    summary = run_ingest([tmp_path], gallery, embedder, layout="flat", batch_size=1)
    assert [(failure.path, failure.reason) for failure in summary.failures] == [(str(paths[9]), CHANGED)]
    assert len(gallery.points) == 9
    assert run_ingest([tmp_path], gallery, embedder, layout="flat").new == 1
    (vector,) = [vector for vector, payload in gallery.points.values() if payload["key"] == "9.png"]
    np.testing.assert_array_equal(vector, embed(read_image(paths[9], SIZE)[None])[0])


# -- a thousand damaged files ---------------------------------------------------------------------------------


def test_the_fuzzer_gives_the_same_files_for_the_same_seed():
    first = list(damaged_files(300, seed=1))
    good_images.cache_clear()
    assert list(damaged_files(300, seed=1)) == first
    other = list(damaged_files(300, seed=2))
    assert sum(one.data != two.data for one, two in zip(first, other)) > 200


def test_the_images_that_the_fuzzer_starts_from_are_good(tmp_path):
    for name, data in good_images().items():
        path = tmp_path / name
        path.write_bytes(data)
        assert read_image(path, SIZE).shape == (*SIZE, 3), name


def test_a_corpus_of_damaged_files_is_ingested_without_a_crash_and_every_failure_named(tmp_path):
    """In a process of its own: a decoder that crashed would end it by a signal, one that hung by the time-out."""
    root = tmp_path / "images"
    written = {path.name for path in write_damaged(root, count=1150)}
    sound = {f"good {name}": data for name, data in good_images().items()}
    for name, data in sound.items():
        (root / name).write_bytes(data)
    named = {name.encode(): b"no picture" for name in ("two\nlines.jpg", "tab\tand \x1b[31mred.png")}
    named |= {b"caf\xe9 \xff.gif": b"GIF89a"}
    for name, data in named.items():
        Path(os.fsdecode(os.fsencode(root) + b"/" + name)).write_bytes(data)
    result = subprocess.run(
        [sys.executable, str(SUPPORT / "damaged_ingest.py"), str(root)],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=SUPPORT.parents[1],
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stderr == ""  # libtiff would print, and Pillow would warn
    answer = json.loads(result.stdout)
    total = len(written) + len(sound) + len(named)
    points, failures = answer["points"], dict(answer["failures"])
    assert answer["seen"] == total
    assert answer["failed"] == len(failures)
    assert len(points) + len(failures) == total
    for path, reason in failures.items():
        assert reason
        assert reason.isprintable()
        assert Path(path).name not in points
    embedder = ColourEmbedder()
    for name in sound:
        expected = embedder.embed(read_image(root / name, SIZE)[None])[0]
        np.testing.assert_array_equal(np.asarray(points[name], np.float32), expected, name)
    assert sum(name in points for name in written) > 300
    for damage in DAMAGE:  # the content decides what a file is, not its name
        assert any(damage in path for path in failures) is (damage != "wrong extension"), damage
