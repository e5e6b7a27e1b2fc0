"""Reading by URL: over fsspec's memory, and from a web server on this machine that misbehaves."""

import asyncio
import datetime
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from fakes import write_image
from web import serve

from siamese_search.errors import DataError, ImageError, MissingExtraError, UsageError
from siamese_search.io import images, remote
from siamese_search.io.images import read_image
from siamese_search.io.location import CHANGED, MAX_BYTES, FileStamp, RemotePath
from siamese_search.io.remote import check_url, fetch, list_objects, look_up, stamp_of

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr(remote, "_sleep", lambda _: None)
    with serve() as found:
        yield found


@pytest.fixture
def bucket():
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    yield memory
    memory.store.clear()


@pytest.fixture
def picture(tmp_path):
    return write_image(tmp_path / "a.jpg", size=(64, 32)).read_bytes()


def get(url, **options):
    return fetch(RemotePath.of(url), **options)


def test_an_image_is_decoded_as_from_a_file(site, bucket, picture, tmp_path):
    site.files["/a.jpg"] = picture
    bucket.pipe("/b/a.jpg", picture)
    expected = read_image(tmp_path / "a.jpg", (16, 8))
    for url in (site.url + "/a.jpg", "memory://b/a.jpg"):
        assert np.array_equal(read_image(RemotePath.of(url), (16, 8)), expected)
        stamped = RemotePath.of(url, look_up(url))
        assert np.array_equal(read_image(stamped, (16, 8), expected=stamped.stamp), expected)


@pytest.mark.parametrize(
    ("fault", "reason", "tries"),
    [
        (404, "no such file", 1),
        (403, "permission denied", 1),
        (500, "the server answers 500", remote.TRIES),
        (429, "the server answers 429", remote.TRIES),
        ("truncated", "the connection ended before the whole file had come", remote.TRIES),
    ],
)
def test_each_failure_has_its_reason_and_only_what_may_pass_is_tried_again(site, picture, fault, reason, tries):
    site.files["/a.jpg"], site.faults["/a.jpg"] = picture, fault
    with pytest.raises(ImageError) as failed:
        get(site.url + "/a.jpg?signature=secret")
    assert failed.value.reason == reason
    assert "secret" not in str(failed.value)
    assert site.count("GET") == tries


def test_what_passes_is_not_noticed(site, picture):
    site.files["/a.jpg"], site.faults["/a.jpg"] = picture, [503, "truncated"]
    assert get(site.url + "/a.jpg") == picture
    assert site.count("GET") == 3


def test_a_server_that_is_slow_is_given_up(site, picture, monkeypatch):
    monkeypatch.setattr(remote, "TIMEOUT", 0.2)
    monkeypatch.setattr(remote, "TRIES", 1)
    remote._filesystem.cache_clear()
    site.files["/a.jpg"], site.faults["/a.jpg"] = picture, "slow"
    try:
        with pytest.raises(ImageError, match="no answer within 0 s"):
            get(site.url + "/a.jpg")
    finally:
        remote._filesystem.cache_clear()


def test_nothing_there_is_no_answer_either(monkeypatch):
    monkeypatch.setattr(remote, "_sleep", lambda _: None)
    with pytest.raises(ImageError, match="cannot be read"):
        get("http://127.0.0.1:9/a.jpg")


def test_a_stream_without_end_ends_at_the_limit(site):
    site.files["/a.jpg"], site.faults["/a.jpg"] = b"x", "endless"
    with pytest.raises(ImageError, match="over the limit of 100000 bytes"):
        get(site.url + "/a.jpg", limit=100_000)


def test_bodies_of_unknown_size_are_read_together_while_small_and_large_ones_alone(site, monkeypatch):
    monkeypatch.setattr(images, "_UNKNOWN_BYTES", 50_000)
    monkeypatch.setattr(images, "_MOST_BYTES", 900_000)
    limits, alone, real = [], threading.Semaphore(), images.content_of

    def content_of(path, expected=None, *, limit=MAX_BYTES):
        limits.append(limit)
        if limit == MAX_BYTES:
            assert alone.acquire(blocking=False)
        try:
            return real(path, expected, limit=limit)
        finally:
            if limit == MAX_BYTES:
                alone.release()

    monkeypatch.setattr(images, "content_of", content_of)
    site.files["/a.jpg"], site.faults["/a.jpg"] = b"x", "endless"

    def reason(_):
        with pytest.raises(ImageError) as failed:
            read_image(RemotePath.of(site.url + "/a.jpg"))
        return failed.value.reason

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(reason, range(6))) == {"object is over the limit of 900000 bytes"}
    assert sorted(limits) == [50_000] * 6 + [MAX_BYTES] * 6


def test_a_body_that_is_longer_than_was_said_is_not_read_on(site):
    site.files["/a.jpg"], site.faults["/a.jpg"] = b"x", "endless"
    with pytest.raises(ImageError, match=CHANGED):
        get(site.url + "/a.jpg", expected=FileStamp(1000, 0))


def test_what_is_listed_as_too_large_is_not_asked_for(site, bucket):
    site.files["/a.jpg"] = b"x"
    bucket.pipe("/b/a.jpg", b"x" * 200)
    with pytest.raises(ImageError, match="object of 101 bytes is over the limit of 100"):
        get(site.url + "/a.jpg", expected=FileStamp(101, 0), limit=100)
    with pytest.raises(ImageError, match="object of 200 bytes is over the limit of 100"):
        get("memory://b/a.jpg", limit=100)
    assert site.asked == []


def test_empty_changed_and_missing_objects(site, bucket, picture):
    site.files |= {"/empty.jpg": b"", "/a.jpg": picture}
    with pytest.raises(ImageError, match="empty file"):
        get(site.url + "/empty.jpg")
    with pytest.raises(ImageError, match=CHANGED):
        get(site.url + "/a.jpg", expected=FileStamp(len(picture) - 1, 0))
    for ask in (get, look_up):
        with pytest.raises(ImageError, match="no such file"):
            ask("memory://b/none.jpg")
        with pytest.raises(ImageError, match="no such file"):
            ask(site.url + "/none.jpg")


def test_a_page_is_not_an_image(site):
    site.files["/a.jpg"] = b"<html>log in</html>"
    with pytest.raises(ImageError, match="not an image in one of"):
        read_image(RemotePath.of(site.url + "/a.jpg"))


def test_a_look_is_a_head_request_and_tells_states_apart(site, picture):
    site.files["/a.jpg"] = picture
    stamp = look_up(site.url + "/a.jpg")
    assert stamp.size == len(picture)
    assert stamp.mtime_ns // 10**9 == datetime.datetime(2015, 10, 21, 7, 28, tzinfo=datetime.UTC).timestamp()
    assert {method for method, _ in site.asked} == {"HEAD"}
    assert look_up(site.url + "/a.jpg") == stamp
    site.files["/a.jpg"] = picture[::-1]  # of the same size and time: only the ETag differs
    assert look_up(site.url + "/a.jpg") != stamp


@pytest.mark.parametrize("fault", [404, 500])
def test_a_look_that_fails_says_why(site, picture, fault):
    site.files["/a.jpg"], site.faults["/a.jpg"] = picture, fault
    with pytest.raises(ImageError, match="no such file" if fault == 404 else "the server answers 500"):
        look_up(site.url + "/a.jpg")


def test_stamps_of_the_providers_listings():
    when = datetime.datetime(2024, 2, 3, 4, 5, 6, 700_000, tzinfo=datetime.UTC)
    seconds = int(when.timestamp())
    s3 = stamp_of({"size": 5, "LastModified": when, "ETag": '"abc"'})
    gs = stamp_of({"size": 5, "updated": "2024-02-03T04:05:06.700Z", "md5Hash": '"abc"', "etag": "x"})
    assert s3 == gs
    assert s3.mtime_ns // 10**9 == seconds
    assert stamp_of({"size": 5, "LastModified": when}).mtime_ns == seconds * 10**9
    assert stamp_of({"size": None, "Last-Modified": "soon"}) == FileStamp(0, 0)


def test_a_prefix_is_listed_whole_and_in_order(bucket):
    for name in ("p/b.jpg", "p/a/1.jpg", "p/a.jpg", "other/c.jpg", "pp/d.jpg"):
        bucket.pipe(f"/bucket/{name}", b"xx")
    assert [name for name, _ in list_objects("memory://bucket/p")] == ["a.jpg", "a/1.jpg", "b.jpg"]
    assert all(stamp.size == 2 and stamp.mtime_ns > 0 for _, stamp in list_objects("memory://bucket/p/"))


def test_a_listing_that_fails_is_an_error_and_never_a_part(bucket, monkeypatch):
    bucket.pipe("/bucket/a.jpg", b"xx")
    monkeypatch.setattr(remote, "_sleep", lambda _: None)

    def fail(*_, **__):
        raise PermissionError("https://host/?token=secret denied")

    monkeypatch.setattr(type(bucket), "find", fail)
    with pytest.raises(DataError, match="memory://bucket: cannot be listed: permission denied"):
        list(list_objects("memory://bucket"))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://host/a", "directories, s3://, gs:// and https://"),
        ("file:///etc/passwd", "directories, s3://"),
        ("http://example.org/a.jpg", "plain http"),
        ("http://127.0.0.1.example.org/a.jpg", "plain http"),
        ("https://me:secret@example.org/a.jpg", "user and password"),
    ],
)
def test_what_is_not_read_or_not_safe_is_refused(url, words):
    with pytest.raises(UsageError, match=words) as refused:
        check_url(url)
    assert "secret" not in str(refused.value)
    with pytest.raises(ImageError):
        get(url)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("http://127.0.0.2:{port}/b.jpg?token=secret", "redirects to http://127.0.0.2:{port}/b.jpg: plain http"),
        ("//127.0.0.2:{port}/b.jpg", "plain http"),
        ("http://169.254.169.254/latest", "plain http"),
        ("http://me:secret@127.0.0.1:{port}/b.jpg", "user and password"),
        ("ftp://127.0.0.1/b.jpg", "directories, s3://"),
        ("file:///etc/passwd", "directories, s3://"),
    ],
)
def test_a_redirect_leads_nowhere_that_a_url_may_not(site, picture, target, words):
    port = site.url.rpartition(":")[2]
    site.files |= {"/a.jpg": picture, "/b.jpg": picture}
    site.faults["/a.jpg"] = "->" + target.format(port=port)
    for ask in (get, look_up):
        with pytest.raises(ImageError) as refused:
            ask(site.url + "/a.jpg")
        assert words.format(port=port) in refused.value.reason
        assert "secret" not in str(refused.value)
    assert {path for _, path in site.asked} == {"/a.jpg"}
    assert site.count("GET") == 2  # a look asks so too, once HEAD has failed


def test_a_redirect_that_a_url_may_is_followed(site, picture):
    site.files |= {"/a.jpg": picture, "/b.jpg": picture}
    site.faults["/a.jpg"] = "->/b.jpg"
    assert get(site.url + "/a.jpg") == picture


def test_nobody_elses_redirect_leads_to_this_machine(site, picture, monkeypatch):
    monkeypatch.setenv("SSS_INSECURE", "1")
    monkeypatch.setattr(remote, "_LOOPBACK", ("localhost",))  # 127.0.0.1 stands for another machine
    site.files |= {"/a.jpg": picture, "/b.jpg": picture}
    site.faults["/a.jpg"] = f"->http://localhost:{site.url.rpartition(':')[2]}/b.jpg"
    with pytest.raises(ImageError, match="redirects to this machine"):
        get(site.url + "/a.jpg")


@pytest.mark.parametrize(
    ("sender", "target", "words"),
    [
        *[
            ("example.org", host, "redirects to this machine")
            for host in (
                "127.0.0.1", "127.0.0.2", "127.1", "2130706433", "0x7f000001", "0.0.0.0", "0", "[::1]", "[::]",
                "[::ffff:127.0.0.1]", "localhost", "localhost.", "a.localhost", "LOCALHOST", "127.0.0.1.",
            )
        ],
        ("127.0.0.2", "127.0.0.1", "redirects to this machine"),
        *[
            ("example.org", host, "an address of an inner network")
            for host in (
                "169.254.169.254", "2852039166", "10.0.0.1", "192.168.1", "[fe80::1]", "[fd00::1]", "[::ffff:10.0.0.1]",
            )
        ],
        ("example.org", "example.com", None),
        ("example.org", "93.184.215.14", None),
        ("127.0.0.1", "localhost", None),
        ("localhost", "10.0.0.1", None),
        ("10.0.0.1", "10.0.0.2", None),
    ],
)  # fmt: skip
def test_nobody_sends_us_further_in_than_he_is_himself(monkeypatch, sender, target, words):
    from yarl import URL

    monkeypatch.setenv("SSS_INSECURE", "1")
    for scheme in ("http", "https"):
        answer = SimpleNamespace(headers={"Location": f"{scheme}://{target}/a.jpg"})
        seen = SimpleNamespace(url=URL(f"https://{sender}/a.jpg"), response=answer)
        asked = remote._check_redirect(None, None, seen)
        if words is None:
            asyncio.run(asked)
            continue
        with pytest.raises(UsageError, match=words):
            asyncio.run(asked)


def test_a_name_of_an_inner_network_may_send_us_to_its_neighbour(monkeypatch):
    from yarl import URL

    real = remote.socket.getaddrinfo
    monkeypatch.setattr(
        remote.socket, "getaddrinfo", lambda host, *a, **k: real(host.replace("nas", "10.0.0.1"), *a, **k)
    )
    answer = SimpleNamespace(headers={"Location": "https://10.0.0.2/a.jpg"})
    asyncio.run(remote._check_redirect(None, None, SimpleNamespace(url=URL("https://nas/a.jpg"), response=answer)))


def test_insecure_allows_http(monkeypatch):
    monkeypatch.setenv("SSS_INSECURE", "1")
    assert check_url("http://example.org/a.jpg") == "http"


def test_a_missing_package_is_named(monkeypatch):
    remote._filesystem.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(MissingExtraError, match=r"s3:// needs the \[cloud\] extra"):
        check_url("s3://bucket/a")
    remote._filesystem.cache_clear()
