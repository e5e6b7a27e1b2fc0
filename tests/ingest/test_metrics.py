import socket
import urllib.request

import numpy as np
import pytest
from fakes import ColourEmbedder, MemoryGallery
from prometheus_client.parser import text_string_to_metric_families

from ingest.metrics import RESULTS, STORE_CALLS, Metrics
from ingest.summary import IngestSummary, Progress
from siamese_search.errors import UsageError
from siamese_search.model.embedder import begin


def scrape(port):
    """Sample name with its labels -> value."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def metrics():
    return Metrics()


def test_everything_is_there_from_the_first_scrape_on(metrics):
    found = scrape(metrics.serve(0, "127.0.0.1"))
    assert {("sss_ingest_images_total", result): 0.0 for result in RESULTS}.items() <= found.items()
    assert found["sss_ingest_batch_seconds_count",] == 0
    assert found["process_resident_memory_bytes",] > 0


def test_counts_add_up_and_stages_are_counted_once(metrics):
    port = metrics.serve(0, "127.0.0.1")
    stages = {"decode": 2.0, "embed": 3.0}
    metrics.moment("ingesting", 0, Progress(1, 9, False, 1, 0, stages={"decode": 1.0, "embed": 1.5}))
    metrics.moment("ingesting", 4, Progress(2, 9, False, 1, 0, stages={"decode": 1.5, "embed": 2.0}))
    found = scrape(port)
    assert found["sss_ingest_queue_paths",] == 4
    assert found["sss_ingest_lag_files",] == 4 + 7
    assert found["sss_ingest_stage_seconds_total", "embed"] == 2.0
    assert (found["sss_ingest_bottleneck", "embed"], found["sss_ingest_bottleneck", "decode"]) == (1, 0)
    for _ in range(2):
        metrics.worked(
            IngestSummary("g", "s", "m", new=3, changed=1, moved=6, unchanged=5, removed=2, failed=4, stages=stages)
        )
    found = scrape(port)
    counted = [found["sss_ingest_images_total", result] for result in RESULTS]
    assert dict(zip(RESULTS, counted, strict=True)) == {
        "new": 6, "changed": 2, "moved": 12, "unchanged": 10, "failed": 8, "removed": 4,
    }  # fmt: skip
    assert found["sss_ingest_stage_seconds_total", "embed"] == 6.0
    assert found["sss_ingest_stage_seconds_total", "decode"] == 4.0
    assert found["sss_ingest_last_success_timestamp_seconds",] > 1.7e9


def test_what_is_away_and_what_went_wrong(metrics):
    port = metrics.serve(0, "127.0.0.1")
    metrics.moment("store away", 0, None)
    metrics.warned("store_away")
    found = scrape(port)
    assert (found["sss_ingest_store_up",], found["sss_ingest_roots_up",]) == (0, 1)
    assert found["sss_ingest_warnings_total", "store_away"] == 1
    metrics.moment("root away", 0, None)
    found = scrape(port)
    assert (found["sss_ingest_store_up",], found["sss_ingest_roots_up",]) == (1, 0)


def test_batches_are_timed_and_the_vectors_stay_the_same(metrics):
    plain, timed = ColourEmbedder(), metrics.timed(ColourEmbedder())
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 8, 3), dtype=np.uint8)
    assert (timed.embed(images) == plain.embed(images)).all()
    assert (timed.dim, timed.input_size, timed.fingerprint) == (plain.dim, plain.input_size, plain.fingerprint)
    assert scrape(metrics.serve(0, "127.0.0.1"))["sss_ingest_batch_seconds_count",] == 1


def test_a_port_that_is_taken_is_named(metrics):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=str(port)):
            metrics.serve(port, "127.0.0.1")


def test_embedded_images_are_counted_while_the_work_goes_on(metrics):
    port = metrics.serve(0, "127.0.0.1")
    for seen, embedded in ((9, 4), (20, 12)):
        metrics.moment("ingesting", 0, Progress(0, seen, False, embedded, 0))
        assert scrape(port)["sss_ingest_embedded_images_total",] == embedded
    metrics.worked(IngestSummary("g", "s", "m", embedded=20))
    assert scrape(port)["sss_ingest_embedded_images_total",] == 20
    metrics.moment("ingesting", 0, Progress(0, 5, False, 5, 0))  # the next piece of work counts from 0
    metrics.worked(IngestSummary("g", "s", "m", embedded=5))
    assert scrape(port)["sss_ingest_embedded_images_total",] == 25


def test_calls_of_the_store_are_timed_and_answer_as_before(metrics):
    port = metrics.serve(0, "127.0.0.1")
    plain = MemoryGallery()
    timed = metrics.timed_store(plain)
    assert {("sss_ingest_store_seconds_count", call) for call in STORE_CALLS} <= scrape(port).keys()
    vectors = np.eye(48, dtype=np.float32)[:2]
    timed.upsert(["a", "b"], vectors, [{"key": "a"}, {"key": "b"}])
    timed.flush()
    assert [point.payload["key"] for point in timed.retrieve(["b"])] == ["b"]
    with pytest.raises(ValueError, match="unit length"):
        timed.upsert(["c"], 2 * vectors[:1], [{}])
    timed.delete(["a"])
    assert (timed.count(), timed.name, timed.model) == (1, plain.name, plain.model)
    assert [point.id for point in timed.scroll()] == ["b"]
    counted = {call: scrape(port)["sss_ingest_store_seconds_count", call] for call in STORE_CALLS}
    assert counted == {"retrieve": 1, "upsert": 2, "delete": 1, "flush": 1}


def test_a_batch_that_another_device_computes_is_timed_until_it_is_fetched(metrics):
    class Device(ColourEmbedder):
        def begin(self, images):
            return lambda: self.embed(images)

    port = metrics.serve(0, "127.0.0.1")
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 8, 3), dtype=np.uint8)
    fetch = begin(metrics.timed(Device()), images)
    assert scrape(port)["sss_ingest_batch_seconds_count",] == 0
    assert (fetch() == ColourEmbedder().embed(images)).all()
    assert scrape(port)["sss_ingest_batch_seconds_count",] == 1
    assert (begin(metrics.timed(ColourEmbedder()), images) == ColourEmbedder().embed(images)).all()
    assert scrape(port)["sss_ingest_batch_seconds_count",] == 2
