"""Pruning removes what has certainly gone, and refuses wherever that is in doubt."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from fakes import ColourEmbedder, MemoryGallery, write_image

from ingest import prune as prune_module
from ingest import prune as whereabouts
from ingest.pipeline import run_ingest
from ingest.prune import Finding, Pruned, find, look, places_of, prune, unmounted_places
from ingest.scan import survey_roots
from ingest.summary import LeftBehind
from siamese_search.errors import DataError


def fill(root, count, gallery=None, **options):
    """``count`` images, in folders of ten, and the gallery that they are in."""
    gallery = gallery or MemoryGallery()
    for number in range(count):
        write_image(root / f"{number // 10}" / f"{number}.ppm")
    run_ingest([root], gallery, ColourEmbedder(), layout="flat", **options)
    return gallery


def places(*roots, source=None):
    return places_of(survey_roots(list(roots), "flat"), source)


def keys(gallery):
    return {payload["key"] for _, payload in gallery.points.values()}


def test_what_has_gone_is_removed_and_the_rest_is_as_it_was(tmp_path):
    gallery = fill(tmp_path / "a", 20)
    fill(tmp_path / "b", 5, gallery)
    before = dict(gallery.points)
    for number in (3, 11):
        (tmp_path / "a" / f"{number // 10}" / f"{number}.ppm").unlink()
    shutil.rmtree(tmp_path / "b")  # not asked about, so not removed
    one = run_ingest([tmp_path / "a"], gallery, ColourEmbedder(), layout="flat", prune="safe")
    assert (one.removed, one.unchanged, one.prune_refused) == (2, 18, None)
    assert one.to_json()["removed"] == 2
    assert len(gallery.points) == 23
    assert gallery.points.items() <= before.items()
    assert not {"0/3.ppm", "1/11.ppm"} & {p["key"] for _, p in gallery.points.values() if "/a/" in p["path"]}


@pytest.mark.parametrize(("gone", "removed"), [(2, 2), (3, 0)])
def test_more_than_a_fifth_is_not_believed(tmp_path, gone, removed):
    gallery = fill(tmp_path, 10)
    for number in range(gone):
        (tmp_path / "0" / f"{number}.ppm").unlink()
    done = prune(gallery, places(tmp_path))
    assert done.removed == removed
    assert (done.refused is None) == bool(removed)
    if not removed:
        assert f"3 of the 10 images of {tmp_path} have gone, which is more than 20%" in done.refused
        assert "--prune-anyway" in done.refused
        assert prune(gallery, places(tmp_path), anyway=True) == Pruned(3)
    assert len(gallery.points) == 10 - gone


def test_the_fifth_is_of_each_source(tmp_path):
    gallery = fill(tmp_path / "large", 40)
    fill(tmp_path / "small", 4, gallery)
    (tmp_path / "small" / "0" / "0.ppm").unlink()
    done = prune(gallery, places(tmp_path / "large", tmp_path / "small"))
    assert "1 of the 4 images" in done.refused
    assert len(gallery.points) == 44


def test_a_root_that_is_missing_empty_or_another_one_is_refused_whatever_is_said(tmp_path):
    root = tmp_path / "root"
    gallery = fill(root, 10)
    before = places(root)
    root.rename(tmp_path / "away")
    assert "cannot be read (no such file or directory)" in prune(gallery, before, anyway=True).refused
    with pytest.raises(DataError, match="no such file"):
        run_ingest([root], gallery, ColourEmbedder(), prune="safe")
    root.mkdir()
    assert "not the directory that it was" in prune(gallery, before, anyway=True).refused
    with pytest.raises(DataError, match="no images"):
        run_ingest([root], gallery, ColourEmbedder())
    assert f"{root} is empty" in run_ingest([root], gallery, ColourEmbedder(), prune="anyway").prune_refused
    root.rmdir()
    (tmp_path / "away").rename(root)
    shutil.rmtree(root / "0")
    assert f"{root} is empty" in prune(gallery, before, anyway=True).refused
    assert len(gallery.points) == 10


def test_a_source_all_of_whose_images_were_deleted_can_leave(tmp_path):
    root = tmp_path / "cam9"
    gallery = fill(root, 10)
    fill(tmp_path / "keep", 3, gallery)
    for path in (root / "0").iterdir():
        path.unlink()  # the folders are still there
    refused = run_ingest([root], gallery, ColourEmbedder(), prune="safe").prune_refused
    assert "10 of the 10 images" in refused
    done = run_ingest([root], gallery, ColourEmbedder(), prune="anyway")
    assert (done.removed, done.prune_refused, len(gallery.points)) == (10, None, 3)


def test_a_directory_that_was_deleted_can_leave_only_when_that_is_said(tmp_path, monkeypatch):
    roots = [tmp_path / "keep", tmp_path / "cam9"]
    gallery = fill(roots[0], 3)
    fill(roots[1], 10, gallery)
    shutil.rmtree(roots[1])
    for prune_, told in (("no", "check the path$"), ("safe", "check the path; .*--prune-anyway")):
        with pytest.raises(DataError, match=f"cam9: no such file or directory; {told}"):
            run_ingest(roots, gallery, ColourEmbedder(), prune=prune_, layout="flat")
    with monkeypatch.context() as patch:  # where disks come and go, a directory that is not there tells nothing
        patch.setattr(prune_module, "_MOUNTS", (str(tmp_path),))
        refused = run_ingest(roots, gallery, ColourEmbedder(), prune="anyway", layout="flat").prune_refused
        assert f"{roots[1]} is not there" in refused
        assert len(gallery.points) == 13
    done = run_ingest(roots, gallery, ColourEmbedder(), prune="anyway", layout="flat")
    assert (done.removed, done.unchanged, len(gallery.points)) == (10, 3, 3)


def test_a_renamed_folder_is_no_loss(tmp_path):
    gallery = fill(tmp_path, 40)
    (tmp_path / "1").rename(tmp_path / "robert")
    done = run_ingest([tmp_path], gallery, ColourEmbedder(), layout="flat")
    assert (done.new, done.left.gone) == (10, 10)
    assert done.left.gone_example.startswith(f"{tmp_path}/1/1")
    assert done.to_json()["gone"] == 10
    shutil.rmtree(tmp_path / "0")  # and these have no other name: 10 of 50
    done = run_ingest([tmp_path], gallery, ColourEmbedder(), layout="flat", prune="safe")
    assert (done.removed, done.prune_refused, done.left.gone) == (20, None, 0)


def test_what_a_person_has_set_is_a_loss_under_another_name(tmp_path):
    gallery = fill(tmp_path, 10)
    gallery.set_payload(list(gallery.points), [{"labelled": '["identity"]', "identity": "ann"}] * 10)
    (tmp_path / "0").rename(tmp_path / "robert")
    assert "10 of the 20" in run_ingest([tmp_path], gallery, ColourEmbedder(), prune="safe").prune_refused


def test_rows_that_were_taken_out_of_a_table_are_told(tmp_path):
    for name in "abc":
        write_image(tmp_path / f"{name}.ppm")
    table, gallery = tmp_path / "l.csv", MemoryGallery()
    table.write_text("path\na.ppm\nb.ppm\nc.ppm\n")
    assert run_ingest([table], gallery, ColourEmbedder()).left == LeftBehind()
    table.write_text("path\na.ppm\nc.ppm\n")
    done = run_ingest([table], gallery, ColourEmbedder())
    assert done.left == LeftBehind(unlisted=1, unlisted_example=f"{tmp_path}/b.ppm")
    assert done.to_json()["unlisted"] == 1
    (tmp_path / "c.ppm").unlink()
    table.write_text("path\na.ppm\n")  # pruning takes what has gone, and says what it leaves
    done = run_ingest([table], gallery, ColourEmbedder(), prune="anyway")
    assert (done.removed, done.left) == (1, LeftBehind(unlisted=1, unlisted_example=f"{tmp_path}/b.ppm"))


def test_a_root_without_images_does_not_stop_the_others(tmp_path):
    gallery = fill(tmp_path / "a", 3)
    (tmp_path / "b").mkdir()
    done = run_ingest([tmp_path / "a", tmp_path / "b"], gallery, ColourEmbedder(), layout="flat")
    assert (done.seen, done.unchanged, done.failed) == (4, 3, 1)
    assert done.failures[0].path == str(tmp_path / "b")
    assert done.failures[0].reason.startswith("no images in it")


def test_a_root_that_goes_while_points_are_removed_ends_it(tmp_path, monkeypatch):
    root = tmp_path / "root"
    gallery = fill(root, 30)
    shutil.rmtree(root / "0")
    monkeypatch.setattr(prune_module, "_BATCH", 4)
    real = gallery.delete

    def delete(ids):
        real(ids)
        if len(gallery.points) == 22:
            root.rename(tmp_path / "away")

    gallery.delete = delete
    done = prune(gallery, places(root), anyway=True)
    assert done.removed == 8
    assert "cannot be read" in done.refused
    assert len(gallery.points) == 22


@pytest.fixture
def nobody():
    """A directory, and the rights of nobody in particular: root may read everything."""
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch).chmod(0o755)
        root = os.geteuid() == 0
        yield Path(scratch).resolve(), (lambda: os.seteuid(65534)) if root else (lambda: None)
        if root:
            os.seteuid(0)
        for directory, _, _ in os.walk(scratch):
            Path(directory).chmod(0o755)


@pytest.mark.parametrize("mode", [0o000, 0o644])
def test_files_in_an_unreadable_directory_have_not_gone(nobody, mode):
    root, become_nobody = nobody
    gallery = fill(root / "images", 40)
    (root / "images" / "1" / "12.ppm").unlink()
    (root / "images" / "2" / "20.ppm").unlink()
    (root / "images" / "1").chmod(mode)
    become_nobody()
    one = run_ingest([root / "images"], gallery, ColourEmbedder(), layout="flat", prune="safe")
    assert one.removed == 0
    assert "10 files of" in one.prune_refused
    assert "permission denied" in one.prune_refused
    assert len(gallery.points) == 40
    one = run_ingest([root / "images"], gallery, ColourEmbedder(), layout="flat", prune="anyway")
    assert (one.removed, one.prune_refused) == (1, None)
    assert "2/20.ppm" not in keys(gallery)
    assert "1/12.ppm" in keys(gallery)


def test_a_directory_that_can_be_entered_but_not_listed_hides_nothing_that_has_gone(nobody):
    root, become_nobody = nobody
    gallery = fill(root / "images", 40)
    (root / "images" / "1" / "12.ppm").unlink()
    (root / "images" / "1").chmod(0o311)
    become_nobody()
    one = run_ingest([root / "images"], gallery, ColourEmbedder(), layout="flat", prune="safe")
    assert (one.removed, one.failed, one.prune_refused) == (1, 1, None)
    assert keys(gallery) == {f"{n // 10}/{n}.ppm" for n in range(40) if n != 12}


def test_a_failing_disk_is_no_reason_to_remove(tmp_path, monkeypatch):
    gallery = fill(tmp_path, 10)
    real = os.stat

    def stat(path, **options):
        if str(path).endswith("7.ppm"):
            raise OSError(5, "Input/output error")
        return real(path, **options)

    monkeypatch.setattr(whereabouts.os, "stat", stat)
    done = prune(gallery, places(tmp_path))
    assert done.refused.startswith(f"1 file of {tmp_path} cannot be looked for ({tmp_path}/0/7.ppm: input/output")
    assert prune(gallery, places(tmp_path), anyway=True) == Pruned(0)
    assert len(gallery.points) == 10


def test_links(tmp_path):
    """A link that is there counts by what it leads to; where that is not there, nobody can tell."""
    outside = tmp_path / "outside"
    write_image(outside / "x.ppm")
    root = tmp_path / "root"
    write_image(root / "real.ppm")
    (root / "link.ppm").symlink_to(outside / "x.ppm")
    write_image(root / "sub" / "in.ppm")
    gallery = MemoryGallery()
    run_ingest([root], gallery, ColourEmbedder(), layout="flat", follow_links=True)
    assert keys(gallery) == {"real.ppm", "link.ppm", "sub/in.ppm"}
    # The folder is a link now, which a scan passes over: its files are there all the same.
    (root / "sub").rename(tmp_path / "sub")
    (root / "sub").symlink_to(tmp_path / "sub")
    assert prune(gallery, places(root)) == Pruned(0)
    (outside / "x.ppm").unlink()
    assert "a link that leads nowhere" in prune(gallery, places(root)).refused
    assert prune(gallery, places(root), anyway=True) == Pruned(0)
    (root / "link.ppm").unlink()
    assert prune(gallery, places(root), anyway=True) == Pruned(1)
    assert keys(gallery) == {"real.ppm", "sub/in.ppm"}


def test_something_else_under_the_name_is_not_the_file(tmp_path):
    gallery = fill(tmp_path, 20)
    (tmp_path / "0" / "1.ppm").unlink()
    (tmp_path / "0" / "1.ppm").mkdir()
    (tmp_path / "0" / "2.ppm").unlink()
    os.mkfifo(tmp_path / "0" / "2.ppm")
    shutil.rmtree(tmp_path / "1")
    (tmp_path / "1").write_text("a file where the folder was")
    assert prune(gallery, places(tmp_path), anyway=True) == Pruned(12)
    assert keys(gallery) == {f"0/{n}.ppm" for n in (0, *range(3, 10))}


def test_names_that_are_not_text_are_looked_for_by_their_bytes(tmp_path):
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/r\xff\xc3\xa9"))
    for name in (b"a\xff.ppm", b"b\n%\xfe.ppm", "ü.ppm".encode(), b"gone\xff.ppm", *(b"%d.ppm" % n for n in range(9))):
        write_image(root / "x.ppm", seed=name).rename(root / os.fsdecode(name))
    gallery = MemoryGallery()
    run_ingest([root], gallery, ColourEmbedder(), layout="flat")
    assert len(gallery.points) == 13
    assert prune(gallery, places(root)) == Pruned(0)
    (root / os.fsdecode(b"gone\xff.ppm")).unlink()
    assert prune(gallery, places(root)) == Pruned(1)
    assert len(gallery.points) == 12


def test_several_roots_of_one_source(tmp_path):
    """A file is there as long as any of the roots has it."""
    east, west = tmp_path / "east", tmp_path / "west"
    gallery = MemoryGallery()
    for number in range(10):
        write_image(east / f"e{number}.ppm")
        write_image(west / f"w{number}.ppm")
    run_ingest([east, west], gallery, ColourEmbedder(), layout="flat", source="nas")
    assert prune(gallery, places(east, west, source="nas")) == Pruned(0)
    # Only one of them is named: the files of the other are there too.
    assert prune(gallery, places(east, source="nas")) == Pruned(0)
    (west / "w3.ppm").unlink()
    assert prune(gallery, places(east, source="nas")) == Pruned(1)
    # The other is not there: perhaps it is not mounted.
    west.rename(tmp_path / "away")
    done = prune(gallery, places(east, source="nas"))
    assert f"9 files of nas cannot be looked for (the first is {west}/" in done.refused
    assert f"last seen below {west}, which is not there" in done.refused
    assert prune(gallery, places(east, source="nas"), anyway=True) == Pruned(9)
    assert keys(gallery) == {f"e{number}.ppm" for number in range(10)}


def test_a_source_that_is_mounted_elsewhere_now(tmp_path):
    gallery = MemoryGallery()
    here = tmp_path / "host1"
    for number in range(10):
        write_image(here / f"{number}.ppm")
    run_ingest([here], gallery, ColourEmbedder(), layout="flat", source="nas")
    there = here.rename(tmp_path / "host2")
    assert prune(gallery, places(there, source="nas")) == Pruned(0)
    run_ingest([there], gallery, ColourEmbedder(), layout="flat", source="nas")
    (there / "4.ppm").unlink()
    assert prune(gallery, places(there, source="nas")) == Pruned(1)


def test_a_gallery_without_sources_or_keys(tmp_path):
    write_image(tmp_path / "a.ppm")
    gallery = MemoryGallery()
    assert prune(gallery, places(tmp_path)) == Pruned(0)
    vector = [1.0] + [0.0] * 47
    gallery.upsert(["00000000-0000-4000-8000-000000000001"], [vector], [{"source": str(tmp_path), "key": "x.ppm"}])
    assert "it is not known which file it is of" in prune(gallery, places(tmp_path)).refused


def test_an_interrupted_ingest_removes_nothing(tmp_path):
    import threading

    gallery = fill(tmp_path, 10)
    (tmp_path / "0" / "1.ppm").unlink()
    stop = threading.Event()
    stop.set()
    one = run_ingest([tmp_path], gallery, ColourEmbedder(), layout="flat", prune="anyway", stop=stop)
    assert (one.interrupted, one.removed) == (True, 0)
    assert len(gallery.points) == 10


def test_mount_points_of_fstab_without_their_disk(tmp_path, monkeypatch):
    gallery = fill(tmp_path / "my images", 10)
    table = tmp_path / "fstab"
    table.write_text(
        "# /etc/fstab\n\nproc /proc proc defaults 0 0\nUUID=1 none swap sw\nbroken\n"
        f"UUID=2\t{str(tmp_path).replace(' ', chr(92) + '040')}/my\\040images/0 ext4 noauto 0 2\n"
    )
    monkeypatch.setattr(whereabouts, "FSTAB", table)
    assert unmounted_places() == [f"{tmp_path}/my images/0/"]
    (tmp_path / "my images" / "0" / "1.ppm").unlink()
    done = prune(gallery, places(tmp_path / "my images"))
    assert f"{tmp_path}/my images/0/ is not mounted" in done.refused


def test_looking(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    assert look(f"{tmp_path}/file").state == "there"
    assert look(f"{tmp_path}/file/below").state == "gone"
    assert look(f"{tmp_path}/none/below").state == "gone"
    assert look(f"{tmp_path}").state == "gone"
    assert look(f"{tmp_path}/loop").state == "unknown"
    assert look(f"{tmp_path}/nul\0").state == "unknown"
    assert look(f"{tmp_path}/{'x' * 300}").state == "unknown"
    assert find({}, []) == Finding("unknown", "it is not known which file it is of")


def test_ids_that_do_not_fit_in_memory_go_to_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(prune_module, "_SPOOL_BYTES", 100)
    monkeypatch.setattr(prune_module, "_BATCH", 3)
    gallery = fill(tmp_path, 20)
    shutil.rmtree(tmp_path / "1")
    assert prune(gallery, places(tmp_path), anyway=True) == Pruned(10)
    assert keys(gallery) == {f"0/{n}.ppm" for n in range(10)}
