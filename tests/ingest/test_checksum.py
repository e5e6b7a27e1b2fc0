"""--checksum: what counts as the same file, by content."""

import hashlib
import os

import pytest
from fakes import ColourEmbedder, write_image, write_market

from ingest import plan
from ingest.pipeline import run_ingest
from ingest.plan import with_digests
from ingest.scan import scan_files, survey_roots
from siamese_search.io.files import digest_file


def payloads(gallery):
    return {payload["key"]: payload for _, payload in gallery.points.values()}


def run(root, gallery, embedder, **options):
    """A run with checksums: (new, changed, moved, unchanged, failed, images embedded)."""
    one = run_ingest([root], gallery, embedder, checksum=True, **options)
    assert one.seen == one.new + one.changed + one.moved + one.unchanged + one.failed
    return one.new, one.changed, one.moved, one.unchanged, one.failed, one.embedded


def test_a_digest_is_blake2b_of_the_whole_file(tmp_path):
    for size in (0, 1, 1 << 20, (1 << 20) + 7):
        data = os.urandom(size)
        (tmp_path / "x").write_bytes(data)
        assert digest_file(tmp_path / "x") == hashlib.blake2b(data, digest_size=16).hexdigest()


def test_what_is_no_regular_file_is_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/null"):
        with pytest.raises(OSError, match=r"regular|directory"):
            digest_file(path)


@pytest.mark.parametrize("count", [5, 100])
def test_files_keep_their_order_and_their_reasons(tmp_path, count, monkeypatch):
    for number in range(count):
        (tmp_path / f"{number:03d}.jpg").write_bytes(b"x" * (number + 1))
    (files,) = scan_files(survey_roots([tmp_path]))
    (tmp_path / "001.jpg").unlink()
    (tmp_path / "002.jpg").unlink()
    os.mkfifo(tmp_path / "002.jpg")
    files[0].reason = "known before"
    monkeypatch.setattr(plan, "_MAX_BYTES", count - 1)
    done = with_digests(files)
    assert [file.record.key for file in done] == [file.record.key for file in files]
    assert [file.reason for file in done[:3]] == ["known before", "no such file", "not a regular file"]
    for number, file in enumerate(done):
        expected = hashlib.blake2b(b"x" * (number + 1), digest_size=16).hexdigest()
        assert file.digest == (None if number < 3 or number == count - 1 else expected)
    assert with_digests(done) == done


def test_a_touched_file_is_unchanged_and_its_time_is_remembered(tmp_path, gallery, embedder):
    paths = write_market(tmp_path)
    assert run(tmp_path, gallery, embedder) == (12, 0, 0, 0, 0, 12)
    vectors = {i: vector.tobytes() for i, (vector, _) in gallery.points.items()}
    os.utime(paths[5], ns=(1, 10**18))
    assert run(tmp_path, gallery, embedder) == (0, 0, 0, 12, 0, 0)
    assert payloads(gallery)[paths[5].name]["mtime_ns"] == 10**18
    assert {i: vector.tobytes() for i, (vector, _) in gallery.points.items()} == vectors
    gallery.upserts = []
    assert run(tmp_path, gallery, embedder) == (0, 0, 0, 12, 0, 0)
    # Without checksums it is unchanged too now, and nothing forgets the digests.
    before = payloads(gallery)
    assert run_ingest([tmp_path], gallery, embedder).unchanged == 12
    assert gallery.upserts == []
    assert payloads(gallery) == before


def test_an_edit_is_noticed_in_spite_of_its_size_and_time(tmp_path, gallery, embedder):
    path = write_image(tmp_path / "a.ppm", seed="one")
    os.utime(path, ns=(1, 10**18))
    run(tmp_path, gallery, embedder)
    size = path.stat().st_size
    write_image(path, seed="two")
    os.utime(path, ns=(1, 10**18))
    assert path.stat().st_size == size
    assert run_ingest([tmp_path], gallery, embedder).unchanged == 1  # not seen without
    assert run(tmp_path, gallery, embedder) == (0, 1, 0, 0, 0, 1)
    assert payloads(gallery)["a.ppm"]["digest"] == digest_file(path)


def test_no_digest_is_given_to_a_vector_of_which_nobody_knows_the_content(tmp_path, gallery, embedder):
    paths = [write_image(tmp_path / f"{name}.ppm") for name in "abc"]
    for path in paths:
        os.utime(path, ns=(1, 10**18))
    run_ingest([tmp_path], gallery, embedder)
    assert not any("digest" in payload for payload in payloads(gallery).values())
    write_image(paths[0], seed="another, of the same size and time")
    os.utime(paths[0], ns=(1, 10**18))
    assert run(tmp_path, gallery, embedder) == (0, 3, 0, 0, 0, 3)
    fresh = type(gallery)()
    run(tmp_path, fresh, embedder)
    assert {i: v.tobytes() for i, (v, _) in gallery.points.items()} == {
        i: v.tobytes() for i, (v, _) in fresh.points.items()
    }
    assert run(tmp_path, gallery, embedder) == (0, 0, 0, 3, 0, 0)
    assert {key: p["digest"] for key, p in payloads(gallery).items()} == {p.name: digest_file(p) for p in paths}


def test_an_edit_seen_without_checksums_forgets_the_digest(tmp_path, gallery, embedder):
    path = write_market(tmp_path)[0]
    run(tmp_path, gallery, embedder)
    write_image(path, seed="another picture")
    assert run_ingest([tmp_path], gallery, embedder).changed == 1
    assert "digest" not in payloads(gallery)[path.name]
    assert run(tmp_path, gallery, embedder) == (0, 1, 0, 11, 0, 1)
    assert payloads(gallery)[path.name]["digest"] == digest_file(path)


def test_new_labels_keep_the_digest_and_the_vector(tmp_path, gallery, embedder):
    write_image(tmp_path / "a.jpg")
    table = tmp_path / "labels.csv"
    table.write_text("path,identity\na.jpg,ann\n")
    run(table, gallery, embedder)
    table.write_text("path,identity\na.jpg,bob\n")
    assert run_ingest([table], gallery, embedder).changed == 1
    assert payloads(gallery)["a.jpg"]["digest"] == digest_file(tmp_path / "a.jpg")
    table.write_text("path,identity\na.jpg,cid\n")
    assert run(table, gallery, embedder) == (0, 1, 0, 0, 0, 0)
    assert payloads(gallery)["a.jpg"]["identity"] == "cid"


def test_a_damaged_vector_of_a_touched_file_is_mended(tmp_path, gallery, embedder):
    path = write_image(tmp_path / "a.jpg")
    run(tmp_path, gallery, embedder)
    ((identifier, (vector, payload)),) = gallery.points.items()
    gallery.points[identifier] = (vector[::-1].copy(), payload)
    os.utime(path, ns=(1, 10**18))
    run(tmp_path, gallery, embedder)
    assert gallery.points[identifier][0].tobytes() == vector.tobytes()


def test_a_file_that_cannot_be_read_for_its_digest_fails_with_the_reason(tmp_path, gallery, monkeypatch):
    paths = write_market(tmp_path)
    run(tmp_path, gallery, ColourEmbedder())
    before = payloads(gallery)
    real = plan.digest_file

    def failing(path):
        if path == paths[3]:
            raise OSError(5, "Input/output error")
        return real(path)

    monkeypatch.setattr(plan, "digest_file", failing)
    summary = run_ingest([tmp_path], gallery, ColourEmbedder(), checksum=True)
    assert (summary.unchanged, summary.failed) == (11, 1)
    assert summary.failures[0].reason == "input/output error"
    assert payloads(gallery) == before
