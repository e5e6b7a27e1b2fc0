"""Moved files keep their point: which one is which, what comes along, and what a crash leaves."""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from fakes import MODEL, ColourEmbedder, MemoryGallery, write_image, write_market
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from soundness import verify_vectors

from ingest import moves, prune
from ingest.pipeline import run_ingest
from siamese_search.datasets.records import point_id
from siamese_search.gallery import open_gallery
from siamese_search.gallery.payload import read_carried
from siamese_search.io.files import digest_file
from siamese_search.io.images import read_image


def run(root, gallery, embedder=None, **options):
    roots = root if isinstance(root, list) else [root]
    one = run_ingest(roots, gallery, embedder or ColourEmbedder(), checksum=True, **options)
    assert one.seen == one.new + one.changed + one.moved + one.unchanged + one.failed
    return one


def by_key(gallery):
    return {payload["key"]: payload for _, payload in gallery.points.values()}


def labelled(root, gallery, **labels):
    """Images named after the labels, ingested with checksums from a table that gives each its identity."""
    for name in labels:
        write_image(root / f"{name}.jpg")
    rows = "".join(f"{name}.jpg,{label},3,{len(label)}\n" for name, label in labels.items())
    table = root / "labels.csv"
    table.write_text(f"path,identity,camera,rank\n{rows}")
    run(table, gallery)
    return root


def test_a_moved_file_keeps_vector_and_metadata_and_is_not_embedded(tmp_path, gallery, embedder):
    old = labelled(tmp_path / "old", gallery, a="ann", b="bob")
    vector = gallery.points[point_id(str(old), "a.jpg")][0].tobytes()
    (tmp_path / "new" / "deep").mkdir(parents=True)
    (old / "a.jpg").rename(tmp_path / "new" / "deep" / "other name.jpg")
    one = run(tmp_path / "new", gallery, embedder)
    assert (one.moved, one.new, embedder.batches) == (1, 0, [])
    assert point_id(str(old), "a.jpg") not in gallery.points
    stored, payload = gallery.points[point_id(str(tmp_path / "new"), "deep/other name.jpg")]
    assert stored.tobytes() == vector
    assert (payload["identity"], payload["camera"], payload["rank"]) == ("ann", "3", 3)
    assert payload["path"] == str(tmp_path / "new" / "deep" / "other name.jpg")
    assert read_carried(payload).names == ("camera", "identity", "rank")
    assert read_carried(payload).origin is None
    assert len(gallery.points) == 2
    # They stay: at the next run, with and without checksums, when the content changes, at the next move.
    before = by_key(gallery)
    assert run(tmp_path / "new", gallery).unchanged == 1
    assert run_ingest([tmp_path / "new"], gallery, embedder).unchanged == 1
    assert by_key(gallery) == before
    path = (tmp_path / "new" / "deep" / "other name.jpg").rename(tmp_path / "new" / "third.jpg")
    assert run(tmp_path / "new", gallery).moved == 1
    write_image(path, seed="edited")
    assert run(tmp_path / "new", gallery).changed == 1
    assert by_key(gallery)["third.jpg"]["identity"] == "ann"


def test_what_the_new_place_states_wins_and_is_carried_no_longer(tmp_path, gallery):
    old = labelled(tmp_path / "old", gallery, a="ann")
    (tmp_path / "new").mkdir()
    (old / "a.jpg").rename(tmp_path / "new" / "a.jpg")
    table = tmp_path / "new" / "labels.csv"
    table.write_text("path,identity\na.jpg,bea\n")
    assert run(table, gallery).moved == 1
    payload = by_key(gallery)["a.jpg"]
    assert (payload["identity"], payload["camera"], payload["rank"]) == ("bea", "3", 3)
    assert read_carried(payload).names == ("camera", "rank")
    table.write_text("path,identity,camera\na.jpg,bea,4\n")
    assert run(table, gallery).changed == 1
    assert read_carried(by_key(gallery)["a.jpg"]).names == ("rank",)
    # What the table stated and states no longer has gone, as for a file that never moved.
    table.write_text("path,identity\na.jpg,bea\n")
    run(table, gallery)
    assert "camera" not in by_key(gallery)["a.jpg"]


def test_a_copy_is_a_new_file(tmp_path, gallery, embedder):
    old = labelled(tmp_path / "old", gallery, a="ann")
    (tmp_path / "new").mkdir()
    shutil.copy2(old / "a.jpg", tmp_path / "new" / "a.jpg")
    one = run(tmp_path / "new", gallery, embedder)
    assert (one.new, one.moved, sum(embedder.batches)) == (1, 0, 1)
    assert len(gallery.points) == 2
    assert "identity" not in gallery.points[point_id(str(tmp_path / "new"), "a.jpg")][1]


def test_without_checksums_nothing_moves(tmp_path, gallery):
    old = labelled(tmp_path / "old", gallery, a="ann")
    (tmp_path / "new").mkdir()
    (old / "a.jpg").rename(tmp_path / "new" / "a.jpg")
    assert run_ingest([tmp_path / "new"], gallery, ColourEmbedder()).new == 1
    assert len(gallery.points) == 2


def test_of_several_alike_the_one_of_that_name_moves_and_each_but_once(tmp_path, gallery):
    root = tmp_path / "root"
    for name in ("a", "b", "c"):
        write_image(root / f"{name}.jpg", seed="the same")
    table = root / "labels.csv"
    table.write_text("path,identity\na.jpg,ann\nb.jpg,bob\nc.jpg,cid\n")
    run(table, gallery)
    for name in ("a", "b"):
        (root / "moved").mkdir(exist_ok=True)
        (root / f"{name}.jpg").rename(root / "moved" / f"{name}.jpg")
    shutil.copy(root / "c.jpg", root / "moved" / "c.jpg")
    table.unlink()
    one = run(root / "moved", gallery)
    assert (one.moved, one.new) == (2, 1)
    here = {p["key"]: p.get("identity") for _, p in gallery.points.values() if p["source"].endswith("moved")}
    assert here == {"a.jpg": "ann", "b.jpg": "bob", "c.jpg": None}


def test_of_several_of_one_name_the_lowest_id_moves(tmp_path, gallery):
    root = tmp_path / "root"
    folders = [str(number) for number in range(5)]
    for folder in folders:
        write_image(root / folder / "a.jpg", seed="the same")
    table = root / "labels.csv"
    table.write_text("path,identity\n" + "".join(f"{folder}/a.jpg,who{folder}\n" for folder in folders))
    run(table, gallery)
    (root / "new").mkdir()
    (root / "0" / "a.jpg").rename(root / "new" / "a.jpg")
    for folder in folders[1:]:
        (root / folder / "a.jpg").unlink()
    one = run(root, gallery, layout="flat")
    assert one.moved == 1
    first = min(folders, key=lambda folder: point_id(str(root), f"{folder}/a.jpg"))
    assert by_key(gallery)["new/a.jpg"]["identity"] == f"who{first}"


def test_a_renamed_root_moves_as_a_whole_in_a_store_of_this_machine_only(tmp_path, gallery):
    for shared, moved in ((False, 2), (True, 0)):
        here = MemoryGallery()
        here.shared = shared
        root = labelled(tmp_path / "photos", here, a="ann", b="bob")
        renamed = root.rename(tmp_path / "pictures")
        (renamed / "labels.csv").unlink()
        one = run(renamed, here)
        # On a server the old directory may as well be another machine's, and its files there.
        assert (one.moved, one.new) == (moved, 2 - moved)
        shutil.rmtree(renamed)


def test_files_of_a_disk_that_is_not_mounted_have_not_moved(tmp_path, gallery, monkeypatch):
    disk = labelled(tmp_path / "disk", gallery, a="ann")
    (tmp_path / "new").mkdir()
    (disk / "a.jpg").rename(tmp_path / "new" / "a.jpg")
    (tmp_path / "fstab").write_text(f"UUID=1 {disk} ext4 defaults 0 2\n")
    monkeypatch.setattr(prune, "FSTAB", tmp_path / "fstab")
    assert run(tmp_path / "new", gallery).new == 1
    assert len(gallery.points) == 2


def test_a_damaged_vector_does_not_move(tmp_path, gallery, embedder):
    old = labelled(tmp_path / "old", gallery, a="ann")
    ((identifier, (vector, payload)),) = gallery.points.items()
    gallery.points[identifier] = (np.roll(vector, 1), payload)
    (tmp_path / "new").mkdir()
    (old / "a.jpg").rename(tmp_path / "new" / "a.jpg")
    one = run(tmp_path / "new", gallery, embedder)
    assert (one.new, sum(embedder.batches)) == (1, 1)
    assert run(tmp_path / "new", gallery).moved == 1  # which ends the old point
    ((_, (mended, payload)),) = gallery.points.items()
    assert mended.tobytes() == vector.tobytes()
    assert payload["identity"] == "ann"


def test_nobody_searches_for_ever_among_pictures_that_are_all_the_same(tmp_path, gallery, monkeypatch):
    monkeypatch.setattr(moves, "MAX_CANDIDATES", 3)
    root = tmp_path / "root"
    for number in range(6):
        write_image(root / f"{number}.jpg", seed="black")
    run(root, gallery)
    (root / "sub").mkdir()
    for number in range(6):
        (root / f"{number}.jpg").rename(root / "sub" / f"{number}.jpg")
    assert run(root, gallery).moved == 3


class KilledError(Exception):
    pass


class Dying(MemoryGallery):
    """Does ``left`` more writes, and no other."""

    left = 10**9

    def _count(self):
        self.left -= 1
        if self.left < 0:
            raise KilledError

    def upsert(self, *args):
        self._count()
        super().upsert(*args)

    def delete(self, ids):
        self._count()
        super().delete(ids)

    def flush(self):
        self._count()


def test_killed_between_any_two_steps_the_next_run_ends_in_the_same_gallery(tmp_path):
    def moved_about(name):
        gallery = Dying()
        old = labelled(tmp_path / name, gallery, a="ann", b="bob", c="cid")
        (old / "sub").mkdir()
        for one in ("a", "b"):
            (old / f"{one}.jpg").rename(old / "sub" / f"{one}.jpg")
            os.utime(old / "sub" / f"{one}.jpg", ns=(1, 10**18))
        os.utime(old / "c.jpg", ns=(1, 10**18))
        (old / "labels.csv").unlink()
        return gallery, old

    def state(gallery):
        return sorted((p["key"], p.get("identity"), p.get("carried"), v.tobytes()) for v, p in gallery.points.values())

    gallery, root = moved_about("whole")
    assert run(root, gallery).moved == 2
    expected = state(gallery)
    assert len(expected) == 3
    for writes in range(100):
        gallery, root = moved_about(f"killed{writes}")
        gallery.left = writes
        try:
            run(root, gallery)
        except KilledError:
            assert {row[1] for row in state(gallery)} >= {"ann", "bob"}  # nothing lost at any moment
            gallery.left = 10**9
            embedder = ColourEmbedder()
            run(root, gallery, embedder)
            assert embedder.batches == []
            assert state(gallery) == expected
        else:
            break
    assert writes >= 6  # it was killed in every step


def test_a_file_that_came_back_meanwhile_keeps_its_point(tmp_path):
    gallery = Dying()
    root = labelled(tmp_path / "root", gallery, a="ann")
    (root / "labels.csv").unlink()
    (root / "a.jpg").rename(root / "b.jpg")
    gallery.left = 2  # the new point is there, the old one not yet deleted
    with pytest.raises(KilledError):
        run(root, gallery)
    gallery.left = 10**9
    shutil.copy(root / "b.jpg", root / "a.jpg")
    run(root, gallery)
    assert by_key(gallery).keys() == {"a.jpg", "b.jpg"}
    assert by_key(gallery)["b.jpg"]["identity"] == "ann"
    assert read_carried(by_key(gallery)["b.jpg"]).origin is None


@pytest.mark.parametrize("text", ["", "{}", "[]", "7", '{"fields": 3}', '{"fields": [], "from": "no id"}', 7, None])
def test_a_carried_field_that_is_not_ours_carries_nothing(text):
    payload = {} if text is None else {"carried": text}
    assert read_carried(payload).names == ()
    assert read_carried(payload).origin is None


def test_on_the_real_store(tmp_path):
    paths = write_market(tmp_path / "one", identities=5)
    with open_gallery(tmp_path / "store", model=MODEL, create=True, mode="w") as gallery:
        assert run(tmp_path / "one", gallery).new == 20
        before = {p.payload["key"]: p.vector.tobytes() for p in gallery.scroll(with_vectors=True)}
        (tmp_path / "two").mkdir()
        for path in paths[:7]:
            path.rename(tmp_path / "two" / path.name)
        for path in paths[7:9]:
            path.unlink()
        for path in paths[9:12]:
            os.utime(path, ns=(1, 10**18))
        embedder = ColourEmbedder()
        one = run([tmp_path / "one", tmp_path / "two"], gallery, embedder, prune="safe")
        assert (one.moved, one.unchanged, one.removed, one.prune_refused) == (7, 11, 2, None)
        assert embedder.batches == []
        after = {p.payload["key"]: p.vector.tobytes() for p in gallery.scroll(with_vectors=True)}
        assert after == {key: vector for key, vector in before.items() if key not in {p.name for p in paths[7:9]}}
        assert verify_vectors(gallery).damaged == ()
        assert run([tmp_path / "one", tmp_path / "two"], gallery, embedder, prune="safe").unchanged == 18


NAMES = [f"{folder}{name}.ppm" for folder in ("", "x/", "y/") for name in "abc"]
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["add", "edit", "quiet edit", "touch", "move", "move", "copy", "delete", "in", "ingest", "ingest"]
        ),
        st.sampled_from(NAMES),
        st.sampled_from(NAMES),
        st.integers(0, 2),
    ),
    max_size=14,
)


class Story:
    """The plain way: what must be stored is worked out with dictionaries, one file at a time."""

    def __init__(self, root: Path):
        self.here, self.there = root / "here", root / "there"
        self.here.mkdir()
        write_image(self.here / "always.ppm", seed="always")
        self.gallery = MemoryGallery()
        tags = {f"{name}{seed}.ppm": f"tag {name}{seed}" for name in "abc" for seed in range(3)}
        for name in tags:
            write_image(self.there / name, seed=int(name[1]))
        table = self.there / "labels.csv"
        table.write_text("path,identity\n" + "".join(f"{name},{tag}\n" for name, tag in tags.items()))
        run(table, self.gallery)
        #: What is stored: path -> (seed, identity).
        self.stored = {self.there / name: (int(name[1]), tag) for name, tag in tags.items()}
        self.files = {path: seed for path, (seed, _) in self.stored.items()}
        self.files[self.here / "always.ppm"] = "always"
        self.clock = 10**18

    def do(self, what, one, other, seed):
        path, target = self.here / one, self.here / other
        mine = sorted(path for path in self.files if self.here in path.parents)
        if what not in ("add", "in") and path not in mine:
            path = mine[(NAMES.index(one)) % len(mine)]  # else most operations would meet nothing
        if path == self.here / "always.ppm" and what in ("move", "delete"):
            return
        if what in ("add", "edit", "quiet edit"):
            before = path.stat().st_mtime_ns if path in self.files else None
            write_image(path, seed=seed)
            self.tick(path, before if what == "quiet edit" else None)
            self.files[path] = seed
        elif what == "in":
            source = self.there / f"{Path(one).stem}{seed}.ppm"
            if source in self.files:
                self.rename(source, path)
        elif what == "touch":
            self.tick(path)
        elif what == "move" and path != target:
            self.rename(path, target)
        elif what == "copy" and path != target:
            target.parent.mkdir(exist_ok=True)
            shutil.copy2(path, target)
            self.files[target] = self.files[path]
        elif what == "delete":
            path.unlink()
            del self.files[path]

    def rename(self, path, target):
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
        self.files[target] = self.files.pop(path)

    def tick(self, path, exactly=None):
        self.clock += 1
        os.utime(path, ns=(1, exactly or self.clock))

    def ingest(self):
        """The real thing, then what it must have done."""
        run(self.here, self.gallery, prune="anyway", layout="flat")
        mine = sorted((p for p in self.files if p.parent == self.here or p.parent.parent == self.here), key=str)
        after = {path: (self.files[path], self.stored[path][1]) for path in mine if path in self.stored}
        left = [path for path in self.stored if path not in self.files]
        left.sort(key=lambda path: self.identifier(path))
        for same_name in (True, False):
            for path in sorted(mine, key=lambda path: str(path.relative_to(self.here)).split("/")):
                for origin in left:
                    fits = origin.name == path.name or not same_name
                    if path not in after and self.stored[origin][0] == self.files[path] and fits:
                        after[path] = (self.files[path], self.stored[origin][1])
                        left.remove(origin)
                        del self.stored[origin]
                        break
        for path in mine:
            after.setdefault(path, (self.files[path], None))
        others = {path: what for path, what in self.stored.items() if path.parent == self.there}
        self.stored = {**others, **after}
        self.check()

    def identifier(self, path):
        base = self.there if path.parent == self.there else self.here
        return point_id(str(base), path.relative_to(base).as_posix())

    def check(self):
        embedder = ColourEmbedder()
        assert self.gallery.points.keys() == {self.identifier(path) for path in self.stored}
        for path, (seed, tag) in self.stored.items():
            vector, payload = self.gallery.points[self.identifier(path)]
            assert payload["path"] == str(path)
            assert payload.get("identity") == tag, path
            if path in self.files:
                assert seed == self.files[path]
                assert vector.tobytes() == embedder.embed(read_image(path, embedder.input_size)[None])[0].tobytes()
                status = path.stat()
                assert (payload["size"], payload["mtime_ns"]) == (status.st_size, status.st_mtime_ns)
                assert payload["digest"] == digest_file(path)
            if path.parent != self.there:
                assert read_carried(payload).names == (() if tag is None else ("identity",))
                assert ("carried" in payload) == (tag is not None)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(OPERATIONS)
def test_any_story_ends_as_the_plain_way_says(operations):
    with tempfile.TemporaryDirectory() as scratch:
        story = Story(Path(scratch).resolve())
        story.ingest()
        for what, *rest in operations:
            if what == "ingest":
                story.ingest()
            else:
                story.do(what, *rest)
        story.ingest()
