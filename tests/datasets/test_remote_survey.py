"""Layouts of listed names and of lists of URLs: as for a directory, without one."""

import pytest
from fakes import write_image
from web import serve

from ingest.scan import scan_files
from siamese_search.datasets.remote_survey import survey_remote
from siamese_search.datasets.walk import PassedOver
from siamese_search.errors import DataError, UsageError

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")


@pytest.fixture
def bucket():
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    yield memory
    memory.store.clear()


@pytest.fixture
def site():
    with serve() as found:
        yield found


def put(bucket, *names):
    for name in names:
        bucket.pipe(f"/bucket/{name}", b"x")


def told(survey):
    return [(record.key, str(record.path), record.identity, record.camera) for record in survey.stream()]


@pytest.mark.parametrize(
    ("names", "layout", "expected"),
    [
        (
            ["in/ann/1.jpg", "in/ann/2.png", "in/bob/x/3.jpg", "in/notes.txt", "in/.hidden/4.jpg"],
            "folders",
            [("ann/1.jpg", "ann", None), ("ann/2.png", "ann", None), ("bob/x/3.jpg", "bob", None)],
        ),
        (
            ["in/0002_c1s1_000451_03.jpg", "in/q/0003_c2s1_000001_01.jpg"],
            "market1501",
            [("0002_c1s1_000451_03.jpg", "0002", "1"), ("q/0003_c2s1_000001_01.jpg", "0003", "2")],
        ),
        (["in/a 100%.jpg", "in/b.jpg"], "flat", [("a 100%25.jpg", None, None), ("b.jpg", None, None)]),
    ],
)
def test_the_layout_of_a_prefix(bucket, names, layout, expected):
    put(bucket, *names, "elsewhere/0001_c1s1_000451_03.jpg")
    survey = survey_remote("memory://bucket/in/")
    assert survey.detection.layout == layout
    assert survey.images == len(expected)
    assert survey.source == "memory://bucket/in"
    found = told(survey)
    assert [(key, identity, camera) for key, _, identity, camera in found] == expected
    assert [path for _, path, _, _ in found] == [
        f"memory://bucket/in/{key.replace('%25', '%')}" for key, _, _ in expected
    ]
    assert survey.keys() == {key for key, _, _ in expected}
    assert all(record.path.stamp.size == 1 for record in survey.stream())


def test_what_is_passed_over_is_named(bucket):
    put(bucket, "in/a/1.jpg", "in/b/1.jfif", "in/b/2.AVIF", "in/b/notes.txt", "in/stray.jpg")
    put(bucket, "in/a/@eaDir/1.jpg/S.jpg", "in/a/@eaDir/2.jpg/S.jpg", "in/b/@eaDir/1.jpg/S.jpg")
    survey = survey_remote("memory://bucket/in")
    assert [key for key, *_ in told(survey)] == ["a/1.jpg", "b/1.jfif"]
    passed = {one.relative: one.reason for one in survey.stream_all() if isinstance(one, PassedOver)}
    assert sorted(passed) == ["a/@eaDir", "b/2.AVIF", "stray.jpg"]
    assert "like 1 more" in passed["a/@eaDir"]
    [files] = list(scan_files([survey]))
    assert {f.path: f.reason for f in files if "stray" in f.path} == {
        "memory://bucket/in/stray.jpg": passed["stray.jpg"]
    }


@pytest.mark.parametrize(
    ("names", "layout", "words"),
    [
        ([], "auto", "no images below it"),
        (["in/a.txt"], "auto", "no images below it"),
        (["in/a.jpg"], "market1501", "does not fit 1 image: a.jpg"),
        (["in/a.jpg", "in/b.jpg", "in/b/c.jpg"], "folders", "does not fit 2 images: a.jpg, b.jpg"),
        (["in/train/c.jpg", "in/test/c.jpg"], "auto", "parts of a data set"),
    ],
)
def test_what_does_not_fit_is_an_error_that_names_it(bucket, names, layout, words):
    put(bucket, *names)
    with pytest.raises(DataError, match=words) as failed:
        survey_remote("memory://bucket/in", layout)
    assert "memory://bucket/in: " in str(failed.value)


def test_layouts_that_are_not_for_prefixes_or_lists(bucket, site):
    put(bucket, "in/a.jpg")
    with pytest.raises(UsageError, match="is for tables"):
        survey_remote("memory://bucket/in", "csv")
    with pytest.raises(UsageError, match="unknown layout"):
        survey_remote("memory://bucket/in", "spiral")
    with pytest.raises(UsageError, match="has the layout csv"):
        survey_remote(site.url + "/list.csv", "folders")
    with pytest.raises(UsageError, match="a web server lists nothing"):
        survey_remote(site.url + "/photos/?secret")


def test_a_list_of_urls_with_columns(site):
    rows = [
        "path,identity,camera,frame",
        "https://cdn.example.org/p/1.jpg?X-Amz-Signature=secret,ann,2,7",
        "people/2%20b.jpg,bob,,",
        "s3://bucket/3.jpg,,1,9",
    ]
    site.files["/lists/all.csv"] = "\n".join(rows).encode()
    survey = survey_remote(site.url + "/lists/all.csv?token=secret")
    host = site.url.removeprefix("http://")
    assert told(survey) == [
        ("cdn.example.org/p/1.jpg", "https://cdn.example.org/p/1.jpg", "ann", "2"),
        (f"{host}/lists/people/2%2520b.jpg", f"{site.url}/lists/people/2%20b.jpg", "bob", None),
        ("bucket/3.jpg", "s3://bucket/3.jpg", None, "1"),
    ]
    records = list(survey.stream())
    assert records[0].path.address.endswith("?X-Amz-Signature=secret")
    assert [record.metadata for record in records] == [{"frame": 7}, {}, {"frame": 9}]
    assert survey.source == f"{site.url}/lists/all.csv"
    assert "secret" not in survey.detection.reason


def test_a_plain_list_and_one_image(site, tmp_path):
    site.files["/urls.txt"] = b"https://example.org/a.jpg\nhttps://example.org/b,c.jpg\n"
    keys = [key for key, *_ in told(survey_remote(site.url + "/urls.txt"))]
    assert keys == ["example.org/a.jpg", "example.org/b,c.jpg"]
    site.files["/x/one.jpg"] = write_image(tmp_path / "a.jpg").read_bytes()
    survey = survey_remote(site.url + "/x/one.jpg")
    assert (survey.images, survey.source) == (1, site.url)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"path\nfile:///etc/passwd\n", "line 2: .*directories, s3://"),
        (b"path\nhttp://example.org/a.jpg\n", "line 2: .*plain http"),
        (b"path\nhttps://a:secret@example.org/a.jpg\n", "line 2: .*user and password"),
        (b"name\nhttps://example.org/a.jpg\n", "no path column"),
        (b"path\n", "no rows"),
        (b"\x00\x01", "list.csv: not a text file"),
        (b"", "empty file"),
        (None, "no such file"),
    ],
)
def test_lists_from_strangers(site, content, words):
    if content is not None:
        site.files["/list.csv"] = content
    with pytest.raises(DataError, match=words) as failed:
        survey_remote(site.url + "/list.csv")
    assert "secret" not in str(failed.value)
    assert "/tmp" not in str(failed.value)
