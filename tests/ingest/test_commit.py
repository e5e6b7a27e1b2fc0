"""Commits overlap embedding, are bounded, and one bad row costs one image."""

import threading
import time

import numpy as np
import pytest
from fakes import ColourEmbedder, MemoryGallery, write_image, write_market

from ingest import stages
from ingest.pipeline import run_ingest
from ingest.stages import Committer, Tally
from ingest.summary import IngestSummary
from siamese_search.gallery.engine import serial


def test_the_next_images_are_embedded_while_a_commit_lasts(tmp_path, monkeypatch):
    write_market(tmp_path, identities=6)
    monkeypatch.setattr(stages, "COMMIT_POINTS", 4)
    went_on = threading.Event()

    class Slow(MemoryGallery):
        def upsert(self, ids, vectors, payloads):
            assert self.upserts or went_on.wait(30), "nothing was embedded during the first commit"
            super().upsert(ids, vectors, payloads)

    class Watched(ColourEmbedder):
        def embed(self, images):
            if len(self.batches) == 2:
                went_on.set()
            return super().embed(images)

    assert run_ingest([tmp_path], Slow(), Watched(), batch_size=4).new == 24


def test_a_gallery_that_hangs_stops_the_embedder_after_a_few_batches(tmp_path, monkeypatch):
    write_market(tmp_path, identities=20)
    monkeypatch.setattr(stages, "COMMIT_POINTS", 4)
    embedder = ColourEmbedder()
    seen = []

    class Hanging(MemoryGallery):
        def upsert(self, ids, vectors, payloads):
            if not self.upserts:
                before = -1
                while before != len(embedder.batches):  # until nothing moves any more
                    before = len(embedder.batches)
                    time.sleep(0.3)
                seen.append(before)
            super().upsert(ids, vectors, payloads)

    assert run_ingest([tmp_path], Hanging(), embedder, batch_size=4).new == 80
    # One in the thread's hands, those that wait for it, and the one that found the queue full.
    assert seen == [1 + stages._AHEAD + 1]


def test_the_gallery_is_asked_one_thing_at_a_time(tmp_path, monkeypatch, embedder):
    monkeypatch.setattr("ingest.scan.CHUNK", 4)
    monkeypatch.setattr(stages, "COMMIT_POINTS", 4)
    write_market(tmp_path, identities=15)
    inside = threading.Lock()

    def alone(method):
        def call(self, *arguments, **options):
            assert inside.acquire(blocking=False), "two calls at once"
            try:
                time.sleep(0.002)
                return getattr(MemoryGallery, method)(self, *arguments, **options)
            finally:
                inside.release()

        return call

    checked = type("Checked", (MemoryGallery,), {name: alone(name) for name in ("upsert", "retrieve", "flush")})
    gallery = checked()
    assert run_ingest([tmp_path], gallery, embedder, batch_size=4).new == 60
    assert len(gallery.points) == 60


def test_one_at_a_time_shows_the_same_gallery(gallery):
    shared = serial(gallery)
    assert (shared.name, shared.model, shared.dim) == (gallery.name, gallery.model, gallery.dim)
    assert shared.count() == 0


def test_a_row_that_the_gallery_refuses_fails_its_image_only(tmp_path, gallery):
    paths = write_market(tmp_path)

    class Long(ColourEmbedder):
        def embed(self, images):
            vectors = super().embed(images)
            vectors[2] *= 2
            return vectors

    summary = run_ingest([tmp_path], gallery, Long())
    assert (summary.new, summary.failed) == (11, 1)
    assert summary.failures[0].path == str(paths[2])
    assert summary.failures[0].reason == "cannot be stored: not of unit length"
    assert len(gallery.points) == 11


def test_a_small_commit_is_made_when_its_time_has_come(tmp_path, gallery, embedder, monkeypatch):
    """However slow the embedder is: what it has done is in the gallery soon."""
    monkeypatch.setattr(stages, "COMMIT_SECONDS", 0.05)
    for number in range(3):
        write_image(tmp_path / f"{number}.png")

    class Waiting(ColourEmbedder):
        def embed(self, images):
            deadline = time.monotonic() + 30
            while len(gallery.points) < len(self.batches):
                assert time.monotonic() < deadline, "the batches before this one were not committed"
                time.sleep(0.01)
            return super().embed(images)

    assert run_ingest([tmp_path], gallery, Waiting(), batch_size=1).new == 3


@pytest.mark.parametrize(("error", "kept"), [(RuntimeError, 3), (KeyboardInterrupt, 0)])
def test_what_was_embedded_before_an_error_is_paid_for(gallery, embedder, tmp_path, error, kept):
    """A person who presses Ctrl-C twice will not wait for it, though."""
    from ingest.plan import payload_of
    from ingest.scan import PlannedFile, scan_files, survey_roots
    from siamese_search.datasets.records import point_id

    for number in range(3):
        write_image(tmp_path / f"{number}.png")
    ((*scanned,),) = scan_files(survey_roots([tmp_path]))
    files = [PlannedFile("new", point_id(one.source, one.record.key), one, payload_of(one)) for one in scanned]
    vectors = embedder.embed(np.random.default_rng(1).integers(0, 256, (3, 16, 8, 3), dtype=np.uint8))
    tally = Tally(IngestSummary("default", "memory", "colours"), None, None)
    with pytest.raises(error), Committer(gallery, tally) as committer:  # noqa: PT012
        committer.put(files, vectors)
        raise error
    assert len(gallery.points) == kept
