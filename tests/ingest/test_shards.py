"""Shards: parts of a directory that are disjoint, complete, and together do what one run does."""

import csv
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys

import pytest
from fakes import ColourEmbedder, MemoryGallery, write_image, write_market
from hypothesis import given
from hypothesis import strategies as st

from ingest.pipeline import run_ingest
from ingest.run import ingest
from ingest.scan import MAX_SHARDS, Shard, parse_shard, scan_files, shard_of, survey_roots
from ingest.summary import FailureLog
from siamese_search.datasets.demo import generate_demo
from siamese_search.datasets.layouts import survey
from siamese_search.errors import UsageError
from siamese_search.gallery import open_gallery
from tests.gallery import memory

keys_of_files = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1)


def points(gallery):
    """Everything that is in a gallery: id -> (payload, the vector's bits)."""
    found = {}
    for point in gallery.scroll(with_vectors=True):
        found[point.id] = (dict(point.payload), point.vector.tobytes())
    return found


def in_shards(roots, gallery, count, order=None, **options):
    """Ingest all shards, one after the other; their summaries."""
    return [
        run_ingest(roots, gallery, ColourEmbedder(), shard=Shard(index, count), batch_size=4, **options)
        for index in (range(count) if order is None else order)
    ]


# Which file is in which shard.


@given(keys_of_files, st.integers(1, MAX_SHARDS))
def test_every_key_is_in_exactly_one_shard(key, count):
    # Of the hash as a fraction in [0, 1), shard i has the part from i/n up to (i + 1)/n.
    fraction = int(hashlib.blake2b(key.encode(), digest_size=8).hexdigest(), 16)
    where = shard_of(key, count)
    assert where * 2**64 <= fraction * count < (where + 1) * 2**64
    assert 0 <= where < count
    near = {max(0, where - 1), where, min(count - 1, where + 1), 0, count - 1}
    assert [index for index in sorted(near) if Shard(index, count).has(key)] == [where]


@given(st.sets(keys_of_files, max_size=30), st.integers(1, 7))
def test_shards_are_disjoint_and_complete(keys, count):
    parts = [{key for key in keys if Shard(index, count).has(key)} for index in range(count)]
    assert set().union(*parts) == keys
    assert sum(map(len, parts)) == len(keys)


def test_where_keys_are_may_never_change():
    names = ["0001_c1s1_000451_03.jpg", "ann/1.jpg", "ü/%FF.png"]
    assert [[shard_of(name, count) for name in names] for count in (2, 4, 7, 1000)] == [
        [1, 1, 1], [2, 3, 3], [3, 6, 5], [517, 936, 774],
    ]  # fmt: skip


@pytest.mark.parametrize("count", [2, 3, 4, 6, 7, 16])
def test_shares_are_even_whatever_the_names_have_in_common(count):
    names = [
        f"{identity:04d}_c{camera}s1_{1000 * identity:06d}_01.jpg" for identity in range(1500) for camera in (1, 2)
    ]
    sizes = [0] * count
    for name in names:
        sizes[shard_of(name, count)] += 1
    expected = len(names) / count
    # Chi-squared of an even spread: its mean is count - 1, its standard deviation the root of twice that.
    surprise = sum((size - expected) ** 2 / expected for size in sizes)
    assert surprise < count - 1 + 4 * (2 * (count - 1)) ** 0.5


def test_added_files_move_no_others(tmp_path):
    write_market(tmp_path, identities=4)

    def parts():
        surveys = survey_roots([tmp_path])
        return [
            {one.record.key for chunk in scan_files(surveys, shard=Shard(index, 3)) for one in chunk}
            for index in range(3)
        ]

    before = parts()
    write_market(tmp_path, identities=8)
    assert all(old <= new for old, new in zip(before, parts(), strict=True))


@pytest.mark.parametrize(
    "text", ["4/4", "-1/2", "a/b", "0/0", "1", "", "/", "1/", "/2", "0/-4", "0/4/2", "0.5/2", " 0/4", "0/4\n", "٣/٤",
             f"0/{MAX_SHARDS + 1}", "9" * 5000 + "/4", "1/" + "9" * 5000, "auto", "auto/0", "AUTO/4"],
)  # fmt: skip
def test_what_is_no_shard_is_refused_in_one_line(text, monkeypatch):
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    with pytest.raises(UsageError) as refused:
        parse_shard(text)
    assert "\n" not in str(refused.value)
    assert "/" in str(refused.value)


def test_kubernetes_says_which_shard_a_pod_is(monkeypatch):
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "3")
    assert parse_shard("auto/4") == Shard(3, 4) == parse_shard("3/4")
    for told in ("", "x", "4"):
        monkeypatch.setenv("JOB_COMPLETION_INDEX", told)
        with pytest.raises(UsageError):
            parse_shard("auto/4")
    monkeypatch.delenv("JOB_COMPLETION_INDEX")
    with pytest.raises(UsageError, match="is not set"):
        parse_shard("auto/4")


# All shards together are one run.


def folders(root):
    for name in ("ann", "bob", "cid"):
        for number in range(4):
            write_image(root / name / f"{number}.jpg")
    return root


def table(root):
    folders(root)
    with (root / "table.csv").open("w", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow(["path", "identity", "camera", "age", "note"])
        for number, path in enumerate(sorted(root.glob("*/*.jpg"))):
            rows.writerow(
                [path.relative_to(root), path.parent.name, number % 3, number, "x" if number == 5 else number]
            )
    return root / "table.csv"


def triplets(root):
    folders(root)
    rows = ["Anchor,Positive,Negative", "ann/0.jpg,ann/1.jpg,bob/0.jpg", "bob/0.jpg,bob/1.jpg,cid/2.jpg"]
    (root / "triplets.csv").write_text("\n".join(rows) + "\n")
    return root / "triplets.csv"


def market(root):
    write_market(root, identities=4)
    return root


def flat(root):
    for name in (b"a\xff.jpg", b"50%.jpg", b"\xc3\xbc.jpg", b"line\nbreak.jpg", b"deep/er/x.jpg"):
        write_image(root / os.fsdecode(name), seed=name)
    return root


@pytest.mark.parametrize("lay_out", [folders, table, triplets, market, flat])
@pytest.mark.parametrize("count", [1, 4])
def test_the_gallery_is_that_of_one_run(tmp_path, lay_out, count):
    root = lay_out(tmp_path / "images")
    one, several = MemoryGallery(), MemoryGallery()
    whole = run_ingest([root], one, ColourEmbedder())
    parts = in_shards([root], several, count)
    assert points(several) == points(one)
    assert len(one.points) > 4
    assert sum(part.new for part in parts) == whole.new
    assert sum(part.seen for part in parts) == whole.seen
    again = in_shards([root], several, count)
    assert sum(part.unchanged for part in again) == whole.new
    assert sum(part.embedded for part in again) == 0


def test_all_shards_see_the_layout_of_all_names(tmp_path):
    root = tmp_path / "images"
    named = (f"{number:04d}_c1s1_{number:06d}_01.jpg" for number in itertools.count(1))
    plain = (f"{number}.jpg" for number in itertools.count())
    in_first = itertools.islice((name for name in named if Shard(0, 4).has(name)), 3)
    in_others = itertools.islice((name for name in plain if not Shard(0, 4).has(name)), 6)
    for name in (*in_first, *in_others):
        write_image(root / name)
    part = tmp_path / "part"  # by its own names the first shard would have another layout
    shutil.copytree(root, part, ignore=lambda _, names: [name for name in names if not Shard(0, 4).has(name)])
    assert (survey(part).detection.layout, survey(root).detection.layout) == ("market1501", "flat")
    one, several = MemoryGallery(), MemoryGallery()
    run_ingest([root], one, ColourEmbedder())
    in_shards([root], several, 4)
    assert points(several) == points(one)
    assert not any("identity" in payload for payload, _ in points(several).values())


def test_several_roots_under_one_source(tmp_path):
    roots = [folders(tmp_path / "a"), flat(tmp_path / "b")]
    one, several = MemoryGallery(), MemoryGallery()
    run_ingest(roots, one, ColourEmbedder(), source="nas", layout="flat")
    in_shards(roots, several, 3, source="nas", layout="flat")
    assert points(several) == points(one)


def test_failures_are_told_by_one_shard_each_and_end_none(tmp_path):
    root = folders(tmp_path / "images")
    for number in range(3):
        (root / "ann" / f"broken{number}.jpg").write_bytes(b"no image")
    os.mkfifo(root / "bob" / "pipe.jpg")
    (root / "link").symlink_to(tmp_path)
    lists = []
    gallery = MemoryGallery()
    for index in range(12):
        lists.append(tmp_path / f"failures-{index}.jsonl")
        with FailureLog(lists[-1]) as log:
            done = run_ingest([root], gallery, ColourEmbedder(), shard=Shard(index, 12), failures=log)
        assert done.failed == len(lists[-1].read_text().splitlines())
    told = sorted(json.loads(line)["path"] for path in lists for line in path.read_text().splitlines())
    names = ["ann/broken0.jpg", "ann/broken1.jpg", "ann/broken2.jpg", "bob/pipe.jpg", "link"]
    assert told == [str(root / name) for name in names]
    assert len(gallery.points) == 12


def test_a_shard_may_be_empty_or_all_broken(tmp_path):
    (tmp_path / "only.jpg").write_bytes(b"no image")
    done = in_shards([tmp_path], MemoryGallery(), 5)
    assert sorted((one.seen, one.failed) for one in done) == [(0, 0)] * 4 + [(1, 1)]


# Pruning.


def test_shards_prune_what_one_run_would(tmp_path):
    root, gallery = tmp_path / "images", MemoryGallery()
    for number in range(40):
        write_image(root / f"{number}.jpg")
    run_ingest([root], gallery, ColourEmbedder())
    gone = [f"{number}.jpg" for number in range(8)]  # a fifth, and of some shards far more
    for name in gone:
        (root / name).unlink()
    done = in_shards([root], gallery, 5, prune="safe")
    assert [one.prune_refused for one in done] == [None] * 5
    assert [one.removed for one in done] == [sum(shard_of(name, 5) == index for name in gone) for index in range(5)]
    assert max(one.removed for one in done) > 0.2 * 8
    assert {payload["key"] for _, payload in gallery.points.values()} == {f"{number}.jpg" for number in range(8, 40)}


def test_no_shard_prunes_where_one_run_would_refuse(tmp_path):
    root, gallery = tmp_path / "images", MemoryGallery()
    for number in range(40):
        write_image(root / f"{number}.jpg")
    run_ingest([root], gallery, ColourEmbedder())
    for number in range(9):
        (root / f"{number}.jpg").unlink()
    done = in_shards([root], gallery, 5, prune="safe")
    assert all("9 of the 40 images" in one.prune_refused for one in done)
    assert len(gallery.points) == 40
    assert sum(one.removed for one in in_shards([root], gallery, 5, prune="anyway")) == 9


def test_pruning_with_checksums_is_for_one_run(tmp_path):
    root, gallery = folders(tmp_path / "images"), MemoryGallery()
    with pytest.raises(UsageError, match="without --shard"):
        in_shards([root], gallery, 2, prune="safe", checksum=True)
    with pytest.raises(UsageError, match="without --shard"):
        ingest(root, store=tmp_path / "store", shard="0/2", prune="anyway", checksum=True)
    assert not (tmp_path / "store").exists()


# Moved files.


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_a_file_that_moves_to_another_shard_keeps_its_point_and_labels(tmp_path, order):
    root = tmp_path / "images"
    names = table(root)
    gallery, one = MemoryGallery(), MemoryGallery()
    for filled in (gallery, one):
        run_ingest([names], filled, ColourEmbedder(), checksum=True)
    names.unlink()
    moves = {}
    for number, path in enumerate(sorted(root.glob("*/*.jpg"))[:6]):
        new = root / "moved" / f"{number}-{path.name}"
        new.parent.mkdir(exist_ok=True)
        path.rename(new)
        moves[f"{path.parent.name}/{path.name}"] = f"moved/{new.name}"
    crossing = [old for old, new in moves.items() if shard_of(old, 3) != shard_of(new, 3)]
    assert crossing
    parts = in_shards([root], gallery, 3, order, checksum=True, layout="flat")
    whole = run_ingest([root], one, ColourEmbedder(), checksum=True, layout="flat")
    assert sum(part.moved for part in parts) == whole.moved == 6
    assert sum(part.embedded for part in parts) == 0
    assert points(gallery) == points(one)


# Real processes, and a server.


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("shards") / "demo"
    generate_demo(out, identities=6, cameras=3, distractors=2)
    (out / "gallery" / "broken.jpg").write_bytes(b"no image")
    return out / "gallery"


def start(*arguments, module="siamese_search", **variables):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SSS_", "XDG_"))}
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        env={**clean, "SSS_THREADS": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_four_processes_at_once_fill_one_store_as_one_process_does(demo, tiny_bundle, tmp_path):
    common = ("ingest", demo, "--layout", "flat", "--model", tiny_bundle.path, "--json", "--batch-size", 4)
    running = [
        start(*common, "--store", tmp_path / "several", "--shard", f"{index}/4", HOME=str(tmp_path))
        for index in range(2)
    ]
    # Two of them are told by Kubernetes, of which one is the service.
    running.append(
        start(*common, "--store", tmp_path / "several", HOME=str(tmp_path), SSS_INGEST_SHARD="auto/4",
              JOB_COMPLETION_INDEX="2")
    )  # fmt: skip
    running.append(
        start(demo, "--layout", "flat", "--model", tiny_bundle.path, "--store", tmp_path / "several",
              "--shard", "auto/4", module="ingest", HOME=str(tmp_path), JOB_COMPLETION_INDEX="3")
    )  # fmt: skip
    alone = start(*common, "--store", tmp_path / "one", HOME=str(tmp_path))
    told = [process.communicate(timeout=300) for process in running]
    out, errors = alone.communicate(timeout=300)
    broken = shard_of("broken.jpg", 4)
    assert [process.returncode for process in running] == [3 if index == broken else 0 for index in range(4)], told
    assert alone.returncode == 3, errors
    whole = json.loads(out)
    complete = next(line for text in told[3][1].splitlines() if (line := json.loads(text))["event"] == "complete")
    parts = [json.loads(text)["new"] for text, _ in told[:3]] + [complete["new"]]
    assert sum(parts) == whole["new"] == len(list(demo.iterdir())) - 1
    assert all(parts)
    with open_gallery(tmp_path / "several") as several, open_gallery(tmp_path / "one") as one:
        assert points(several) == points(one)


def test_shards_fill_a_server_as_one_run_does(tmp_path):
    root = table(tmp_path / "images")
    filled = []
    for count in (1, 4):
        client = memory.memory_client()
        model = ColourEmbedder()
        for index in range(count):
            with (
                memory.memory_store(client) as store,
                store.open("default", model=MemoryGallery().model, create=True, mode="w") as gallery,
            ):
                run_ingest([root], gallery, model, shard=Shard(index, count))
        with memory.memory_store(client) as store, store.open("default") as gallery:
            filled.append(points(gallery))
    assert filled[0] == filled[1]
    assert len(filled[0]) == 12


def test_shards_that_find_no_gallery_at_the_same_moment_make_one(monkeypatch, tmp_path):
    """Both look before either has made it: the second meets what the first has made."""
    client, model = memory.memory_client(), MemoryGallery().model
    root = folders(tmp_path / "images")
    with memory.memory_store(client) as first, memory.memory_store(client) as second:
        with first.open("default", model=model, create=True, mode="w") as gallery:
            run_ingest([root], gallery, ColourEmbedder(), shard=Shard(0, 2))
            real, looks = second._target, itertools.count()
            monkeypatch.setattr(second, "_target", lambda *a: None if next(looks) == 0 else real(*a))
            with second.open("default", model=model, create=True, mode="w") as other:
                run_ingest([root], other, ColourEmbedder(), shard=Shard(1, 2))
            assert next(looks) > 1
        with first.open("default") as gallery:
            assert gallery.count() == 12
