"""Real files and real events; what a watch ends in is what a fresh ingest of the same directories makes."""

import os
import random
import shutil
import threading
from contextlib import contextmanager

import pytest
from fakes import ColourEmbedder, MemoryGallery, write_image, write_market
from watching import Record, Watch, contents, fresh, wait_until, watching

from ingest.options import WatchOptions
from ingest.watching import events, watched_root
from ingest.watching.locate import absent
from ingest.watching.watch import Watcher
from siamese_search.errors import DataError, GalleryReplacedError, ModelMismatchError, StoreError


@pytest.fixture
def root(tmp_path):
    for name in ["ann/1.jpg", "ann/2.jpg", "bob/1.jpg", "bob/old/2.jpg"]:
        write_image(tmp_path / "root" / name)
    return tmp_path / "root"


def wait_same(watch, *roots, layout="folders", **options):
    """Until the gallery holds what a fresh ingest would put there, to the bit.

    layout: that of the watch, which keeps the one that it began with.
    """

    def same():
        assert watch.error is None, watch.error
        return contents(watch.gallery) == fresh(*roots, layout=layout, **options)

    wait_until(same, "the gallery of a fresh ingest")


def test_new_changed_and_deleted_files(root):
    with watching(root) as watch:
        assert contents(watch.gallery) == fresh(root)
        assert watch.record.first.new == 4
        write_image(root / "ann/3.jpg")
        wait_same(watch, root)
        write_image(root / "ann/3.jpg", seed="other")
        wait_same(watch, root)
        (root / "ann/3.jpg").unlink()
        wait_same(watch, root)
        total = watch.record.total
        wait_until(lambda: (total("new"), total("changed"), total("removed")) == (5, 1, 1))
        assert watch.embedder.batches[0] == 1  # loaded before it is needed
        assert sum(watch.embedder.batches) == 1 + 4 + 2  # nothing else was embedded again


def test_renamed_files_and_directories_that_move_in_out_and_about(root, tmp_path):
    outside = tmp_path / "outside"
    for number in range(3):
        write_image(outside / "cy" / f"deep/{number}.jpg")
    with watching(root) as watch:
        (root / "ann/1.jpg").rename(root / "bob/9.jpg")
        wait_same(watch, root)
        (outside / "cy").rename(root / "cy")
        wait_same(watch, root)
        assert len(watch.gallery.points) == 7
        write_image(root / "cy/deep/late.jpg")  # the new directories are watched too
        wait_same(watch, root)
        (root / "cy").rename(root / "dee")
        wait_same(watch, root)
        (root / "dee").rename(outside / "dee")
        wait_same(watch, root)
        shutil.rmtree(root / "bob")
        wait_same(watch, root)
        assert len(watch.gallery.points) == 1
        assert watch.record.failures() == []


def test_a_file_is_not_read_while_it_grows(root):
    whole = write_image(root.parent / "whole.png", size=(240, 120)).read_bytes()
    with watching(root, settle_seconds=3.0) as watch:
        seen = len(watch.embedder.batches)
        part = len(whole) // 40 + 1
        with (root / "ann/slow.png").open("wb") as file:
            for start in range(0, len(whole), part):
                file.write(whole[start : start + part])
                file.flush()
                watch.stop.wait(0.03)
                assert len(watch.embedder.batches) == seen
        wait_same(watch, root)
        assert watch.record.failures() == []


def test_a_damaged_file_is_named_and_read_again_when_it_is_mended(root):
    with watching(root) as watch:
        (root / "ann/3.jpg").write_bytes(b"no image")
        wait_until(watch.record.failures)
        assert watch.record.failures()[0].path == str(root / "ann/3.jpg")
        write_image(root / "ann/3.jpg")
        wait_until(lambda: len(watch.gallery.points) == 5)
        assert contents(watch.gallery) == fresh(root)


def test_names_from_hell_and_everything_that_a_scan_passes_over(root, tmp_path):
    with watching(root) as watch:
        outside = tmp_path / "outside"
        write_image(outside / "6.jpg")
        for name in ["new\nline/é.jpg", "ann/100%.jpg", "ann/.hidden.jpg", ".h/1.jpg"]:
            write_image(root / name)
        shutil.copy(root / "ann/1.jpg", os.fsencode(root) + b"/ann/\xff.jpg")
        (root / "ann/link").symlink_to(outside, target_is_directory=True)
        (root / "ann/out.jpg").symlink_to(outside / "6.jpg")
        (root / "ann/in.jpg").symlink_to(root / "ann/1.jpg")
        os.mkfifo(root / "ann/pipe.jpg")
        wait_same(watch, root)
        keys = {payload["key"] for _, payload in contents(watch.gallery).values()}
        assert {"new%0Aline/é.jpg", "ann/%FF.jpg", "ann/100%25.jpg", "ann/in.jpg"} <= keys
        assert len(keys) == 8
        assert {failure.reason for failure in watch.record.failures()} >= {"not a regular file"}


def test_two_roots_are_watched_side_by_side(root, tmp_path):
    other = tmp_path / "other"
    write_market(other)
    with watching(root, other) as watch:
        write_image(root / "ann/new.jpg")
        write_image(other / "0009_c1s1_000001_01.jpg")
        next(other.glob("0001*")).unlink()
        wait_same(watch, root, other, layout="auto")


def test_roots_that_lie_in_each_other_store_an_image_once(root):
    with watching(root, root / "ann") as watch:
        points = watch.gallery.points
        assert {payload["source"] for _, payload in points.values()} == {str(root)}
        assert len(points) == 4
        write_image(root / "ann/3.jpg")
        wait_until(lambda: len(points) == 5 and watch.record.states[-1] == "watching", "a new image")
        assert {payload["source"] for _, payload in points.values()} == {str(root)}


def test_two_roots_of_one_source_do_not_take_each_others_points(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for path in [one / "a.jpg", one / "b.jpg", two / "c.jpg"]:
        write_image(path)
    with watching(one, two, source="nas") as watch:
        write_image(two / "a.jpg", seed="clash")
        wait_until(watch.record.failures)
        assert "same source" in watch.record.failures()[0].reason
        (two / "a.jpg").unlink()
        (one / "b.jpg").unlink()
        wait_same(watch, one, two, layout="flat", source="nas")
        assert len(watch.gallery.points) == 2


def test_a_root_that_goes_away_loses_nothing_and_is_scanned_when_it_is_back(root):
    with watching(root) as watch:
        before = contents(watch.gallery)
        root.rename(root.parent / "away")
        wait_until(lambda: "root_gone" in watch.record.events())
        wait_until(lambda: watch.record.states[-1] == "root away")
        write_image(root.parent / "away/ann/9.jpg")
        (root.parent / "away").rename(root)
        wait_until(lambda: len(watch.gallery.points) == 5)
        assert "root_back" in watch.record.events()
        assert contents(watch.gallery).items() > before.items()
        write_image(root / "ann/10.jpg")  # and it is watched again
        wait_same(watch, root)
        assert watch.record.total("removed") == 0


def test_a_root_that_is_replaced_by_an_empty_directory_loses_nothing(root):
    """What an unmounted disk looks like."""
    with watching(root) as watch:
        before = contents(watch.gallery)
        root.rename(root.parent / "away")
        root.mkdir()
        wait_until(lambda: "root_back" in watch.record.events())
        write_image(root / "cy/1.jpg")
        wait_until(lambda: len(watch.gallery.points) == 5)
        assert contents(watch.gallery).items() > before.items()


def test_an_empty_root_waits_for_its_first_images(tmp_path):
    root = tmp_path / "inbox"
    root.mkdir()
    with watching(root) as watch:
        assert watch.record.first is None
        for name in ["ann/1.jpg", "ann/2.jpg", "bob/1.jpg"]:
            write_image(tmp_path / "outside" / name)
        for name in ["ann", "bob"]:
            (tmp_path / "outside" / name).rename(root / name)
        wait_same(watch, root)
        assert {payload["identity"] for _, payload in contents(watch.gallery).values()} == {"ann", "bob"}


def test_an_image_that_does_not_fit_the_layout_is_named(root):
    with watching(root, layout="folders") as watch:
        write_image(root / "nobody.jpg")
        wait_until(watch.record.failures)
        [failure] = watch.record.failures()
        assert failure.path == str(root / "nobody.jpg")
        assert failure.reason.startswith("does not fit the layout folders")
        assert len(watch.gallery.points) == 4


def test_a_layout_is_learnt_from_what_comes_later(tmp_path):
    root = tmp_path / "inbox"
    root.mkdir()
    with watching(root) as watch:
        write_image(root / "ann/1.jpg")
        wait_until(lambda: len(watch.gallery.points) == 1)
        write_image(root / "ann/2.jpg")
        write_image(root / "bob/1.jpg")
        wait_same(watch, root)
        assert {payload["identity"] for _, payload in contents(watch.gallery).values()} == {"ann", "bob"}


def test_a_watch_begins_again_beside_an_image_that_does_not_fit(root):
    write_image(root / "stray.jpg")
    with watching(root, layout="folders") as watch:
        watch.wait_complete()
        assert len(watch.gallery.points) == 4
        assert [failure.path for failure in watch.record.failures()] == [str(root / "stray.jpg")]


def test_a_csv_its_images_and_its_mistakes(tmp_path):
    for name in ["x/1.jpg", "x/2.jpg", "y/3.jpg", "y/unlisted.jpg"]:
        write_image(tmp_path / name)
    table = tmp_path / "people.csv"
    table.write_text("path,identity\nx/1.jpg,ann\nx/2.jpg,bob\n")
    with watching(table) as watch:
        write_image(tmp_path / "x/1.jpg", seed="other")
        wait_same(watch, table, layout="csv")
        table.write_text("path,identity\nx/1.jpg,ann\nx/2.jpg,beth\ny/3.jpg,cy\n")
        wait_same(watch, table, layout="csv")
        write_image(tmp_path / "y/3.jpg", seed="its directory is watched since then")
        wait_same(watch, table, layout="csv")
        before = contents(watch.gallery)
        table.write_text("path,identity\nx/1.jpg,ann\nmissing.jpg,dee\n")
        wait_until(lambda: any("missing.jpg" in failure.path for failure in watch.record.failures()))
        assert contents(watch.gallery) == before  # a row that has gone takes nothing along
        (tmp_path / "x/2.jpg").unlink()
        wait_until(lambda: len(watch.gallery.points) == 2)


@pytest.mark.parametrize("seed", range(3))
def test_any_sequence_of_changes_ends_in_the_gallery_of_a_fresh_ingest(root, tmp_path, seed):
    rng = random.Random(seed)
    outside = tmp_path / "outside"
    outside.mkdir()
    with watching(root) as watch:
        for step in range(60):
            files = sorted(path for path in root.rglob("*.jpg") if path.is_file())
            folders = [root, *sorted(path for path in root.rglob("*") if path.is_dir())]
            match rng.randrange(8):
                case 0 | 1:
                    write_image(rng.choice(folders[1:] or [root / "ann"]) / f"{step}.jpg")
                case 2 if files:
                    write_image(rng.choice(files), seed=step)
                case 3 if len(files) > 1:
                    rng.choice(files).unlink()
                case 4 if files:
                    rng.choice(files).rename(rng.choice(files).parent / f"moved{step}.jpg")
                case 5:
                    write_image(rng.choice(folders) / f"d{step}" / "in.jpg")
                case 6 if len(folders) > 2:
                    folder = rng.choice(folders[1:])
                    folder.rename((outside if rng.random() < 0.5 else folder.parent) / f"f{step}")
                case 7 if list(outside.iterdir()):
                    rng.choice(sorted(outside.iterdir())).rename(root / f"back{step}")
            if rng.random() < 0.1:
                watch.stop.wait(0.3)
        write_image(root / "ann/last.jpg")
        wait_same(watch, root)


def test_a_storm_of_files(root, monkeypatch):
    """So many at once that the system may have dropped some: the watch is renewed, and the root scanned."""
    monkeypatch.setattr(events, "STORM", 5)
    with watching(root) as watch:
        for number in range(1500):
            os.link(root / "ann/1.jpg", root / "ann" / f"storm{number}.jpg")
        wait_until(lambda: len(watch.gallery.points) == 1504)
        wait_until(lambda: "events_lost" in watch.record.events())
        write_image(root / "new/1.jpg")
        wait_until(lambda: len(watch.gallery.points) == 1505)
        assert contents(watch.gallery) == fresh(root)


def test_more_changes_than_can_be_held_back_are_found_by_a_scan(root, monkeypatch):
    monkeypatch.setattr("ingest.watching.watched_root.MAX_WAITING", 20)
    with watching(root) as watch:
        for number in range(100):
            shutil.copyfile(root / "ann/1.jpg", root / "ann" / f"many{number}.jpg")
        wait_until(lambda: len(watch.gallery.points) == 104)
        assert contents(watch.gallery) == fresh(root)


def _silence(self):
    while not self._stop.wait(0.05):
        yield frozenset()


@pytest.fixture
def frequent_scans(monkeypatch):
    """No event comes, and a scan may follow soon upon another: what is tested is what a scan does, not when."""
    monkeypatch.setattr(events.Events, "_changes", _silence)
    monkeypatch.setattr(watched_root, "_REST_SECONDS", 0.1)
    monkeypatch.setattr(watched_root, "_LOOK_SECONDS", 0.1)


def test_a_scan_now_and_then_finds_what_no_event_told(root, frequent_scans):
    with watching(root, rescan_minutes=0.005) as watch:
        write_image(root / "ann/3.jpg")
        wait_until(lambda: len(watch.gallery.points) == 5)
        (root / "ann/3.jpg").unlink()
        scans = watch.record.total("seen")
        wait_until(lambda: watch.record.total("seen") > scans + 8)
        assert len(watch.gallery.points) == 5  # absence is no event


def test_scans_prune_where_that_is_asked_for(root, frequent_scans):
    for number in range(6):
        write_image(root / "ann" / f"more{number}.jpg")
    with watching(root, rescan_minutes=0.005, prune="safe") as watch:
        (root / "ann/1.jpg").unlink()
        wait_until(lambda: len(watch.gallery.points) == 9)
        for number in range(6):
            (root / "ann" / f"more{number}.jpg").unlink()
        wait_until(lambda: "prune_refused" in watch.record.events())
        assert len(watch.gallery.points) == 9
    assert watch.record.total("removed") == 1


def test_polling_sees_the_same_changes(root, monkeypatch):
    monkeypatch.setattr(events, "POLL_MILLISECONDS", 100)
    with watching(root, poll=True) as watch:
        write_image(root / "ann/3.jpg")
        wait_same(watch, root)
        (root / "ann/3.jpg").unlink()
        wait_same(watch, root)
        (root / "bob").rename(root / "cy")
        wait_same(watch, root)


def test_polling_does_not_believe_that_most_files_have_gone(root, tmp_path, monkeypatch):
    monkeypatch.setattr(events, "POLL_MILLISECONDS", 100)
    for number in range(40):
        write_image(root / "ann" / f"more{number}.jpg")
    with watching(root, poll=True) as watch:
        (root / "ann").rename(tmp_path / "unmounted")
        (root / "ann").mkdir()
        wait_until(lambda: "removal_refused" in watch.record.events())
        assert len(watch.gallery.points) == 44


def test_a_failing_disk_or_a_shut_door_is_no_deletion(tmp_path, monkeypatch):
    assert absent(str(tmp_path / "nowhere"))
    assert absent(str(write_image(tmp_path / "a.jpg") / "below"))
    assert not absent(str(tmp_path / "a.jpg"))

    def fails(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "lstat", fails)
    assert not absent(str(tmp_path / "nowhere"))


class Store:
    """A store that is away for the next ``away`` openings."""

    def __init__(self, away, error=StoreError):
        self.away, self.gallery, self.error, self.opened = away, MemoryGallery(), error, 0

    @contextmanager
    def open(self):
        self.opened += 1
        if self.away > 0:
            self.away -= 1
            raise self.error("the store does not answer")
        yield self.gallery, ColourEmbedder()


def test_a_store_that_is_away_at_first_is_an_error_or_waited_for(root):
    impatient = Store(1)
    watch = Watch([root], impatient.gallery, impatient.open)
    wait_until(lambda: watch.error)
    assert isinstance(watch.error, StoreError)
    watch.close()
    store = Store(2)
    with watching(root, gallery=store.gallery, open_gallery=store.open, patient=True) as watch:
        assert watch.record.events().count("store_away") == 2
        assert "store_back" in watch.record.events()
        assert "store away" in watch.record.states
        assert contents(store.gallery) == fresh(root)


def test_a_store_that_goes_away_later_costs_no_change(root):
    store = Store(0)
    with watching(root, gallery=store.gallery, open_gallery=store.open) as watch:
        store.away = 2
        write_image(root / "ann/3.jpg")
        (root / "ann/1.jpg").unlink()
        wait_same(watch, root)
        assert watch.record.events().count("store_away") == 2


def test_a_write_that_fails_half_way_is_done_again(root):
    class Failing(MemoryGallery):
        failures = 0

        def upsert(self, *args):
            if self.failures:
                self.failures -= 1
                raise StoreError("the disk is full")
            super().upsert(*args)

        def delete(self, *args):
            if self.failures:
                self.failures -= 1
                raise StoreError("the disk is full")
            super().delete(*args)

    gallery = Failing()
    with watching(root, gallery=gallery) as watch:
        gallery.failures = 1
        write_image(root / "ann/3.jpg")
        wait_same(watch, root)
        gallery.failures = 1
        (root / "ann/3.jpg").unlink()
        wait_same(watch, root)
        assert gallery.failures == 0


def test_a_gallery_that_was_reindexed_is_opened_again(root):
    store = Store(0, GalleryReplacedError)
    with watching(root, gallery=store.gallery, open_gallery=store.open) as watch:
        store.away = 1
        write_image(root / "ann/3.jpg")
        wait_same(watch, root)
        assert "store_away" not in watch.record.events()


def test_another_model_ends_the_watch(root):
    store = Store(0, ModelMismatchError)
    watch = Watch([root], store.gallery, store.open)
    watch.wait_complete()
    store.away = 1
    write_image(root / "ann/3.jpg")
    wait_until(lambda: watch.error)
    assert isinstance(watch.error, ModelMismatchError)
    watch.close()


def test_the_gallery_is_closed_while_nothing_happens(root):
    opened = []

    @contextmanager
    def open_gallery():
        opened.append("open")
        yield gallery, ColourEmbedder()
        opened.append("closed")

    gallery = MemoryGallery()
    with watching(root, gallery=gallery, open_gallery=open_gallery) as watch:
        wait_until(lambda: opened[-1] == "closed")
        count = len(opened)
        watch.stop.wait(1.0)
        assert len(opened) == count
        write_image(root / "ann/3.jpg")
        wait_until(lambda: len(opened) > count and opened[-1] == "closed")


@pytest.mark.parametrize("name", ["nowhere", "mixed"])
def test_roots_that_cannot_be_watched(tmp_path, name):
    write_market(tmp_path / "mixed")
    options = WatchOptions(layout="folders")
    with pytest.raises(DataError, match=name):
        Watcher([tmp_path / name], Store(0).open, options, Record(), threading.Event()).run()


def test_a_file_that_moves_keeps_its_vector_where_content_is_compared(root):
    with watching(root, checksum=True) as watch:
        embedded = sum(watch.embedder.batches)
        (root / "ann/1.jpg").rename(root / "bob/moved.jpg")
        wait_until(lambda: watch.record.total("moved") == 1)
        keys = {payload["key"] for _, payload in contents(watch.gallery).values()}
        assert keys == {"ann/2.jpg", "bob/1.jpg", "bob/moved.jpg", "bob/old/2.jpg"}
        assert sum(watch.embedder.batches) == embedded
