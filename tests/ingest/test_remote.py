"""Ingest from object storage and the web: what a directory gives, with URLs for paths."""

import threading

import pytest
from fakes import ColourEmbedder, MemoryGallery, write_image, write_market
from web import serve

from ingest.distributed.worker import BundleCopy, Job, Outcome, pack_work, run_unit, unpack_work
from ingest.pipeline import run_ingest
from ingest.plan import plan_files
from ingest.scan import scan_files, survey_roots
from ingest.summary import FailureLog
from siamese_search.errors import DataError, UsageError
from siamese_search.io import remote
from siamese_search.maintenance.verify import verify_gallery

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")
ROOT = "memory://bucket/people"


@pytest.fixture
def images(tmp_path):
    return write_market(tmp_path / "people", identities=5)


@pytest.fixture
def bucket(images):
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for file in images:
        memory.pipe(f"/bucket/people/{file.name}", file.read_bytes())
    yield memory
    memory.store.clear()


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr(remote, "_sleep", lambda _: None)
    with serve() as found:
        yield found


def test_the_gallery_is_that_of_the_directory(bucket, images, embedder, gallery):
    local = MemoryGallery()
    run_ingest([images[0].parent], local, ColourEmbedder(), source="people")
    summary = run_ingest([ROOT], gallery, embedder, source="people")
    assert (summary.seen, summary.new, summary.failed) == (20, 20, 0)
    assert gallery.points.keys() == local.points.keys()
    for identifier, (vector, payload) in gallery.points.items():
        other_vector, other = local.points[identifier]
        assert vector.tobytes() == other_vector.tobytes()
        assert payload["path"] == f"{ROOT}/{payload['key']}"
        for field in ("path", "mtime_ns"):
            payload.pop(field), other.pop(field)
        assert payload == other


def test_again_nothing_is_embedded_and_only_what_changed_is(bucket, images, embedder, gallery):
    assert run_ingest([ROOT], gallery, embedder).new == 20
    again = run_ingest([ROOT], gallery, ColourEmbedder())
    assert (again.unchanged, again.embedded) == (20, 0)
    bucket.pipe(f"/bucket/people/{images[3].name}", images[4].read_bytes())
    changed = run_ingest([ROOT], gallery, embedder)
    assert (changed.unchanged, changed.changed, changed.embedded) == (19, 1, 1)
    assert {payload["source"] for _, payload in gallery.points.values()} == {ROOT}


def test_a_bad_object_is_named_and_the_rest_goes_on(bucket, images, embedder, gallery, tmp_path):
    bucket.pipe("/bucket/people/0009_c1s1_000001_01.jpg", b"")
    bucket.pipe("/bucket/people/0009_c1s1_000002_01.jpg", images[0].read_bytes()[:60])
    with FailureLog(tmp_path / "failures") as log:
        summary = run_ingest([ROOT], gallery, embedder, failures=log)
    assert summary.new == 20
    assert [one.path for one in summary.failures] == [f"{ROOT}/0009_c1s1_00000{n}_01.jpg" for n in (1, 2)]
    assert summary.failures[0].reason == "empty file"
    assert f'"{ROOT}/0009_c1s1_000001_01.jpg"' in (tmp_path / "failures").read_text()


def test_where_nothing_can_be_used_the_place_is_named_as_it_was_given(gallery, embedder):
    with serve() as site:
        site.files["/a.jpg"] = b"no image"
        site.files["/l.txt"] = f"{site.url}/a.jpg\n".encode()
        for name in ("/a.jpg", "/l.txt"):
            with pytest.raises(DataError, match="none of the 1 image can be used") as failed:
                run_ingest([site.url + name], gallery, embedder)
            assert str(failed.value).startswith(site.url)


def test_prune_removes_what_a_complete_listing_lacks(bucket, images, embedder, gallery, monkeypatch):
    run_ingest([ROOT], gallery, embedder)
    for file in images[:3]:
        bucket.rm(f"/bucket/people/{file.name}")
    assert run_ingest([ROOT], gallery, embedder).removed == 0
    assert gallery.count() == 20
    summary = run_ingest([ROOT], gallery, embedder, prune="safe")
    assert (summary.removed, summary.prune_refused, gallery.count()) == (3, None, 17)
    for file in images[3:9]:
        bucket.rm(f"/bucket/people/{file.name}")
    refused = run_ingest([ROOT], gallery, embedder, prune="safe")
    assert refused.removed == 0
    assert "more than 20%" in refused.prune_refused
    assert run_ingest([ROOT], gallery, embedder, prune="anyway").removed == 6


def test_a_listing_that_fails_prunes_nothing(bucket, embedder, gallery, monkeypatch):
    run_ingest([ROOT], gallery, embedder)
    monkeypatch.setattr(remote, "_sleep", lambda _: None)

    def fail(*_, **__):
        raise OSError("the connection was reset")

    monkeypatch.setattr(type(bucket), "find", fail)
    with pytest.raises(DataError, match=r"cannot be listed: .*reset"):
        run_ingest([ROOT], gallery, embedder, prune="anyway")
    assert gallery.count() == 20


def test_points_that_were_seen_elsewhere_are_kept_unless_that_is_said(bucket, images, embedder, gallery):
    """A mirror under another URL: of what it lacks nobody knows whether the first one still has it."""
    for file in images[:19]:
        bucket.pipe(f"/mirror/{file.name}", file.read_bytes())
    run_ingest([ROOT], gallery, embedder, source="people")
    summary = run_ingest(["memory://mirror"], gallery, embedder, source="people", prune="safe")
    assert summary.removed == 0
    assert "which was not listed" in summary.prune_refused
    summary = run_ingest(["memory://mirror"], gallery, embedder, source="people", prune="anyway")
    assert (summary.removed, summary.prune_refused) == (1, None)


def test_directories_and_prefixes_of_one_source(bucket, images, embedder, gallery, tmp_path):
    write_image(tmp_path / "more" / "0077_c1s1_000001_01.jpg")
    roots = [tmp_path / "more", ROOT]
    assert run_ingest(roots, gallery, embedder, source="all").new == 21
    bucket.rm(f"/bucket/people/{images[0].name}")
    write_image(tmp_path / "more" / "0078_c1s1_000001_01.jpg")
    (tmp_path / "more" / "0077_c1s1_000001_01.jpg").unlink()
    summary = run_ingest(roots, gallery, embedder, source="all", prune="safe")
    assert (summary.new, summary.removed, summary.prune_refused) == (1, 2, None)
    write_image(tmp_path / "more" / images[1].name)
    with pytest.raises(DataError, match=r"are both .* of source 'all'"):
        run_ingest(roots, gallery, embedder, source="all")


def test_checksums_are_refused(bucket, embedder, gallery):
    with pytest.raises(UsageError, match=f"{ROOT}: checksums need the files on this machine"):
        run_ingest([ROOT], gallery, embedder, checksum=True)


def test_a_list_on_the_web_with_signed_urls(site, images, embedder, gallery):
    for file in images[:4]:
        site.files[f"/p/{file.name}"] = file.read_bytes()
    site.faults[f"/p/{images[1].name}"] = [500, 500]
    rows = [f"/p/{file.name}?signature=secret,ann" for file in images[:4]] + ["/p/none.jpg?signature=secret,bob"]
    site.files["/list.csv"] = "\n".join(["path,identity", *rows]).encode()
    summary = run_ingest([f"{site.url}/list.csv?signature=secret"], gallery, embedder)
    assert (summary.new, summary.failed) == (4, 1)
    assert (summary.failures[0].path, summary.failures[0].reason) == (f"{site.url}/p/none.jpg", "no such file")
    assert "secret" not in repr(gallery.points)
    assert {payload["identity"] for _, payload in gallery.points.values()} == {"ann"}
    before = site.count("GET")
    again = run_ingest([f"{site.url}/list.csv?signature=other"], gallery, ColourEmbedder())
    assert (again.unchanged, again.failed, again.embedded) == (4, 1, 0)
    assert site.count("GET") == before + 2  # the list itself, and what a HEAD request did not find

    site.files["/list.csv"] += b"\n/p/none.jpg?signature=twice,bob"
    site.files["/list.csv"] += b"\nfile:///etc/passwd,eve"  # and what is no address of an image
    more = run_ingest([f"{site.url}/list.csv"], gallery, embedder)
    assert (more.unchanged, more.failed) == (4, 3)
    assert any("none.jpg" in one.path and one.reason == "line 7: an earlier row has it" for one in more.failures)
    assert any("etc/passwd" in one.path and one.reason.startswith("line 8: ") for one in more.failures)
    assert "signature" not in str(more.failures)


def test_verify_looks_at_the_objects(bucket, images, embedder, gallery):
    run_ingest([ROOT], gallery, embedder)
    assert verify_gallery(gallery, files=True).problems == []
    bucket.rm(f"/bucket/people/{images[0].name}")
    bucket.pipe(f"/bucket/people/{images[1].name}", b"x")
    found = verify_gallery(gallery, files=True).problems
    assert sorted((one.kind, one.path) for one in found) == [
        ("changed", f"{ROOT}/{images[1].name}"),
        ("missing", f"{ROOT}/{images[0].name}"),
    ]


def test_a_worker_reads_by_url_with_the_signature(site, images, gallery):
    for file in images[:3]:
        site.files[f"/p/{file.name}"] = file.read_bytes()
    site.files["/list.txt"] = "\n".join(f"{site.url}/p/{f.name}?signature=s" for f in images[:3]).encode()
    (chunk,) = scan_files(survey_roots([f"{site.url}/list.txt"]))
    work = unpack_work(pack_work(plan_files(chunk, gallery), whole=True))
    outcome = Outcome(0)
    job = Job(BundleCopy("", "", None), "cpu", 1, 2, 8, (), None)
    run_unit(work, outcome, ColourEmbedder(), job, gallery, threading.Event())
    assert (outcome.counts["new"], outcome.failures) == (3, [])
    assert all(path.endswith("?signature=s") for method, path in site.asked if method == "GET" and "/p/" in path)
    assert "signature" not in repr(gallery.points)
