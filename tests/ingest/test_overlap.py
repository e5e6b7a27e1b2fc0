"""An image that several roots of a gallery reach is one point, that of the outermost root, whatever the order."""

import itertools
import os
import shutil

import pytest
from fakes import MemoryGallery, write_image
from soundness import verify_vectors

from ingest.pipeline import run_ingest
from siamese_search.curation.labels import plan_labels, write_changes
from siamese_search.datasets.records import point_id
from siamese_search.errors import UsageError


@pytest.fixture
def site(tmp_path):
    """photos/anna and photos/bob with three images each; more.csv beside them says more of one of bob's."""
    for name in ("anna", "bob"):
        for number in range(3):
            write_image(tmp_path / "site" / "photos" / name / f"{number}.jpg", seed=number + 10 * len(name))
    (tmp_path / "site" / "more.csv").write_text("path,identity,night\nphotos/bob/0.jpg,bob,true\n")
    return tmp_path / "site"


def known(gallery):
    """What each image is known as."""
    fields = ("source", "identity", "night")
    return sorted(
        (payload["path"], *(payload.get(field) for field in fields)) for _, payload in gallery.points.values()
    )


def test_in_whatever_order_the_roots_come_each_image_is_one_point(site, embedder):
    roots = [site / "photos", site / "photos" / "anna", site / "more.csv"]
    seen = []
    for order in itertools.permutations(roots):
        gallery = MemoryGallery()
        for root in order:
            run_ingest([root], gallery, embedder)
        assert verify_vectors(gallery).damaged == ()
        seen.append(known(gallery))
        again = [run_ingest([root], gallery, embedder) for root in order]
        assert [(one.new, one.changed, one.moved) for one in again] == [(0, 0, 0)] * 3
        assert known(gallery) == seen[-1]
    assert len(seen[0]) == 6
    assert all(one == seen[0] for one in seen)
    photos = str(site / "photos")
    assert {row[1] for row in seen[0] if "anna" in row[0]} == {photos}
    assert {row[2] for row in seen[0]} == {"anna", "bob"}
    assert [row[1:] for row in seen[0] if row[3]] == [(str(site), "bob", True)]


def test_roots_that_lie_in_each_other_are_one_ingest_as_they_are_several(site, embedder):
    roots = [site / "photos", site / "photos" / "anna", site / "more.csv"]
    apart = MemoryGallery()
    for root in roots:
        run_ingest([root], apart, embedder)
    for order in itertools.permutations(roots):
        gallery = MemoryGallery()
        done = run_ingest(list(order), gallery, embedder)
        assert known(gallery) == known(apart)
        assert verify_vectors(gallery).damaged == ()
        assert (done.seen, done.new, done.failed) == (10, 6, 0)
        outer = {str(site): [], str(site / "photos"): [str(site)]}
        assert done.overlaps == {**outer, str(site / "photos" / "anna"): [str(site), str(site / "photos")]}
        assert (again := run_ingest(list(order), gallery, embedder)).unchanged == again.seen == 10
        (site / "photos" / "anna" / "2.jpg").rename(site / "aside.jpg")
        assert run_ingest(list(order), gallery, embedder).left.gone == 1
        (site / "aside.jpg").rename(site / "photos" / "anna" / "2.jpg")


def test_nothing_is_embedded_twice(site, gallery, embedder):
    run_ingest([site / "photos" / "anna"], gallery, embedder)
    one = run_ingest([site / "photos"], gallery, embedder)
    assert (one.moved, one.new) == (3, 3)
    one = run_ingest([site / "photos" / "bob"], gallery, embedder)
    assert (one.unchanged, one.new) == (3, 0)
    assert sum(embedder.batches) == 6


def test_an_image_that_changed_is_embedded_again_where_it_stands(site, gallery, embedder):
    run_ingest([site / "photos"], gallery, embedder)
    path = site / "photos" / "anna" / "0.jpg"
    before = gallery.points[point_id(str(site / "photos"), "anna/0.jpg")][0].tobytes()
    write_image(path, seed=77)
    os.utime(path, ns=(1, 1))
    one = run_ingest([site / "photos" / "anna"], gallery, embedder)
    assert (one.changed, one.new, len(gallery.points)) == (1, 0, 6)
    vector, payload = gallery.points[point_id(str(site / "photos"), "anna/0.jpg")]
    assert vector.tobytes() != before
    assert (payload["identity"], payload["mtime_ns"]) == ("anna", 1)


def test_points_that_stand_twice_since_long_become_one(site, gallery, embedder):
    inner, outer = site / "photos" / "anna", site / "photos"
    run_ingest([inner], gallery, embedder, source="aside")
    for vector, payload in list(gallery.points.values()):  # as older galleries have them
        payload = {name: value for name, value in payload.items() if name != "crc"} | {"source": str(inner)}
        gallery.upsert([point_id(str(inner), payload["key"])], [vector], [{**payload, "rank": 3}])
    gallery.delete([point_id("aside", f"{number}.jpg") for number in range(3)])
    inner_points = dict(gallery.points)
    gallery.delete(list(inner_points))
    run_ingest([outer], gallery, embedder)
    gallery.points.update(inner_points)
    assert len(gallery.points) == 9
    assert run_ingest([outer], gallery, embedder).moved == 3
    assert len(gallery.points) == 6
    anna = [payload for _, payload in gallery.points.values() if payload["identity"] == "anna"]
    assert [payload["rank"] for payload in anna] == [3, 3, 3]  # nothing that was known is lost
    gallery.points.update(inner_points)
    assert run_ingest([inner], gallery, embedder).moved == 3
    assert len(gallery.points) == 6


def test_a_source_with_a_name_of_its_own_is_apart(site, gallery, embedder):
    run_ingest([site / "photos"], gallery, embedder)
    assert run_ingest([site / "photos" / "anna"], gallery, embedder, source="anna").new == 3


def test_another_file_at_the_same_key_is_another_image(site, gallery, embedder, tmp_path):
    """A store that came along from another machine: the directory is called the same, the paths are not."""
    run_ingest([site / "photos"], gallery, embedder)
    for vector, payload in list(gallery.points.values()):
        moved = {name: value for name, value in payload.items() if name != "crc"}
        moved["path"] = f"/elsewhere/{payload['key']}"
        gallery.upsert([point_id(payload["source"], payload["key"])], [vector], [moved])
    shutil.rmtree(site / "photos" / "bob")
    assert run_ingest([site / "photos" / "anna"], gallery, embedder).new == 3


def test_what_a_person_has_set_comes_along(site, gallery, embedder):
    inner = site / "photos" / "anna"
    run_ingest([inner], gallery, embedder)
    (site / "by_hand.csv").write_text("key,identity\n0.jpg,Anna K.\n")
    write_changes(gallery, plan_labels(gallery, site / "by_hand.csv").changes)
    run_ingest([site / "photos"], gallery, embedder)
    run_ingest([inner], gallery, embedder)
    assert [row[2] for row in known(gallery)] == ["Anna K.", "anna", "anna", "bob", "bob", "bob"]


def test_a_root_that_was_moved_and_is_linked_to_where_it_was_stays_the_same_source(site, tmp_path, embedder):
    """mv site disk; ln -s disk site: by either name, and by both at once."""
    gallery = MemoryGallery()
    run_ingest([site / "photos"], gallery, embedder)
    before = set(gallery.points)
    site.rename(tmp_path / "disk")
    site.symlink_to(tmp_path / "disk")
    write_image(tmp_path / "other" / "cy" / "0.jpg", seed=99)
    for roots in ([site / "photos"], [tmp_path / "disk" / "photos"], [tmp_path / "other", site / "photos"]):
        one = run_ingest(roots, gallery, embedder)
        assert one.embedded == (tmp_path / "other" in roots)
        assert one.left.gone == 0
    assert {row[1] for row in known(gallery)} == {str(site / "photos"), str(tmp_path / "other")}
    assert {row[0] for row in known(gallery) if "cy" not in row[0]} == set(map(str, (tmp_path / "disk").rglob("*.jpg")))
    assert before < set(gallery.points)
    (site / "photos" / "bob" / "0.jpg").unlink()
    assert run_ingest([site / "photos"], gallery, embedder, prune="safe").removed == 1


def test_roots_that_lie_in_each_other_are_refused_under_one_source(site, embedder):
    """The source would be the same and the keys would not: each image in both would be two points."""
    gallery = MemoryGallery()
    for roots in ([site / "photos", site / "photos" / "anna"], [site / "photos" / "anna", site / "more.csv"]):
        with pytest.raises(UsageError, match="lie in each other"):
            run_ingest(roots, gallery, embedder, source="s")
    assert not gallery.points
    assert run_ingest([site / "photos"], gallery, embedder, source="s").new == 6
