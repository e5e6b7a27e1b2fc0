"""``sss ingest``: files compared by content, pruned, listed; links and their options."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from siamese_search.model.bundle import Bundle

Run = Callable[..., CompletedProcess[str]]


@pytest.fixture
def photos(demo: Path, tmp_path: Path) -> Path:
    """Six images under ``photos``, with a table of who is who."""
    root = tmp_path / "photos"
    root.mkdir()
    rows = ["path,identity"]
    for number, image in enumerate(sorted((demo / "gallery").iterdir())[:6]):
        shutil.copyfile(image, root / f"{number}.jpg")
        rows.append(f"{number}.jpg,person{number}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture
def ingest(sss: Run, tiny_bundle: Bundle, tmp_path: Path) -> Run:
    def run(*args: object, **how: object) -> CompletedProcess[str]:
        return sss("ingest", "--store", tmp_path / "store", "--model", tiny_bundle.path, "--json", *args, **how)

    return run


def counts(done: CompletedProcess[str], code: int = 0) -> dict[str, int]:
    assert done.returncode == code, done.stderr
    answer = json.loads(done.stdout)
    return {name: answer[name] for name in ("new", "changed", "moved", "unchanged", "removed") if answer[name]}


def test_touched_moved_and_deleted_files(ingest: Run, sss: Run, photos: Path, tmp_path: Path) -> None:
    assert counts(ingest(photos / "labels.csv", "--checksum")) == {"new": 6}
    (photos / "labels.csv").unlink()
    os.utime(photos / "0.jpg", ns=(1, 10**18))
    (photos / "sub").mkdir()
    (photos / "1.jpg").rename(photos / "sub" / "renamed.jpg")
    (photos / "2.jpg").unlink()
    done = ingest(photos, "--layout", "flat", env={"SSS_INGEST_CHECKSUM": "1", "SSS_INGEST_PRUNE": "1"})
    # The table has gone, and with it the labels of the files that stayed; the one that moved keeps its own.
    assert counts(done) == {"changed": 4, "moved": 1, "removed": 1}
    found = sss("search", photos / "sub" / "renamed.jpg", "--store", tmp_path / "store", "--format", "json", "-k", 1)
    (result,) = json.loads(found.stdout)[0]["results"]
    assert (result["key"], result["identity"], result["metadata"]) == ("sub/renamed.jpg", "person1", {})
    again = sss("ingest", photos, "--layout", "flat", "--checksum", "--store", tmp_path / "store")
    assert again.stdout.startswith("5 images: 0 new, 0 changed, 5 unchanged, 0 failed")


def test_pruning_refuses_a_fifth_and_says_what_would_do_it(ingest: Run, photos: Path) -> None:
    assert counts(ingest(photos, "--layout", "flat")) == {"new": 6}
    for number in (0, 1):
        (photos / f"{number}.jpg").unlink()
    done = ingest(photos, "--layout", "flat", "--prune")
    assert counts(done, code=3) == {"unchanged": 4}
    assert "2 of the 6 images" in json.loads(done.stdout)["prune_refused"]
    assert "sss: warning: nothing removed: 2 of the 6 images" in done.stderr
    done = ingest(photos, "--layout", "flat", "--prune-anyway")
    assert counts(done) == {"unchanged": 4, "removed": 2}
    assert "prune_refused" not in json.loads(done.stdout)


def test_failures_go_to_a_file(ingest: Run, photos: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    name = b"bro\nken\xff.jpg"
    (photos / os.fsdecode(name)).write_bytes(b"junk")
    os.mkfifo(photos / "pipe.jpg")
    listed = tmp_path / "failures.jsonl"
    done = ingest(photos, "--layout", "flat", "--failures", listed)
    assert counts(done, code=3) == {"new": 6}
    failures = [json.loads(line) for line in listed.read_text().splitlines()]
    assert {os.fsencode(one["path"]) for one in failures} == {
        os.fsencode(photos) + b"/" + name,
        os.fsencode(photos / "pipe.jpg"),
    }
    assert {one["path"] for one in json.loads(done.stdout)["failed"]} == {one["path"] for one in failures}
    assert f"{photos}/bro\\nken\\xff.jpg" in done.stderr
    size = (photos / "0.jpg").stat().st_size
    message = refused("ingest", photos, "--store", tmp_path / "other", "--failures", photos / "0.jpg", code=2)
    assert "has the name of an image" in message
    assert (photos / "0.jpg").stat().st_size == size
    assert not (tmp_path / "other").exists()


def test_links_are_followed_only_on_request(ingest: Run, photos: Path, tmp_path: Path) -> None:
    farm = tmp_path / "farm"
    farm.mkdir()
    shutil.copyfile(photos / "0.jpg", farm / "own.jpg")
    (farm / "link.jpg").symlink_to(photos / "1.jpg")
    (farm / "folder").symlink_to(photos)
    done = ingest(farm, "--layout", "flat")
    assert counts(done, code=3) == {"new": 1}
    assert {Path(one["path"]).name: one["reason"] for one in json.loads(done.stdout)["failed"]} == {
        "link.jpg": "a link that leads out of the directory, which is not followed",
        "folder": "a link to a directory, which is not followed",
    }
    assert counts(ingest(farm, "--layout", "flat", "--follow-links")) == {"new": 7, "unchanged": 1}


@pytest.mark.parametrize("shard", ["4/4", "-1/2", "a/b", "0/0", "auto/4", "1"])
def test_what_is_no_shard_is_refused_before_anything_is_made(
    refused: Callable[..., str], photos: Path, tmp_path: Path, shard: str
) -> None:
    line = refused("ingest", photos, "--store", tmp_path / "store", "--shard", shard, code=2)
    assert f"shard {shard}" in line or f"shard '{shard}'" in line
    assert not (tmp_path / "store").exists()


def test_a_watch_is_not_split(refused: Callable[..., str], photos: Path, tmp_path: Path) -> None:
    line = refused("ingest", photos, "--store", tmp_path / "store", "--watch", "--shard", "0/2", code=2)
    assert "leave --shard out" in line
    assert not (tmp_path / "store").exists()


def test_a_large_ingest_says_how_to_tidy_up() -> None:
    from ingest.summary import IngestSummary
    from siamese_search.cli.ingest import advise

    def after(new: int, changed: int = 0, store: str = "/data/store", interrupted: bool = False) -> str | None:
        summary = IngestSummary("default", store, "bundled")
        summary.new, summary.changed, summary.interrupted = new, changed, interrupted
        return advise(summary)

    assert "sss optimise" in (after(20_000) or "")
    assert "sss optimise" in (after(12_000, changed=8_000) or "")
    assert after(19_999) is None
    assert after(20_000, interrupted=True) is None
    assert after(20_000, store="https://host:6333") is None


def test_our_own_sheets_in_a_root_are_no_images_of_it(ingest: Run, sss: Run, photos: Path, tmp_path: Path) -> None:
    for name in ("ann", "bo"):
        (photos / name).mkdir()
    for number in range(6):
        (photos / f"{number}.jpg").rename(photos / ("ann", "bo")[number % 2] / f"{number}.jpg")
    (photos / "labels.csv").unlink()
    assert counts(ingest(photos)) == {"new": 6}
    query = photos / "ann" / "0.jpg"
    place = ("--store", tmp_path / "store")
    assert sss("search", query, *place, "--save", photos / "sheet.png", "--star", photos / "star.png").returncode == 0
    assert sss("compare", query, query, "--save", photos / "pair.png").returncode in (0, 1)
    again = ingest(photos)
    assert counts(again) == {"unchanged": 6}
    assert "sheet.png" not in again.stderr
    shutil.copy(photos / "ann" / "0.jpg", photos / "stray.png")  # somebody else's is named, as before
    assert counts(ingest(photos), 3) == {"unchanged": 6}


def test_a_root_inside_another_is_said(ingest: Run, photos: Path) -> None:
    (photos / "ann").mkdir()
    (photos / "0.jpg").rename(photos / "ann" / "0.jpg")
    (photos / "labels.csv").unlink()
    assert "stands there once" not in ingest(photos).stderr
    inner = ingest(photos / "ann")
    assert inner.stderr.count("stands there once") == 1
    assert f"{photos / 'ann'} lies in {photos}, of which the gallery has images: an image" in inner.stderr
    assert f"as one of {photos}\n" in inner.stderr
    both = ingest(photos, photos / "ann", "--gallery", "both")
    assert both.stderr.count("stands there once") == 1
    assert counts(both) == {"new": 6, "unchanged": 1}
    assert "stands there once" not in ingest(photos / "ann", "--source", "ann").stderr


def test_fields_that_nothing_says_any_more_are_named_as_they_go(ingest: Run, photos: Path) -> None:
    """A column that was dropped, a second table that knows less, a directory after its table."""
    table, less = photos / "labels.csv", photos / "less.csv"
    table.write_text("path,identity,camera,age\n0.jpg,a,1,20\n1.jpg,b,2,\n2.jpg,c,,\n")
    less.write_text("path,identity\n0.jpg,a\n1.jpg,bea\n")
    told = "no longer said by anything that was read, and so taken out of the gallery: "
    for root, lost in ((table, ""), (less, "age (1 image), camera (2 images)"), (table, ""), (table, "")):
        assert [line.partition(told)[2] for line in ingest(root).stderr.splitlines() if told in line] == [lost] * bool(
            lost
        )
    assert f"{told}age (1 image), camera (2 images), identity (3 images)" in ingest(photos, "--layout", "flat").stderr


def test_the_same_names_in_two_sources_are_said(ingest: Run, photos: Path, tmp_path: Path) -> None:
    """Identity 0001 of two data sets is one in a gallery: hardly what anybody means who did not hear of it."""
    (photos / "labels.csv").unlink()
    for site, names in (("east", ("0001", "0002", "0000")), ("west", ("0002", "0003", "0000"))):
        for number, name in enumerate(names):
            (tmp_path / site / name).mkdir(parents=True)
            shutil.copy(photos / f"{number}.jpg", tmp_path / site / name)
    assert "same name" not in ingest(tmp_path / "east", "--layout", "folders").stderr
    both = ingest(tmp_path / "west", "--layout", "folders").stderr
    assert [line for line in both.splitlines() if "same name" in line] == [
        "identities of the same name in more than one source"
        f" ({tmp_path / 'east'}, {tmp_path / 'west'}) count as the same: 0000, 0002"
    ]
    assert "same name" not in ingest(tmp_path / "west", "--layout", "folders").stderr  # nothing new
    # A directory that was moved stands there twice: where the former one is, nobody would look for it.
    (tmp_path / "west").rename(tmp_path / "north")
    moved = ingest(tmp_path / "north", "--layout", "folders").stderr
    assert (
        f"{tmp_path / 'west'} is not there (any more): where it was moved, take its images out:"
        f" sss ingest {tmp_path / 'west'} --prune-anyway"
    ) in moved.splitlines()


def test_one_folder_of_one_identity(ingest: Run, sss: Run, photos: Path, tmp_path: Path) -> None:
    (photos / "labels.csv").unlink()
    (photos / "anna").mkdir()
    for number in range(6):
        (photos / f"{number}.jpg").rename(photos / "anna" / f"{number}.jpg")
    done = ingest(photos, "--layout", "folders")
    assert counts(done) == {"new": 6}
    found = sss("search", photos / "anna" / "0.jpg", "--store", tmp_path / "store", "-k", "1", "--json")
    assert json.loads(found.stdout)[0]["results"][0]["identity"] == "anna"
