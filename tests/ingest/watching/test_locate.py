"""A path becomes what a scan makes of it: the scan is the oracle."""

import os
import shutil

import pytest
from fakes import write_image, write_market
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.scan import scan_files, survey_roots
from ingest.watching.locate import Locator


def scanned(root, layout="auto", source=None, **options):
    found = [one for chunk in scan_files(survey_roots([root], layout, **options), source) for one in chunk]
    return sorted(found, key=lambda file: file.path)


def locator_of(root, layout="auto", source=None, **options):
    return Locator(survey_roots([root], layout, **options)[0], source)


def everything(root):
    """Every path below a directory, hidden ones and links included."""
    for directory, folders, files in os.walk(root, followlinks=False):
        for name in [*folders, *files]:
            yield os.path.relpath(f"{directory}/{name}", root)


def located(locator, paths):
    return sorted(locator.locate(paths), key=lambda file: file.path)


def dirty_tree(root):
    """One of everything that a scan looks at or passes over."""
    for name in [
        "a/1.jpg",
        "a/2.png",
        "b/deep/3.jpg",
        "b/.hidden.jpg",
        ".hidden/4.jpg",
        "b/.h/5.jpg",
        "new\nline/é.jpg",
    ]:
        write_image(root / name)
    (root / "a/notes.txt").write_text("no image")
    (root / "a/README").write_text("no image either")
    for name in ["a/@eaDir/1.jpg", "#recycle/8.jpg", "b/#Recycle/9.jpg"]:
        write_image(root / name)
    for name in ["a/picture", "a/picture.jpg_large", "a/picture.jpg.part"]:
        shutil.copy(root / "a/1.jpg", root / name)
    write_image(root / "a/10.avif")
    shutil.copy(root / "a/1.jpg", os.fsencode(root) + b"/a/\xff%.jpg")
    os.mkfifo(root / "a/pipe.jpg")
    outside = root.parent / "outside"
    write_image(outside / "6.jpg")
    (root / "a/linked").symlink_to(outside, target_is_directory=True)
    (root / "a/inside.jpg").symlink_to(root / "a/2.png")
    (root / "a/outside.jpg").symlink_to(outside / "6.jpg")
    (root / "a/nowhere.jpg").symlink_to(root / "nowhere.jpg")
    (root / "a/loop.jpg").symlink_to(root / "a/loop.jpg")
    (root / "b/loop").symlink_to(root, target_is_directory=True)
    return root


@pytest.mark.parametrize("layout", ["folders", "flat"])
@pytest.mark.parametrize("source", [None, "mount"])
@pytest.mark.parametrize("links", [False, True])
def test_every_path_is_what_a_scan_makes_of_it(tmp_path, layout, source, links):
    root = dirty_tree(tmp_path / "root")
    locator = locator_of(root, layout, source, follow_links=links)
    paths = [path for path in everything(root) if not (root / path).is_dir()]
    if links:
        paths += ["a/linked/6.jpg", "b/loop/a/1.jpg", "a/linked/7.jpg"]
    directories = (
        "a link to a directory",
        "a link back",
        "a folder of the system's",
    )  # those that a scan passes over and says so
    expected = [
        file
        for file in scanned(root, layout, source, follow_links=links)
        if not (file.reason or "").startswith(directories)
    ]
    assert located(locator, paths) == expected
    assert {file.reason for file in expected} > {None, "not a regular file", "a link that leads nowhere"}


def test_market_names_and_misfits(tmp_path):
    write_market(tmp_path)
    write_image(tmp_path / "holiday.jpg")
    locator, expected = locator_of(tmp_path), scanned(tmp_path)
    files = located(locator, [path.name for path in tmp_path.iterdir()])
    assert files == expected
    [misfit] = [file for file in files if file.reason is not None]
    assert (misfit.record.key, misfit.record.identity) == ("holiday.jpg", None)
    fitting = [file.record for file in files if file.reason is None]
    assert {record.identity for record in fitting} == {"0001", "0002", "0003"}
    assert {record.camera for record in fitting} == {"1", "2"}


def test_what_is_not_there_is_left_out(tmp_path):
    write_image(tmp_path / "a.jpg")
    locator = locator_of(tmp_path)
    assert [file.record.key for file in locator.locate(["a.jpg", "b.jpg", "c/d.jpg"])] == ["a.jpg"]


def test_a_csv_is_the_source_of_identity_camera_and_metadata(tmp_path):
    for name in ["x/1.jpg", "x/2.jpg", "x/3.jpg", "x/unlisted.jpg"]:
        write_image(tmp_path / name)
    table = tmp_path / "people.csv"
    table.write_text("path,identity,camera,age\nx/1.jpg,ann,1,30\nx/2.jpg,bob,2,40\nx/3.jpg,cy,1,\n")
    locator = locator_of(table)
    assert located(locator, ["x/1.jpg", "x/2.jpg", "x/3.jpg", "x/unlisted.jpg"]) == scanned(table)
    [only] = located(locator, ["x/2.jpg", "x/unlisted.jpg"])
    assert (only.record.identity, only.record.metadata) == ("bob", {"age": 40})
    assert sorted(locator.below("x")) == ["x/1.jpg", "x/2.jpg", "x/3.jpg"]
    assert list(locator.below("y")) == []


@pytest.mark.parametrize("layout", ["folders", "flat"])
def test_below_a_directory_is_what_a_scan_finds_there(tmp_path, layout):
    root = dirty_tree(tmp_path / "root")
    locator = locator_of(root, layout)
    for directory in ["a", "b", "b/deep", "new\nline"]:
        expected = [
            locator.relative(file.record.path)
            for file in scanned(root, layout)
            if file.reason is None and locator.relative(file.record.path).startswith(directory + "/")
        ]
        found = located(locator, list(locator.below(directory)))
        assert sorted(locator.relative(f.record.path) for f in found if f.reason is None) == sorted(expected)
    assert list(locator.below("a/linked")) == []
    assert list(locator.below(".hidden")) == []


def test_a_file_of_another_root_under_the_same_source_is_refused(tmp_path):
    for name in ["one/a.jpg", "one/b.jpg", "two/a.jpg"]:
        write_image(tmp_path / name)
    surveyed = survey_roots([tmp_path / "one"])[0]
    locator = Locator(surveyed, "nas", [str(tmp_path / "two")])
    by_key = {file.record.key: file for file in locator.locate(["a.jpg", "b.jpg"])}
    assert "same source" in by_key["a.jpg"].reason
    assert by_key["b.jpg"].reason is None
    assert locator.shared("a.jpg")
    assert not locator.shared("b.jpg")


def test_deeper_than_a_scan_goes_is_not_entered(tmp_path):
    write_image(tmp_path / "a.jpg")
    deep = tmp_path / "/".join(["d"] * 70)
    deep.mkdir(parents=True)
    for depth in (62, 63, 64, 70):
        write_image(tmp_path / "/".join(["d"] * depth) / "x.jpg")
    locator = locator_of(tmp_path, "flat")
    expected = [file for file in scanned(tmp_path, "flat") if file.reason is None]
    paths = ["a.jpg", *("/".join(["d"] * depth) + "/x.jpg" for depth in (62, 63, 64, 70))]
    assert located(locator, paths) == expected
    assert len(expected) == 3


NAMES = st.sampled_from(["a", "@eaDir", "h.other", "b.jpg", "c.PNG", ".d", "e.txt", "f%20.jpg", "ü.jpeg", "g\n.jpg"])


@settings(max_examples=30)
@given(st.lists(st.lists(NAMES, min_size=1, max_size=3), min_size=1, max_size=8))
def test_random_trees(tmp_path_factory, trees):
    root = tmp_path_factory.mktemp("tree")
    (root / "first.jpg").write_text("x")
    for parts in trees:
        path = root.joinpath(*parts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"\xff\xd8\xff")
        except OSError:
            continue  # one of its parents is a file already, or it is a directory
    expected = [f for f in scanned(root, "flat") if not (f.reason or "").startswith("a folder of the system's")]
    assert located(locator_of(root, "flat"), list(everything(root))) == expected
