"""walk_images(): what is walked, what is passed over, and what ends the walk."""

import os
import socket

import pytest
from PIL import Image

from siamese_search.datasets import walk
from siamese_search.datasets.walk import MAX_DEPTH, link_leads_out, walk_images
from siamese_search.errors import DataError
from siamese_search.io.images import read_image


@pytest.fixture
def tree(tmp_path):
    """Three folders with an image each."""
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(b"x")
    return tmp_path


@pytest.fixture
def failing(monkeypatch):
    """Make reading one directory fail: permissions do not stop a test that runs as root."""

    def fail(directory, error):
        real = os.scandir

        def scandir(path):
            if os.fspath(path) == os.fspath(directory):
                raise error
            return real(path)

        monkeypatch.setattr(walk.os, "scandir", scandir)

    return fail


def test_an_unreadable_directory_ends_a_walk_that_takes_no_gaps(tree, failing):
    failing(tree / "b", PermissionError(13, "Permission denied"))
    with pytest.raises(DataError, match=r"/b: cannot be read \(Permission denied\)"):
        list(walk_images(tree))


def test_an_unreadable_directory_is_named_and_passed_over(tree, failing):
    failing(tree / "b", PermissionError(13, "Permission denied"))
    skipped = []
    found = list(walk_images(tree, skipped=lambda *what: skipped.append(what)))
    assert found == ["a/1.jpg", "c/1.jpg"]
    assert skipped == [("b", "the directory cannot be read (permission denied)")]


def test_an_unreadable_root_always_ends_the_walk(tree, failing):
    failing(f"{tree}/", PermissionError(13, "Permission denied"))
    with pytest.raises(DataError, match="cannot be read"):
        list(walk_images(tree, skipped=lambda *_: None))


@pytest.mark.parametrize("error", [FileNotFoundError(2, "gone"), NotADirectoryError(20, "a file now")])
def test_a_directory_that_vanishes_on_the_way_is_simply_not_there(tree, failing, error):
    failing(tree / "b", error)
    assert list(walk_images(tree)) == ["a/1.jpg", "c/1.jpg"]


def test_folders_that_are_nested_too_deep_are_named_and_passed_over(tree):
    deep = tree / "b" / "/".join(["d"] * (MAX_DEPTH + 2))
    deep.mkdir(parents=True)
    (deep / "lost.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="nested deeper"):
        list(walk_images(tree))
    skipped = []
    found = list(walk_images(tree, skipped=lambda *what: skipped.append(what)))
    assert found == ["a/1.jpg", "b/1.jpg", "c/1.jpg"]
    ((directory, reason),) = skipped
    assert directory.startswith("b/d/d")
    assert reason == f"folders nested deeper than {MAX_DEPTH}"


@pytest.fixture
def dirt(tmp_path):
    """A root with everything that is no plain file, and what links to it from inside and outside."""
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "good.jpg").write_bytes(b"x")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.jpg").write_bytes(b"x")
    os.mkfifo(root / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(root / "socket.jpg"))
    os.mkfifo(root / "no-image")
    (root / "dir.jpg").mkdir()
    for name, target in {
        "within.jpg": "sub/good.jpg",
        "out.jpg": "../outside/secret.jpg",
        "twice.jpg": "out.jpg",
        "broken.jpg": "nowhere.jpg",
        "self.jpg": "self.jpg",
        "topipe.jpg": "pipe.jpg",
        "device.jpg": "/dev/null",
        "notes.txt": "nowhere",
        "anna": "/disk/that/is/off/anna",
        "sub/up": "..",
        "elsewhere": "../outside",
    }.items():
        (root / name).symlink_to(target)
    return root


PLAIN = {
    "anna": "a link that leads nowhere",
    "broken.jpg": "a link that leads nowhere",
    "device.jpg": "not a regular file",
    "elsewhere": "a link to a directory, which is not followed",
    "pipe.jpg": "not a regular file",
    "self.jpg": "a loop of symbolic links",
    "socket.jpg": "not a regular file",
    "sub/up": "a link to a directory, which is not followed",
    "topipe.jpg": "not a regular file",
}
OUT = "a link that leads out of the directory, which is not followed"


@pytest.mark.parametrize(
    ("options", "images", "refused"),
    [
        ({}, ["out.jpg", "sub/good.jpg", "twice.jpg", "within.jpg"], PLAIN),
        ({"inside": True}, ["sub/good.jpg", "within.jpg"], {**PLAIN, "out.jpg": OUT, "twice.jpg": OUT}),
        (
            {"follow_links": True},
            ["elsewhere/secret.jpg", "out.jpg", "sub/good.jpg", "twice.jpg", "within.jpg"],
            {
                **{name: why for name, why in PLAIN.items() if "directory" not in why},
                "sub/up": "a link back to a directory above it",
            },
        ),
    ],
)
def test_dirt_is_passed_over_and_named(dirt, options, images, refused):
    skipped = []
    assert list(walk_images(dirt, skipped=lambda *what: skipped.append(what), **options)) == images
    assert len(skipped) == len(refused)
    assert dict(skipped) == refused
    assert list(walk_images(dirt, **options)) == images  # nothing of it ends a walk that names nothing


def test_a_root_that_is_a_link_is_the_inside_of_its_links(dirt):
    (dirt.parent / "alias").symlink_to(dirt)
    assert list(walk_images(dirt.parent / "alias", inside=True)) == ["sub/good.jpg", "within.jpg"]
    assert link_leads_out(dirt.parent / "alias", "out.jpg")
    assert not link_leads_out(dirt.parent / "alias", "within.jpg")
    # A directory whose name begins like the root's is not in it.
    (dirt.parent / "root2").mkdir()
    (dirt.parent / "root2" / "x.jpg").write_bytes(b"x")
    (dirt / "near.jpg").symlink_to("../root2/x.jpg")
    assert link_leads_out(dirt, "near.jpg")


def test_an_entry_that_cannot_be_looked_at_is_named(tree, monkeypatch):
    """As on a file system that says no kinds, in a directory that may be listed but not entered."""
    real = os.scandir

    class Shut:
        def __init__(self, entry):
            self.name = entry.name

        def is_dir(self, **_):
            raise PermissionError(13, "Permission denied")

    class Listing:
        def __init__(self, path):
            with real(path) as entries:
                self.entries = [Shut(one) if os.fspath(path).endswith("/b") else one for one in entries]

        def __enter__(self):
            return self.entries

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(walk.os, "scandir", Listing)
    skipped = []
    found = list(walk_images(tree, skipped=lambda *what: skipped.append(what)))
    assert found == ["a/1.jpg", "c/1.jpg"]
    assert skipped == [("b/1.jpg", "it cannot be read (permission denied)")]
    with pytest.raises(DataError, match=r"/b/1.jpg: cannot be read \(Permission denied\)"):
        list(walk_images(tree))


def test_images_by_other_names_are_taken_or_named(tmp_path):
    picture = Image.new("RGB", (20, 40), "red")
    picture.save(tmp_path / "a.jpg")
    for suffix, name in {"png": "b", "gif": "c.orig", "webp": "d.1", "bmp": "e.bitmap", "ppm": "f.pix"}.items():
        picture.save(tmp_path / f"x.{suffix}")
        (tmp_path / f"x.{suffix}").rename(tmp_path / name)
    for name in ["g.jpg_large", "h.JFIF", "i.jpg.part", "j.jpg~"]:
        (tmp_path / name).write_bytes((tmp_path / "a.jpg").read_bytes())
    picture.save(tmp_path / "k.avif")
    picture.save(tmp_path / "l.jp2")
    picture.save(tmp_path / "q.tga")
    (tmp_path / "r.SVG").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    picture.save(tmp_path / "x.tif")
    (tmp_path / "x.tif").rename(tmp_path / "m.dng")
    for name in ["README", "n.weird", "o.yaml", "p"]:
        (tmp_path / name).write_text("BM: no image" if name != "p" else "")
    skipped = {}
    found = list(walk_images(tmp_path, skipped=skipped.__setitem__))
    assert found == ["a.jpg", "b", "c.orig", "d.1", "e.bitmap", "f.pix", "g.jpg_large", "h.JFIF"]
    assert {name: reason[:9] for name, reason in skipped.items()} == {
        "k.avif": "AVIF is n", "l.jp2": "JPEG 2000", "m.dng": "a TIFF or", "q.tga": "TGA is no",
        "r.SVG": "SVG is no",
    }  # fmt: skip
    for name in found:
        assert read_image(tmp_path / name).shape == (40, 20, 3)


def test_a_systems_folders_are_named_once_each(tree):
    litter = ["@__thumb", "#recycle", "$RECYCLE.BIN/S-1-5-21", "Recycle Bin", "files_trashbin/files", "~snapshot"]
    for name in ["a/@eaDir/1.jpg", "b/@eaDir/1.jpg", "c/@eaDir", *litter]:
        (tree / name).mkdir(parents=True)
        (tree / name / "thumbnail.jpg").write_bytes(b"x")
    skipped = {}
    assert list(walk_images(tree, skipped=skipped.__setitem__)) == ["a/1.jpg", "b/1.jpg", "c/1.jpg"]
    assert sorted(skipped) == sorted(["a/@eaDir", *(name.partition("/")[0] for name in litter)])
    assert "like 2 more called @eaDir" in skipped["a/@eaDir"]
    assert list(walk_images(tree / "#recycle")) == ["thumbnail.jpg"]  # named as the root, it is what is wanted
