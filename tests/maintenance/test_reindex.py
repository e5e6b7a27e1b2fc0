"""Re-indexing: killed and continued, with searches and ingests at the same time, checked before it counts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from fakes import MODEL, ColourEmbedder, write_image, write_market
from reindex_process import MIRRORED, MirroredEmbedder
from soundness import verify_vectors

from ingest.pipeline import run_ingest
from siamese_search.errors import DataError, GalleryReplacedError, StoreBusyError, StoreError
from siamese_search.gallery import open_gallery, open_store
from siamese_search.gallery.contract import Generations
from siamese_search.io.images import read_image
from siamese_search.maintenance import reindex as module
from siamese_search.maintenance.reindex import run_reindex

TESTS = Path(__file__).resolve().parents[1]
IMAGES = 240


@pytest.fixture
def images(tmp_path):
    root = tmp_path / "images"
    assert len(write_market(root, identities=IMAGES // 4)) == IMAGES
    return root


@pytest.fixture
def store(images, tmp_path):
    """A store whose gallery ``default`` holds the images, as the first model sees them."""
    ingest(images, tmp_path / "store")
    return tmp_path / "store"


def ingest(root, store, embedder=None, model=MODEL):
    with open_gallery(store, model=model, create=True, mode="w") as gallery:
        return run_ingest([root], gallery, embedder or ColourEmbedder())


def reindex(store, embedder=None, **options):
    with open_store(store) as opened:
        return run_reindex(opened, "default", MIRRORED, embedder or MirroredEmbedder(), **options)


def start(command, store, argument):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS / "support"), str(TESTS.parent)])}
    line = [sys.executable, TESTS / "support/reindex_process.py", command, store, argument]
    return subprocess.Popen(
        list(map(str, line)), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_batches(process, number):
    """Until this many batches are begun; all but the last two of them are stored then."""
    for _ in range(number):
        assert process.stdout.readline() == "batch\n"


def finish(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def generations(store):
    with open_store(store) as opened:
        return opened.generations("default")


def stored(store):
    """(model, payload less crc by id); every vector is what that model makes of that file, checksum and all."""
    with open_gallery(store) as gallery:
        assert verify_vectors(gallery).damaged == ()
        points = list(gallery.scroll(with_vectors=True))
        model = gallery.model
    embedder = {MODEL.fingerprint: ColourEmbedder(), MIRRORED.fingerprint: MirroredEmbedder()}[model.fingerprint]
    paths = [Path(point.payload["path"]) for point in points]
    expected = embedder.embed(np.stack([read_image(path, (16, 8)) for path in paths]))
    assert np.array_equal(expected, np.stack([point.vector for point in points]))
    return model, {p.id: {k: v for k, v in p.payload.items() if k != "crc"} for p in points}


def test_killed_at_any_moment_the_same_command_goes_on(store):
    _, before = stored(store)
    seen = 0
    for seconds in (0.01, 0.04):
        process = start("reindex", store, 0.05)
        wait_for_batches(process, 4)
        time.sleep(seconds)
        process.kill()
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        assert generations(store) == Generations(MODEL, None, MIRRORED)
        assert stored(store) == (MODEL, before)
        with open_store(store) as opened, opened.build("default", MIRRORED) as fresh:
            assert seen < fresh.count() < IMAGES
            seen = fresh.count()
    summary = finish(start("reindex", store, 0))
    assert (summary["images"], summary["embedded"], summary["dropped"]) == (IMAGES, IMAGES - seen, [])
    assert stored(store) == (MIRRORED, before)
    assert generations(store) == Generations(MIRRORED, MODEL)


def test_interrupted_the_same_command_goes_on(store):
    process = start("reindex", store, 0.05)
    wait_for_batches(process, 2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert stored(store)[0] == MODEL
    summary = finish(start("reindex", store, 0))
    assert 0 < summary["embedded"] <= IMAGES
    assert stored(store)[0] == MIRRORED


def test_every_search_is_answered_wholly_from_one_generation(store):
    searching = start("search", store, IMAGES)
    assert searching.stdout.readline() == f"{MODEL.fingerprint}\n"
    summary = finish(start("reindex", store, 0.02))
    assert summary["embedded"] == IMAGES
    answers = []
    while not answers or answers[-1] != MIRRORED.fingerprint:
        answers.append(searching.stdout.readline().strip())
    with open_store(store) as opened:
        assert opened.rollback("default") == MODEL
        assert opened.drop_old("default") == 1  # under its feet
    while answers[-1] != MODEL.fingerprint:
        answers.append(searching.stdout.readline().strip())
    assert searching.poll() is None
    searching.kill()
    rest, err = searching.communicate(timeout=60)
    assert err == ""
    answers += rest.split()
    assert answers[0] == MODEL.fingerprint
    # Old, new, old again: never back and forth.
    kinds = [one for one, before in zip(answers, [None, *answers]) if one != before and one != "replaced"]
    assert kinds[:3] == [MODEL.fingerprint, MIRRORED.fingerprint, MODEL.fingerprint]


class During(MirroredEmbedder):
    """Lets something happen while the first batch is embedded."""

    def __init__(self, what):
        super().__init__()
        self.what = what

    def embed(self, images):
        if not self.batches:
            self.what()
        return super().embed(images)


def test_what_is_ingested_changed_and_deleted_meanwhile_is_brought_over(store, images):
    names = sorted(path.name for path in images.iterdir())
    gone, changed, relabelled = names[0], names[-1], names[7]

    def meanwhile():
        for i in range(3):
            write_image(images / f"0900_c1s1_{i:06d}_01.jpg")
        write_image(images / changed, seed="other pixels")
        os.utime(images / changed, ns=(1, 1))
        ingest(images, store)
        with open_gallery(store, mode="w") as gallery:
            points = {point.payload["key"]: point for point in gallery.scroll(with_vectors=True)}
            gallery.delete([points[gone].id])
            point = points[relabelled]
            gallery.upsert([point.id], point.vector[None], [{**point.payload, "identity": "renamed"}])

    summary = reindex(store, During(meanwhile), batch_size=16)
    assert summary.images == IMAGES + 3 - 1
    model, points = stored(store)
    assert model == MIRRORED
    by_key = {payload["key"]: payload for payload in points.values()}
    assert set(by_key) == {*names, *(f"0900_c1s1_{i:06d}_01.jpg" for i in range(3))} - {gone}
    assert by_key[relabelled]["identity"] == "renamed"
    assert by_key[changed]["mtime_ns"] == 1


def test_the_last_moment_counts_too(store, images, monkeypatch):
    """Ingested after the last look and before the swap: the pass under the lock finds it."""
    check = module._Reindex.check

    def check_and_ingest(run):
        check(run)
        write_image(images / "0900_c1s1_000000_01.jpg")
        ingest(images, store)

    monkeypatch.setattr(module._Reindex, "check", check_and_ingest)
    assert reindex(store).images == IMAGES + 1
    assert len(stored(store)[1]) == IMAGES + 1


def test_an_ingest_that_runs_into_the_swap_is_told_and_goes_on_with_the_new_model(store, images):
    for i in range(8):
        write_image(images / f"0901_c1s1_{i:06d}_01.jpg")

    class Slow(ColourEmbedder):
        def embed(self, pixels):
            if not self.batches:
                reindex(store)
            return super().embed(pixels)

    with pytest.raises(GalleryReplacedError, match="run the command again"):
        ingest(images, store, Slow())
    summary = ingest(images, store, MirroredEmbedder(), MIRRORED)
    assert (summary.new, summary.unchanged) == (8, IMAGES)
    assert len(stored(store)[1]) == IMAGES + 8


def test_one_reindex_at_a_time(store):
    def another():
        with pytest.raises(StoreBusyError, match=f"process {os.getpid()}"):
            reindex(store, wait=0.1)

    assert reindex(store, During(another)).images == IMAGES


def test_missing_files_stop_it_or_are_left_out(store, images):
    gone = sorted(images.iterdir())[:2]
    for path in gone:
        path.unlink()
    with pytest.raises(DataError, match=r"no such file: nothing was changed.*--drop-missing"):
        reindex(store)
    assert generations(store).current == MODEL
    summary = reindex(store, drop_missing=True)
    assert summary.images == IMAGES - 2
    assert sorted(failure.path for failure in summary.dropped) == sorted(map(str, gone))
    with open_store(store) as opened:
        opened.rollback("default")
    with open_gallery(store) as gallery:
        assert gallery.count() == IMAGES  # nothing is lost before --drop-old


def test_a_file_that_went_after_it_was_embedded_stays(store, images):
    """It was read in time; only what has to be read again can be missing."""
    stop = threading.Event()
    with pytest.raises(KeyboardInterrupt):
        reindex(store, During(stop.set), batch_size=16, stop=stop)
    with open_store(store) as opened, opened.build("default", MIRRORED) as fresh:
        done = [Path(point.payload["path"]) for point in fresh.scroll()]
    done[0].unlink()
    summary = reindex(store, drop_missing=True)
    assert (summary.images, summary.dropped) == (IMAGES, [])


def test_not_one_image_left(store, images):
    for path in images.iterdir():
        path.unlink()
    with pytest.raises(DataError, match=rf"none of {IMAGES} images.*nothing was changed"):
        reindex(store, drop_missing=True)
    assert generations(store) == Generations(MODEL, None, MIRRORED)


def test_an_empty_gallery(tmp_path):
    with open_gallery(tmp_path / "store", model=MODEL, create=True, mode="w"):
        pass
    summary = reindex(tmp_path / "store")
    assert (summary.images, summary.recall, summary.to_json()["recall"]) == (0, None, None)
    assert generations(tmp_path / "store") == Generations(MIRRORED, MODEL)


def test_a_vector_that_is_not_finite_is_as_an_image_that_cannot_be_read(store):
    class Broken(MirroredEmbedder):
        def embed(self, images):
            rows = super().embed(images)
            if len(self.batches) == 2:
                rows[3, 5] = np.nan
            return rows

    with pytest.raises(DataError, match="not finite"):
        reindex(store, Broken(), batch_size=50)
    summary = reindex(store, Broken(), batch_size=50, drop_missing=True)
    assert summary.images == IMAGES - len(summary.dropped)


@pytest.mark.parametrize(
    ("fault", "words"),
    [("recall", r"its index finds 50\.0%.*nearest neighbours"), ("self", "is not itself"), ("count", "should have")],
)
def test_a_failed_check_publishes_nothing_and_says_so(store, monkeypatch, fault, words):
    before = stored(store)
    if fault == "recall":
        monkeypatch.setattr(module, "sampled_recall", lambda _gallery: 0.5)
    elif fault == "self":
        # Vectors that do not belong to their points' ids: what a store that mixes them up would hold.
        from siamese_search.gallery.edge.gallery import EmbeddedGallery

        query = EmbeddedGallery.query_batch
        monkeypatch.setattr(EmbeddedGallery, "query_batch", lambda self, rows, k, **how: query(self, -rows, k, **how))
    else:
        bring_over = module._Reindex.bring_over

        def lose_one(run, source):
            changed = bring_over(run, source)
            run.fresh.delete([next(run.fresh.scroll()).id])
            return 0 if changed == 1 else changed

        monkeypatch.setattr(module._Reindex, "bring_over", lose_one)
    with pytest.raises(StoreError, match=f"nothing was published.*{words}"):
        reindex(store)
    monkeypatch.undo()
    assert generations(store).current == MODEL
    assert stored(store) == before
    assert reindex(store).images == IMAGES


def test_progress_goes_up_to_the_number_of_images(store):
    moments = []
    reindex(store, batch_size=16, progress=lambda done, total: moments.append((done, total)))
    assert moments == sorted(moments)
    assert moments[-1] == (IMAGES, IMAGES)


def test_stopped_between_two_batches(store):
    stop = threading.Event()
    with pytest.raises(KeyboardInterrupt):
        reindex(store, During(stop.set), batch_size=16, stop=stop)
    with open_store(store) as opened, opened.build("default", MIRRORED) as fresh:
        assert 0 < fresh.count() < IMAGES


def test_searches_wait_for_no_comparison_where_nobody_wrote(store, monkeypatch):
    passes = []
    bring_over = module._Reindex.bring_over
    monkeypatch.setattr(module._Reindex, "bring_over", lambda run, source: passes.append(1) or bring_over(run, source))
    reindex(store)
    assert len(passes) == 2  # the work, and a look whether anything was written meanwhile
    assert len(stored(store)[1]) == IMAGES
