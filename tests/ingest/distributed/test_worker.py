"""A worker's unit of work, without a cluster: the same stages, so the same points as in one process."""

import threading

import pytest
from fakes import ColourEmbedder, MemoryGallery, write_market

from ingest.distributed.worker import BundleCopy, Job, Outcome, bundle_files, pack_work, run_unit, unpack_work, unpacked
from ingest.pipeline import run_ingest
from ingest.plan import plan_files
from ingest.scan import scan_files, survey_roots
from siamese_search.errors import BundleError
from siamese_search.model.bundle import load_bundle


@pytest.fixture
def images(tmp_path):
    files = write_market(tmp_path / "images", identities=5)
    files[3].write_bytes(b"")
    files[7].write_bytes(files[7].read_bytes()[:100])
    return tmp_path / "images"


def job(**changes):
    return Job(
        **{
            "bundle": BundleCopy("", "", None),
            "device": "cpu",
            "threads": 1,
            "decode_threads": 2,
            "batch_size": 3,
            "places": (),
            "target": None,
            **changes,
        }
    )


def unit_of(images, gallery):
    (chunk,) = scan_files(survey_roots([images]))
    return plan_files(chunk, gallery)


def test_the_vectors_that_return_are_those_of_one_process(images):
    expected = MemoryGallery()
    summary = run_ingest([images], expected, ColourEmbedder())
    planned = unit_of(images, MemoryGallery())
    outcome = Outcome(0)
    work = unpack_work(pack_work(planned, whole=False))
    run_unit(work, outcome, ColourEmbedder(), job(), None, threading.Event())
    assert outcome.complete
    assert outcome.counts == {"embedded": 18, "new": 0, "changed": 0, "unchanged": 0}
    assert len(outcome.rows) == 18
    for row, vector in zip(outcome.rows, outcome.vectors, strict=True):
        assert vector.tobytes() == expected.points[planned[row].id][0].tobytes()
    assert sorted(reason for _, reason in outcome.failures) == sorted(f.reason for f in summary.failures)
    assert {path for path, _ in outcome.failures} == {f.path for f in summary.failures}
    assert outcome.seconds["embed"] > 0


def test_a_worker_that_stores_leaves_the_gallery_of_one_process(images):
    expected, gallery = MemoryGallery(), MemoryGallery()
    run_ingest([images], expected, ColourEmbedder())
    outcome = Outcome(0)
    work = unpack_work(pack_work(unit_of(images, gallery), whole=True))
    run_unit(work, outcome, ColourEmbedder(), job(), gallery, threading.Event())
    assert outcome.counts == {"embedded": 18, "new": 18, "changed": 0, "unchanged": 0}
    assert len(outcome.failures) == 2
    assert outcome.vectors is None
    assert outcome.rows == []
    assert gallery.points.keys() == expected.points.keys()
    for identifier, (vector, payload) in gallery.points.items():
        assert vector.tobytes() == expected.points[identifier][0].tobytes()
        assert payload == expected.points[identifier][1]


def test_stopped_it_keeps_the_batch_in_hand(images):
    class StopsAfter:
        looks = 0

        def is_set(self):
            self.looks += 1
            return self.looks > 9

    outcome = Outcome(0)
    work = unpack_work(pack_work(unit_of(images, MemoryGallery()), whole=False))
    run_unit(work, outcome, ColourEmbedder(), job(), None, StopsAfter())
    assert not outcome.complete
    assert 0 < len(outcome.rows) == len(outcome.vectors) < 18


def test_the_bundle_is_taken_where_it_is_and_copied_where_it_is_not(tiny_bundle, tmp_path):
    files = bundle_files(tiny_bundle)
    here = BundleCopy(str(tiny_bundle.path), tiny_bundle.fingerprint, "ref")
    assert unpacked(here, pytest.fail).path == tiny_bundle.path
    for path in (str(tmp_path / "nowhere"), str(load_bundle(None).path)):  # missing; another model
        copy = unpacked(BundleCopy(path, tiny_bundle.fingerprint, "ref"), {"ref": files}.get)
        assert copy.fingerprint == tiny_bundle.fingerprint
        assert copy.read_checked("model.onnx") == files["model.onnx"]


def test_a_damaged_copy_is_no_bundle(tiny_bundle, tmp_path):
    files = {name: content[:-1] for name, content in bundle_files(tiny_bundle).items()}
    with pytest.raises(BundleError):
        unpacked(BundleCopy(str(tmp_path / "nowhere"), tiny_bundle.fingerprint, "ref"), {"ref": files}.get)
