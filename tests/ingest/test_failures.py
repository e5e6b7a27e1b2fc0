"""The list of failures: every failure, whatever its name, and no other file's end."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import ColourEmbedder, MemoryGallery, write_image
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.pipeline import run_ingest
from ingest.summary import FailureLog
from siamese_search.curation.export import export_gallery
from siamese_search.errors import DataError, UsageError


def read(path):
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(st.lists(st.tuples(st.binary(min_size=1, max_size=40), st.text(max_size=40)), max_size=8))
def test_any_name_comes_back_and_is_one_line(tmp_path, failures):
    path = tmp_path / "failures.jsonl"
    with FailureLog(path) as log:
        for name, reason in failures:
            log.write(os.fsdecode(name), reason)
    data = path.read_bytes()
    assert data.isascii()
    assert data.count(b"\n") == len(failures)
    assert not any(byte < 32 and byte != 10 for byte in data)
    got = read(path)
    assert [(os.fsencode(one["path"]), one["reason"]) for one in got] == failures
    assert all(one.keys() == {"path", "reason"} for one in got)


def test_each_run_begins_anew_and_an_empty_one_is_empty(tmp_path):
    path = tmp_path / "failures.jsonl"
    for reasons in (["a", "b"], ["c"], []):
        with FailureLog(path) as log:
            for reason in reasons:
                log.write("x.jpg", reason)
            assert [one["reason"] for one in read(path)] == reasons  # there at once, not at the end
        assert [one["reason"] for one in read(path)] == reasons


def test_a_killed_process_leaves_what_it_has_listed(tmp_path):
    path = tmp_path / "failures.jsonl"
    program = (
        "import os, signal, sys; from ingest.summary import FailureLog\n"
        "log = FailureLog(sys.argv[1])\n"
        "for number in range(3): log.write(f'{number}.jpg', 'why')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program, path], cwd=root, check=False)
    assert done.returncode == -9
    assert [one["path"] for one in read(path)] == ["0.jpg", "1.jpg", "2.jpg"]


@pytest.mark.parametrize("text", ["my notes\n", '{"other": 1}\n', "\x00"])
def test_somebody_elses_file_is_not_emptied(tmp_path, text):
    path = tmp_path / "notes"
    path.write_text(text)
    with pytest.raises(UsageError, match="not a list of failures"):
        FailureLog(path)
    assert path.read_text() == text


def test_an_image_is_not_emptied(tmp_path):
    path = write_image(tmp_path / "a.jpg")
    size = path.stat().st_size
    with pytest.raises(UsageError, match="the name of an image"):
        FailureLog(path)
    assert path.stat().st_size == size


def test_where_it_cannot_be_written(tmp_path):
    for path in (tmp_path, tmp_path / "no" / "where", tmp_path / ("x" * 300)):
        with pytest.raises(DataError, match=r"cannot be written.*--failures"):
            FailureLog(path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")  # noqa: PTH110
def test_a_full_disk_is_told_at_the_end_and_stops_nothing(tmp_path):
    write_image(tmp_path / "good.ppm")
    (tmp_path / "bad.ppm").write_bytes(b"junk")
    gallery = MemoryGallery()
    log = FailureLog("/dev/full")
    one = run_ingest([tmp_path], gallery, ColourEmbedder(), failures=log)
    assert (one.new, one.failed) == (1, 1)
    with pytest.raises(DataError, match="No space left"):
        log.close()
    log.close()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")  # noqa: PTH110
def test_what_ended_the_ingest_matters_more_than_its_list(tmp_path):
    write_image(tmp_path / "good.ppm")
    (tmp_path / "bad.ppm").write_bytes(b"junk")

    class Broken(ColourEmbedder):
        def embed(self, images):
            raise RuntimeError(f"no memory for {len(images)}")

    def ingest():
        with FailureLog("/dev/full") as log:
            run_ingest([tmp_path], MemoryGallery(), Broken(), failures=log)

    with pytest.raises(RuntimeError, match="no memory"):
        ingest()


def test_an_ingest_lists_all_and_keeps_a_few(tmp_path, monkeypatch):
    monkeypatch.setattr("ingest.summary.MAX_FAILURES", 3)
    root = tmp_path / "root"
    write_image(root / "good.ppm")
    for number in range(5):
        (root / f"bad{number}.ppm").write_bytes(b"junk")
    with FailureLog(tmp_path / "failures.jsonl") as log:
        one = run_ingest([root], MemoryGallery(), ColourEmbedder(), failures=log)
    assert (one.failed, len(one.failures)) == (5, 3)
    got = read(tmp_path / "failures.jsonl")
    assert {entry["path"] for entry in got} == {str(root / f"bad{number}.ppm") for number in range(5)}
    assert all("not an image" in entry["reason"] for entry in got)


def test_every_kind_of_dirt_is_named_and_nothing_of_it_stops_the_rest(tmp_path):
    """Real pipes, sockets, devices, links, and names that are no text, beside good images."""
    root = tmp_path / "root"
    good = [b"a.ppm", b"line\nbreak.ppm", b"latin\xe9.ppm", b"100%.ppm", "日本.ppm".encode(), b"-rf.ppm", b" .ppm"]
    for name in good:
        write_image(root / "made.ppm", seed=name).rename(root / os.fsdecode(name))
    (root / "folder").mkdir()
    write_image(tmp_path / "outside" / "secret.ppm")
    dirt = {
        b"pipe.ppm": "not a regular file",
        b"socket.jpg": "not a regular file",
        b"null.png": "not a regular file",
        b"zero.png": "not a regular file",
        b"loop.png": "a loop of symbolic links",
        b"broken\xff.png": "a link that leads nowhere",
        b"out\nside.ppm": "a link that leads out of the directory, which is not followed",
        b"folder/up": "a link to a directory, which is not followed",
        b"away": "a link to a directory, which is not followed",
        b"empty.ppm": "empty file",
        b"junk\xfe.ppm": "not an image",
    }
    os.mkfifo(root / "pipe.ppm")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(root / "socket.jpg"))
    for name, target in {
        b"null.png": b"/dev/null",
        b"zero.png": b"/dev/zero",
        b"loop.png": b"loop.png",
        b"broken\xff.png": b"nowhere",
        b"out\nside.ppm": b"../outside/secret.ppm",
        b"folder/up": b"..",
        b"away": b"../outside",
    }.items():
        os.symlink(target, os.path.join(os.fsencode(root), name))  # noqa: PTH118, PTH211 - bytes
    (root / "empty.ppm").touch()
    (root / os.fsdecode(b"junk\xfe.ppm")).write_bytes(b"junk")
    for checksum in (False, True):
        with FailureLog(tmp_path / "failures.jsonl") as log:
            one = run_ingest([root], MemoryGallery(), ColourEmbedder(), layout="flat", checksum=checksum, failures=log)
        assert (one.new, one.failed, one.seen) == (len(good), len(dirt), len(good) + len(dirt))
        got = {os.fsencode(os.path.relpath(entry["path"], root)): entry["reason"] for entry in read(log.path)}
        assert got.keys() == dirt.keys()
        for name, reason in dirt.items():
            assert reason in got[name], name
        assert all("\n" not in failure.shown and failure.shown.isprintable() for failure in one.failures)
    one = run_ingest([root], MemoryGallery(), ColourEmbedder(), layout="flat", follow_links=True)
    assert one.new == len(good) + 2  # out\nside.ppm and away/secret.ppm


def test_files_that_vanish_between_the_scan_and_the_reading_are_named(tmp_path):
    for number in range(6):
        write_image(tmp_path / f"{number}.ppm")
    gallery = MemoryGallery()

    def retrieve(ids, **_):  # the scan is done by then, and nothing is decoded
        (tmp_path / "2.ppm").unlink(missing_ok=True)
        if not (tmp_path / "4.ppm").is_fifo():
            (tmp_path / "4.ppm").unlink()
            os.mkfifo(tmp_path / "4.ppm")
        return [None for _ in ids]

    gallery.retrieve = retrieve
    one = run_ingest([tmp_path], gallery, ColourEmbedder())
    assert one.new == 4
    assert [(Path(f.path).name, f.reason) for f in one.failures] == [
        ("2.ppm", "no such file"),
        ("4.ppm", "not a regular file"),
    ]


def test_two_runs_do_not_share_a_list(tmp_path):
    path = tmp_path / "failures.jsonl"
    with FailureLog(path) as first:
        first.write("a.jpg", "broken")
        with pytest.raises(UsageError, match="give each its own file"):
            FailureLog(path)
        first.write("b.jpg", "broken")
    assert [json.loads(line)["path"] for line in path.read_text().splitlines()] == ["a.jpg", "b.jpg"]
    with FailureLog(path):
        pass
    assert path.read_text() == ""


def test_rows_that_name_an_image_twice_or_one_elsewhere_cost_nothing_but_themselves(tmp_path, gallery, embedder):
    for name in ("in/a.jpg", "in/b.jpg", "out.jpg"):
        write_image(tmp_path / name, seed=name)
    table = tmp_path / "in" / "people.csv"
    table.write_text("path,identity\na.jpg,ann\n../out.jpg,eve\n./a.jpg,bob\nb.jpg,bob\n")
    one = run_ingest([table], gallery, embedder)
    assert (one.new, one.failed) == (2, 2)
    assert {payload["identity"] for _, payload in gallery.points.values()} == {"ann", "bob"}
    reasons = {Path(failure.path).name: failure.reason for failure in one.failures}
    assert reasons["a.jpg"] == "line 4: an earlier row has it"
    assert reasons["out.jpg"].startswith("line 3: '../out.jpg' leaves")


def test_a_pipe_that_nobody_reads_does_not_hold_the_run(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="cannot be written"):
        FailureLog(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with FailureLog(tmp_path / "pipe") as log:
        log.write("a.jpg", "x")
    assert os.read(reader, 100).startswith(b'{"path"')
    os.close(reader)


@pytest.mark.parametrize("first", [True, False])
def test_rows_with_more_or_fewer_cells_than_the_header_cost_nothing_but_themselves(tmp_path, gallery, embedder, first):
    for name in "abc":
        write_image(tmp_path / f"{name}.jpg", seed=name)
    rows = ["b.jpg", "x,a.jpg,ann,1,2", ""]
    table = tmp_path / "people.csv"
    table.write_text("\n".join(["id,path,identity", *(rows * first), "7,c.jpg,cy", *(rows * (not first))]))
    one = run_ingest([table], gallery, embedder)
    assert (one.new, one.failed) == (1, 2)
    assert [failure.reason.partition("; ")[0] for failure in one.failures] == [
        f"line {3 - first}: 1 fields where the header has 3",
        f"line {4 - first}: 5 fields where the header has 3",
    ]
    table.write_text("path,identity\na.jpg\n")
    with pytest.raises(DataError, match="line 2: 1 fields where the header has 2"):
        run_ingest([table], gallery, embedder)


def test_a_row_is_named_by_its_line_whatever_the_table_is_called(tmp_path, gallery, embedder):
    write_image(tmp_path / "a.jpg")
    table = tmp_path / "of: line 9.csv"
    table.write_text("path,identity\na.jpg,ann\na.jpg,bob\n")
    (failure,) = run_ingest([table], gallery, embedder).failures
    assert failure.reason == "line 3: an earlier row has it"


def test_an_export_comes_back_with_names_that_are_no_text(tmp_path, gallery, embedder):
    names = [os.fsdecode(b"\xff\xfe.jpg"), "%41.jpg", "a\nb.jpg"]
    for number, name in enumerate(names):
        write_image(tmp_path / "in" / name, seed=number)
    run_ingest([tmp_path / "in"], gallery, embedder)
    export_gallery(gallery, tmp_path / "all.csv", "csv", vectors=False)
    again = MemoryGallery()
    one = run_ingest([tmp_path / "all.csv"], again, embedder)
    assert (one.new, one.failed) == (3, 0)
    paths = [{payload["path"] for _, payload in each.points.values()} for each in (gallery, again)]
    assert paths[0] == paths[1]
