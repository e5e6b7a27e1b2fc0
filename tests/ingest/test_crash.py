"""Never lost, never doubled: real processes, killed and interrupted, on the real store."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fakes import MODEL, ColourEmbedder, MemoryGallery, write_market
from soundness import verify_vectors

from ingest.pipeline import run_ingest
from siamese_search.gallery import open_gallery

TESTS = Path(__file__).resolve().parents[1]
IMAGES = 400


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    assert len(write_market(root, identities=IMAGES // 4)) == IMAGES
    return root


@pytest.fixture(scope="module")
def expected(images):
    """What an uninterrupted ingest makes of them."""
    gallery = MemoryGallery()
    run_ingest([images], gallery, ColourEmbedder())
    return {i: (vector.tobytes(), payload) for i, (vector, payload) in gallery.points.items()}


def start(root, store, seconds_per_batch, wait=60):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS / "support"), str(TESTS.parent)])}
    command = [sys.executable, str(TESTS / "support/ingest_process.py"), root, store, seconds_per_batch, wait]
    return subprocess.Popen(
        list(map(str, command)), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode in (0, 130), err
    return json.loads(out.splitlines()[-1])


def stored(store):
    with open_gallery(store, model=MODEL) as gallery:
        assert verify_vectors(gallery).damaged == ()
        points = list(gallery.scroll(with_vectors=True))
    assert len({point.id for point in points}) == len(points)
    return {point.id: (point.vector.tobytes(), point.payload) for point in points}


def test_killed_at_any_moment_the_next_runs_end_in_the_same_gallery(images, expected, tmp_path):
    moments = random.Random(20)
    kept = 0
    for _ in range(5):
        process = start(images, tmp_path / "store", 0.04)
        process.stdout.readline()
        time.sleep(moments.uniform(0.0, 0.3))
        process.kill()
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        points = stored(tmp_path / "store")
        assert points.items() <= expected.items()  # nothing wrong, whatever is there
        assert len(points) >= kept  # and nothing lost of what was there before
        kept = len(points)
    assert 0 < kept < IMAGES
    summary = finish(start(images, tmp_path / "store", 0))
    assert (summary["new"], summary["unchanged"], summary["failed"]) == (IMAGES - kept, kept, [])
    assert stored(tmp_path / "store") == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_what_is_done_and_the_next_run_goes_on(images, expected, tmp_path, number):
    process = start(images, tmp_path / "store", 0.05)
    process.stdout.readline()
    time.sleep(0.3)
    process.send_signal(number)
    summary = finish(process)
    assert process.returncode == 130
    assert summary["interrupted"]
    points = stored(tmp_path / "store")
    assert 0 < len(points) == summary["new"] < IMAGES
    assert points.items() <= expected.items()
    summary = finish(start(images, tmp_path / "store", 0))
    assert (summary["new"], summary["unchanged"]) == (IMAGES - len(points), len(points))
    assert stored(tmp_path / "store") == expected


def test_a_search_is_answered_while_an_ingest_runs(images, expected, tmp_path):
    process = start(images, tmp_path / "store", 0.3)
    process.stdout.readline()
    answered = 0
    while process.poll() is None and answered < 3:
        with open_gallery(tmp_path / "store", model=MODEL, wait=30) as gallery:
            if gallery.count():
                gallery.query(ColourEmbedder().embed(_one_image())[0], 3)
                answered += 1
        time.sleep(0.05)
    summary = finish(process)
    assert answered == 3
    assert summary["new"] == IMAGES
    assert stored(tmp_path / "store") == expected


def test_two_ingests_into_one_gallery_take_turns(images, expected, tmp_path):
    """They do the same work twice, and what is there in the end is what one would have made."""
    processes = [start(images, tmp_path / "store", 0.02) for _ in range(2)]
    summaries = [finish(process) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    for summary in summaries:
        assert summary["new"] + summary["unchanged"] + summary["changed"] == IMAGES
    assert stored(tmp_path / "store") == expected


def test_an_ingest_that_cannot_have_its_turn_says_who_holds_the_gallery(images, tmp_path):
    with open_gallery(tmp_path / "store", model=MODEL, create=True, mode="w") as gallery, gallery.alone():
        process = start(images, tmp_path / "store", 0, wait=0.5)
        _, complaint = process.communicate(timeout=60)
    assert process.returncode == 1
    message = complaint.splitlines()[-1]
    assert "is busy: held by process" in message
    assert str(os.getpid()) in message


def _one_image():
    import numpy as np

    return np.random.default_rng(0).integers(0, 256, (1, 16, 8, 3), dtype=np.uint8)
