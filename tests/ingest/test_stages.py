"""How busy the stages were, which one holds up the others, and what the progress display is told."""

import time

import pytest
from fakes import ColourEmbedder, MemoryGallery, write_market

from ingest.pipeline import run_ingest
from ingest.stages import Clock, Tally
from ingest.summary import STAGES, IngestSummary, bottleneck


def test_busy_seconds_add_up_and_are_divided_by_the_workers(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("ingest.stages.time.perf_counter", lambda: now[0])
    clock = Clock()
    clock.workers["decode"] = 4
    for seconds in (1.0, 2.0):
        with clock.busy("embed"):
            now[0] += seconds
    clock.add("decode", 8.0)

    def items():
        for number in range(3):
            now[0] += 0.5
            yield number

    for _ in clock.timed("scan", items()):
        now[0] += 100.0  # what is done with an item is not the work of making it
    assert clock.seconds() == {"scan": 1.5, "plan": 0.0, "decode": 2.0, "embed": 3.0, "commit": 0.0}


def test_time_counts_although_the_work_failed(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("ingest.stages.time.perf_counter", lambda: now[0])
    clock = Clock()
    with pytest.raises(ValueError, match="oops"), clock.busy("plan"):  # noqa: PT012
        now[0] += 1.0
        raise ValueError("oops")
    assert clock.seconds()["plan"] == 1.0


def test_the_bottleneck_is_the_stage_that_was_busy_longest():
    assert bottleneck({"scan": 1.0, "embed": 3.0, "commit": 2.0}) == "embed"
    assert bottleneck(dict.fromkeys(STAGES, 0.0)) is None
    assert bottleneck({}) is None


class SlowGallery(MemoryGallery):
    def __init__(self, upsert=0.0, retrieve=0.0):
        super().__init__()
        self.seconds = {"upsert": upsert, "retrieve": retrieve}

    def upsert(self, ids, vectors, payloads):
        time.sleep(self.seconds["upsert"])
        super().upsert(ids, vectors, payloads)

    def retrieve(self, ids, *, with_vectors=False):
        time.sleep(self.seconds["retrieve"])
        return super().retrieve(ids, with_vectors=with_vectors)


class SlowEmbedder(ColourEmbedder):
    def __init__(self, seconds=0.0):
        super().__init__()
        self.seconds = seconds

    def embed(self, images):
        time.sleep(self.seconds)
        return super().embed(images)


@pytest.mark.parametrize("slow", ["scan", "plan", "decode", "embed", "commit"])
def test_a_slow_stage_is_named(tmp_path, slow, monkeypatch):
    write_market(tmp_path, identities=2)
    seconds = 0.6
    if slow == "scan":
        from ingest import pipeline

        real = pipeline.scan_files

        def scan(*arguments, **options):
            time.sleep(seconds)
            yield from real(*arguments, **options)

        monkeypatch.setattr(pipeline, "scan_files", scan)
    if slow == "decode":
        from siamese_search.io import decoding

        real_read = decoding.read_image

        def read(*arguments, **options):
            time.sleep(seconds)
            return real_read(*arguments, **options)

        monkeypatch.setattr(decoding, "read_image", read)
    gallery = SlowGallery(seconds * (slow == "commit"), seconds * (slow == "plan"))
    summary = run_ingest([tmp_path], gallery, SlowEmbedder(seconds * (slow == "embed")))
    assert summary.bottleneck == slow, summary.stages
    assert summary.stages[slow] >= seconds
    assert 0 < summary.busy(slow) <= 1
    answer = summary.to_json()
    assert answer["bottleneck"] == slow
    assert list(answer["stages"]) == list(STAGES)


def test_progress_knows_the_total_from_the_start(tmp_path, gallery, embedder):
    write_market(tmp_path, identities=10)
    moments = []
    run_ingest([tmp_path], gallery, embedder, batch_size=4, progress=moments.append)
    assert {moment.total for moment in moments} == {40}


def test_the_rate_is_that_of_late(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("ingest.stages.time.monotonic", lambda: now[0])
    moments = []
    tally = Tally(IngestSummary("g", "s", "m"), None, moments.append)
    for second in range(40):  # 1,000 a second that are unchanged, then 50 a second that are embedded
        tally.add(**{"unchanged": 1000} if second < 10 else {"new": 50})
        now[0] += 1.0
        tally.report()
    assert moments[9].images_per_second == pytest.approx(1000)
    assert moments[-1].images_per_second == pytest.approx(50)
