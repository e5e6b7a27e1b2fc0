"""run_ingest over a gallery that is a dict: what is embedded, stored, counted and named."""

import importlib
import os
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from fakes import ColourEmbedder, MemoryGallery, write_image, write_market

from ingest.pipeline import run_ingest
from ingest.scan import survey_roots
from siamese_search.datasets.records import Failure, decode_key, point_id
from siamese_search.errors import DataError, ModelMismatchError, StoreError, UsageError
from siamese_search.gallery.contract import ModelRef
from siamese_search.io.images import read_image


def state(gallery):
    return {i: (vector.tobytes(), payload) for i, (vector, payload) in gallery.points.items()}


def counts(summary):
    return {
        key: len(value) if key == "failed" else value
        for key, value in summary.to_json().items()
        if key in ("seen", "new", "changed", "unchanged", "removed", "failed")
    }


def expect(seen, new=0, changed=0, unchanged=0, failed=0):
    return {
        "seen": seen, "new": new, "changed": changed, "unchanged": unchanged, "removed": 0, "failed": failed
    }  # fmt: skip


def oracle(paths, root, embedder, source=None):
    """The gallery that these Market-named files must become, one image at a time."""
    points = {}
    for path in paths:
        vector = embedder.embed(read_image(path, embedder.input_size)[None])[0]
        key = path.relative_to(root).as_posix()
        identity, rest = path.name.split("_", 1)
        status = path.stat()
        payload = {
            "identity": identity,
            "camera": rest[1],
            "source": source or str(root),
            "key": key,
            "path": str(path),
            "size": status.st_size,
            "mtime_ns": status.st_mtime_ns,
            "sequence": 1,
            "frame": int(path.name.split("_")[2]),
            "detection": 1,
            "crc": zlib.crc32(vector.astype("<f4").tobytes()),
        }
        points[point_id(source or str(root), key)] = (vector.tobytes(), payload)
    return points


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_a_directory_becomes_exactly_its_points(tmp_path, gallery, embedder, batch_size):
    paths = write_market(tmp_path, identities=4)
    summary = run_ingest([tmp_path], gallery, embedder, batch_size=batch_size)
    assert counts(summary) == expect(16, new=16)
    assert state(gallery) == oracle(paths, tmp_path, embedder)
    assert max(embedder.batches[: -len(paths)]) <= batch_size
    answer = summary.to_json()
    assert (answer["collection"], answer["store"], answer["model"]) == ("default", "memory", "colours")
    assert answer["seconds"] >= 0
    assert not summary.interrupted


def test_the_second_run_embeds_and_writes_nothing(tmp_path, gallery, embedder):
    write_market(tmp_path)
    run_ingest([tmp_path], gallery, embedder)
    before, embedder.batches, gallery.upserts = state(gallery), [], []
    summary = run_ingest([tmp_path], gallery, embedder)
    assert counts(summary) == expect(12, unchanged=12)
    assert state(gallery) == before
    assert embedder.batches == gallery.upserts == []
    assert summary.images_per_second == 0.0


def test_new_and_changed_files_only_are_embedded(tmp_path, gallery, embedder):
    paths = write_market(tmp_path)
    run_ingest([tmp_path], gallery, embedder)
    embedder.batches = []
    write_image(paths[3], seed="another picture")
    os.utime(paths[5], ns=(1, 10**18))  # touched: content is not read, so it counts as changed
    paths.append(write_image(tmp_path / "0009_c1s1_000001_01.jpg"))
    summary = run_ingest([tmp_path], gallery, embedder)
    assert counts(summary) == expect(13, new=1, changed=2, unchanged=10)
    assert sum(embedder.batches) == 3
    assert state(gallery) == oracle(paths, tmp_path, embedder)


def test_reembed_embeds_everything_again(tmp_path, gallery, embedder):
    write_market(tmp_path)
    run_ingest([tmp_path], gallery, embedder)
    before = state(gallery)
    summary = run_ingest([tmp_path], gallery, embedder, reembed=True)
    assert counts(summary) == expect(12, changed=12)
    assert summary.embedded == 12
    assert state(gallery) == before


def test_edited_labels_replace_the_payload_and_keep_the_vector(tmp_path, gallery, embedder):
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        write_image(tmp_path / name)
    table = tmp_path / "labels.csv"
    table.write_text("path,identity,camera,weather\na.jpg,ann,1,sun\nb.jpg,bob,2,rain\nc.jpg,cid,,\n")
    run_ingest([table], gallery, embedder)
    vectors = {payload["key"]: vector.tobytes() for vector, payload in gallery.points.values()}
    embedder.batches = []
    table.write_text("path,identity,camera,weather\na.jpg,ann,1,fog\nb.jpg,bea,2,rain\nc.jpg,cid,,\n")
    summary = run_ingest([table], gallery, embedder)
    assert counts(summary) == expect(3, changed=2, unchanged=1)
    assert embedder.batches == []
    labels = {p["key"]: (p["identity"], p.get("camera"), p.get("weather")) for _, p in gallery.points.values()}
    assert labels == {"a.jpg": ("ann", "1", "fog"), "b.jpg": ("bea", "2", "rain"), "c.jpg": ("cid", None, None)}
    assert {p["key"]: v.tobytes() for v, p in gallery.points.values()} == vectors
    # A column that has gone is a change too.
    table.write_text("path,identity,camera\na.jpg,ann,1\nb.jpg,bea,2\nc.jpg,cid,\n")
    assert counts(run_ingest([table], gallery, embedder)) == expect(3, changed=2, unchanged=1)


def test_relabelling_mends_a_damaged_vector_instead_of_signing_it(tmp_path, gallery, embedder):
    write_image(tmp_path / "a.jpg")
    table = tmp_path / "labels.csv"
    table.write_text("path,identity\na.jpg,ann\n")
    run_ingest([table], gallery, embedder)
    ((identifier, (vector, payload)),) = gallery.points.items()
    gallery.points[identifier] = (np.roll(vector, 1), payload)
    table.write_text("path,identity\na.jpg,bob\n")
    assert counts(run_ingest([table], gallery, embedder)) == expect(1, changed=1)
    mended, after = gallery.points[identifier]
    assert after["identity"] == "bob"
    assert mended.tobytes() == vector.tobytes()


def test_a_csv_and_its_directory_are_the_same_points(tmp_path, gallery, embedder):
    write_image(tmp_path / "a.jpg")
    (tmp_path / "labels.csv").write_text("path,identity\na.jpg,ann\n")
    run_ingest([tmp_path], gallery, embedder)
    summary = run_ingest([tmp_path / "labels.csv"], gallery, embedder)
    assert counts(summary) == expect(1, changed=1)
    assert len(gallery.points) == 1


def test_corrupt_images_are_named_and_the_rest_is_stored(tmp_path, gallery, embedder):
    good = write_market(tmp_path)
    whole = good[0].read_bytes()
    bad = {
        "0100_c1s1_000000_01.jpg": whole[: len(whole) // 2],
        "0101_c1s1_000000_01.jpg": b"",
        "0102_c1s1_000000_01.jpg": b"no picture",
    }
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
    summary = run_ingest([tmp_path], gallery, embedder, batch_size=4)
    assert counts(summary) == expect(15, new=12, failed=3)
    assert state(gallery) == oracle(good, tmp_path, embedder)
    failed = {Path(entry["path"]).name: entry["reason"] for entry in summary.to_json()["failed"]}
    assert failed.keys() == bad.keys()
    assert failed["0101_c1s1_000000_01.jpg"] == "empty file"
    assert "not an image" in failed["0102_c1s1_000000_01.jpg"]


def test_a_good_file_that_went_bad_keeps_its_point_until_it_is_good_again(tmp_path, gallery, embedder):
    paths = write_market(tmp_path)
    run_ingest([tmp_path], gallery, embedder)
    before, data = state(gallery), paths[0].read_bytes()
    paths[0].write_bytes(data[:50])
    assert counts(run_ingest([tmp_path], gallery, embedder)) == expect(12, unchanged=11, failed=1)
    assert state(gallery) == before
    paths[0].write_bytes(data)
    assert counts(run_ingest([tmp_path], gallery, embedder)) == expect(12, changed=1, unchanged=11)


def test_all_corrupt_is_an_error_with_three_reasons(tmp_path, gallery, embedder):
    for number in range(5):
        (tmp_path / f"{number}.jpg").write_bytes(b"junk")
    with pytest.raises(DataError, match="none of the 5 images can be used") as caught:
        run_ingest([tmp_path], gallery, embedder)
    message = str(caught.value)
    assert [f"{n}.jpg" in message for n in range(5)] == [True] * 3 + [False] * 2
    assert message.count("not an image") == 3
    assert gallery.points == {}


def test_a_vector_that_is_not_finite_fails_its_image_only(tmp_path, gallery):
    paths = write_market(tmp_path)

    class Sick(ColourEmbedder):
        def embed(self, images):
            vectors = super().embed(images)
            vectors[2] = np.nan
            return vectors

    summary = run_ingest([tmp_path], gallery, Sick())
    assert counts(summary) == expect(12, new=11, failed=1)
    assert summary.failures[0].path == str(paths[2])
    assert "not finite" in summary.failures[0].reason


def test_roots_that_cannot_be_used(tmp_path, gallery, embedder):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.doc").write_text("x")
    for root, message in [
        (tmp_path / "nowhere", "no such file or directory"),
        (tmp_path / "notes.doc", "neither a directory nor a CSV"),
        (tmp_path / "empty", "no images"),
    ]:
        with pytest.raises(DataError, match=message) as caught:
            run_ingest([root], gallery, embedder)
        assert str(root) in str(caught.value)
    with pytest.raises(UsageError, match="nothing to ingest"):
        run_ingest([], gallery, embedder)
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(DataError):
        run_ingest([tmp_path / "a"], gallery, embedder)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"decode_threads": -1}])
def test_numbers_that_cannot_work(tmp_path, gallery, embedder, options):
    with pytest.raises(UsageError, match="at least"):
        run_ingest([tmp_path], gallery, embedder, **options)


def test_another_model_is_refused_and_both_are_named(tmp_path, embedder):
    write_market(tmp_path)
    gallery = MemoryGallery(model=ModelRef("a" * 64, 48))
    with pytest.raises(ModelMismatchError, match=r"aaaaaaaaaaaa.*ffffffffffff.*sss reindex"):
        run_ingest([tmp_path], gallery, embedder)


def test_two_roots_are_two_sources_and_the_same_root_twice_is_one(tmp_path, gallery, embedder):
    for part in ("east", "west"):
        write_market(tmp_path / part)
    roots = [tmp_path / "east", tmp_path / "west", tmp_path / "east"]
    assert counts(run_ingest(roots, gallery, embedder)) == expect(24, new=24)
    assert {p["source"] for _, p in gallery.points.values()} == {str(tmp_path / "east"), str(tmp_path / "west")}


def test_one_source_name_makes_points_independent_of_the_mount(tmp_path, gallery, embedder):
    write_market(tmp_path / "host1" / "data")
    run_ingest([tmp_path / "host1" / "data"], gallery, embedder, source="cams")
    (tmp_path / "host1").rename(tmp_path / "host2")
    embedder.batches = []
    summary = run_ingest([tmp_path / "host2" / "data"], gallery, embedder, source="cams")
    assert counts(summary) == expect(12, changed=12)  # the path has changed, the pixels have not
    assert embedder.batches == []
    paths = [tmp_path / "host2" / "data" / p["key"] for _, p in gallery.points.values()]
    assert state(gallery) == oracle(paths, tmp_path / "host2" / "data", embedder, "cams")


def test_the_same_key_from_two_roots_of_one_source_is_refused(tmp_path, gallery, embedder):
    write_image(tmp_path / "one" / "a.jpg")
    write_image(tmp_path / "two" / "a.jpg")
    with pytest.raises(DataError, match="give each root its own") as caught:
        run_ingest([tmp_path / "one", tmp_path / "two"], gallery, embedder, source="cams")
    assert str(tmp_path / "one" / "a.jpg") in str(caught.value)
    assert str(tmp_path / "two" / "a.jpg") in str(caught.value)


def test_a_missing_file_of_a_csv_is_named_and_the_rest_is_stored(tmp_path, gallery, embedder):
    write_image(tmp_path / "a.png")
    (tmp_path / "l.csv").write_text("path,identity\na.png,ann\ngone.png,bob\n")
    summary = run_ingest([tmp_path / "l.csv"], gallery, embedder)
    assert counts(summary) == expect(2, new=1, failed=1)
    assert summary.failures == [Failure(str(tmp_path / "gone.png"), "no such file")]


def test_images_that_do_not_fit_the_layout_are_named_and_the_rest_is_stored(tmp_path, gallery, embedder):
    for name in ("ann/1.png", "bob/1.png", "sheet.png"):
        write_image(tmp_path / name)
    summary = run_ingest([tmp_path], gallery, embedder)
    assert counts(summary) == expect(3, new=2, failed=1)
    assert summary.failures[0].reason.startswith("does not fit the layout folders")


def test_names_that_are_not_utf8_come_back_as_they_were(tmp_path, gallery, embedder):
    write_image(tmp_path / "ok.jpg")
    odd = os.fsencode(tmp_path) + b"/caf\xe9%\n.jpg"
    (tmp_path / "ok.jpg").rename(os.fsdecode(odd))
    summary = run_ingest([tmp_path], gallery, embedder)
    assert counts(summary) == expect(1, new=1)
    ((_, payload),) = gallery.points.values()
    payload["path"].encode("utf-8")
    assert os.fsencode(decode_key(payload["path"])) == odd
    assert counts(run_ingest([tmp_path], gallery, embedder)) == expect(1, unchanged=1)


def test_a_file_that_vanishes_after_the_scan_is_named(tmp_path, gallery):
    paths = write_market(tmp_path)

    class Slow(ColourEmbedder):
        def embed(self, images):
            if paths[-1].exists():
                paths[-1].unlink()
            return super().embed(images)

    summary = run_ingest([tmp_path], gallery, Slow(), batch_size=1, decode_threads=1)
    assert counts(summary) == expect(12, new=11, failed=1)
    assert summary.failures[0].reason == "no such file"


def test_a_directory_that_cannot_be_read_is_named_and_the_rest_is_stored(tmp_path, gallery, embedder, monkeypatch):
    for name in ("a/1.png", "b/1.png", "c/1.png"):
        write_image(tmp_path / name)
    real = os.scandir

    def scandir(path):
        if os.fspath(path).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr("siamese_search.datasets.walk.os.scandir", scandir)
    summary = run_ingest([tmp_path], gallery, embedder)
    assert (summary.seen, summary.new, summary.failed) == (3, 2, 1)
    assert summary.failures == [Failure(str(tmp_path / "b"), "the directory cannot be read (permission denied)")]
    monkeypatch.undo()
    assert run_ingest([tmp_path], gallery, embedder).new == 1


def test_a_survey_stands_for_its_root(tmp_path, gallery, embedder):
    for name in ("a/1.png", "b/1.png"):
        write_image(tmp_path / name)
    assert run_ingest(survey_roots([tmp_path]), gallery, embedder).new == 2
    assert run_ingest([tmp_path], gallery, embedder).unchanged == 2


def test_stop_keeps_what_is_done_and_the_next_run_goes_on(tmp_path, gallery):
    paths = write_market(tmp_path, identities=20)
    stop = threading.Event()

    class Stopping(ColourEmbedder):
        def embed(self, images):
            if len(self.batches) == 3:
                stop.set()
            return super().embed(images)

    stopping = Stopping()
    summary = run_ingest([tmp_path], gallery, stopping, batch_size=8, stop=stop)
    assert summary.interrupted
    assert stopping.batches == [8] * 4  # the batch in hand was finished, and no other begun
    assert summary.new == len(gallery.points) == 32
    embedder = ColourEmbedder()
    summary = run_ingest([tmp_path], gallery, embedder, batch_size=8)
    assert not summary.interrupted
    assert counts(summary) == expect(80, new=48, unchanged=32)
    assert state(gallery) == oracle(paths, tmp_path, embedder)


def test_stop_before_the_start_does_nothing(tmp_path, gallery, embedder):
    write_market(tmp_path)
    stop = threading.Event()
    stop.set()
    summary = run_ingest([tmp_path], gallery, embedder, stop=stop)
    assert summary.interrupted
    assert gallery.points == {}


def test_an_error_of_the_model_ends_the_run_and_its_threads(tmp_path, gallery):
    write_market(tmp_path, identities=30)

    class Broken(ColourEmbedder):
        def embed(self, images):  # noqa: ARG002
            raise RuntimeError("out of memory")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="out of memory"):
        run_ingest([tmp_path], gallery, Broken(), batch_size=4)
    assert threading.active_count() == before


def test_progress_only_grows_and_ends_at_the_summary(tmp_path, gallery, embedder):
    write_market(tmp_path, identities=10)
    (tmp_path / "0100_c1s1_000000_01.jpg").write_bytes(b"junk")
    moments = []
    summary = run_ingest([tmp_path], gallery, embedder, batch_size=4, progress=moments.append)
    assert [m.done for m in moments] == sorted(m.done for m in moments)
    last = moments[-1]
    assert (last.done, last.seen, last.scanned) == (41, 41, True)
    assert (last.embedded, last.failed) == (summary.embedded, summary.failed) == (40, 1)


def test_the_failure_list_is_bounded_and_the_count_is_not(tmp_path, gallery, embedder, monkeypatch):
    monkeypatch.setattr("ingest.summary.MAX_FAILURES", 3)
    write_image(tmp_path / "good.jpg")
    for number in range(5):
        (tmp_path / f"bad{number}.jpg").write_bytes(b"junk")
    summary = run_ingest([tmp_path], gallery, embedder)
    assert (summary.failed, len(summary.failures)) == (5, 3)
    assert summary.to_json()["failed_total"] == 5


@pytest.mark.parametrize("stage", ["scan", "plan", "decode", "embed", "commit", "flush"])
def test_an_error_of_any_stage_is_raised_as_it_is_and_ends_all_threads(tmp_path, gallery, embedder, stage, monkeypatch):
    monkeypatch.setattr("ingest.scan.CHUNK", 8)
    monkeypatch.setattr("ingest.stages.COMMIT_POINTS", 8)
    write_market(tmp_path, identities=50)
    error = StoreError(f"{stage} is broken; mend it")

    def broken(after):
        calls = []

        def fail(real):
            def call(*arguments, **options):
                calls.append(1)
                if len(calls) > after:
                    raise error
                return real(*arguments, **options)

            return call

        return fail

    target = {
        "scan": ("ingest.scan.scanned_file", 60),
        "plan": ("ingest.plan.plan_files", 10),
        "decode": ("siamese_search.io.decoding.read_image", 60),
    }
    if stage in target:
        name, after = target[stage]
        module, _, attribute = name.rpartition(".")
        monkeypatch.setattr(name, broken(after)(getattr(importlib.import_module(module), attribute)))
    elif stage == "embed":
        embedder.embed = broken(10)(embedder.embed)
    else:
        method = {"commit": "upsert", "flush": "flush"}[stage]
        setattr(gallery, method, broken(3)(getattr(gallery, method)))
    before = threading.active_count()
    raised = []

    def run():
        try:
            run_ingest([tmp_path], gallery, embedder, batch_size=4)
        except StoreError as caught:
            raised.append(caught)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "deadlock"
    assert raised == [error]
    assert threading.active_count() == before
    # What was embedded before is kept, and the next run goes on from there.
    assert 0 < len(gallery.points) < 200
    monkeypatch.undo()
    for method in ("upsert", "flush"):
        vars(gallery).pop(method, None)
    kept = len(gallery.points)
    assert counts(run_ingest([tmp_path], gallery, ColourEmbedder())) == expect(200, new=200 - kept, unchanged=kept)


def test_a_device_that_works_by_itself_has_its_next_batch_before_the_last_is_fetched(tmp_path, gallery):
    paths = write_market(tmp_path, identities=5)
    events = []

    class Device(ColourEmbedder):
        def begin(self, images):
            number = len(self.batches)
            vectors = self.embed(images)
            events.append(("begin", number))

            def fetch():
                events.append(("fetch", number))
                return vectors

            return fetch

    device = Device()
    assert run_ingest([tmp_path], gallery, device, batch_size=8).new == 20
    assert events == [
        ("begin", 0), ("begin", 1), ("fetch", 0), ("begin", 2), ("fetch", 1), ("fetch", 2)
    ]  # fmt: skip
    assert state(gallery) == oracle(paths, tmp_path, ColourEmbedder())
