"""Which images are queries, which are the gallery, and what each rule leaves out: all counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from siamese_search.datasets.records import ImageRecord
from siamese_search.errors import DataError
from siamese_search.evaluation.protocol import DISTRACTOR, all_vs_all, market


def images(*labels: tuple[str | None, str | None], folder: str = "set") -> list[ImageRecord]:
    """One record per (identity, camera)."""
    return [
        ImageRecord(f"0001_c1_{i}.jpg", Path(folder, f"{i}.jpg"), identity, camera)
        for i, (identity, camera) in enumerate(labels)
    ]


MIXED = (
    ("-1", "1"),  # 0 junk
    ("A", "1"),  # 1
    ("A", "1"),  # 2 same camera as 1
    ("A", "2"),  # 3
    (None, "1"),  # 4 unlabelled
    ("0000", "2"),  # 5 distractor
    ("B", "1"),  # 6 alone
    ("C", "2"),  # 7 two of one camera
    ("C", "2"),  # 8
)


def test_all_vs_all_with_cameras():
    records = images(*MIXED)
    plan = all_vs_all(records)
    assert plan.use_cameras
    assert plan.queries == [records[row] for row in (1, 2, 3, 6, 7, 8)]
    assert plan.gallery == [records[row] for row in (1, 2, 3, 5, 6, 7, 8)]
    assert plan.same_image.tolist() == [0, 1, 2, 4, 5, 6]
    assert plan.query_ids == ["A", "A", "A", "B", "C", "C"]
    counts = plan.excluded
    assert (counts.unlabelled, counts.junk, counts.distractors, counts.itself) == (1, 1, 1, 6)
    assert counts.same_camera == 4  # 1-2, 2-1, 7-8, 8-7
    assert counts.no_match == 1  # B
    assert counts.same_camera_only == 2  # both of C
    assert len(plan.explain()) == 7
    plan.require_valid_query()


def test_a_person_who_is_called_as_nobody_is_is_told_from_them():
    person = [ImageRecord(f"0000/{n}.jpg", Path(f"p{n}.jpg"), "0000", "1") for n in range(2)]
    plan = all_vs_all([*person, *images(("0000", "1"), ("0000", "2"), ("A", "1"))], use_cameras=False)
    assert plan.query_ids == ["0000", "0000", "A"]
    assert [plan.matches(query) for query in range(3)] == [1, 1, 0]
    assert plan.gallery_identity.tolist() == [0, 0, DISTRACTOR, DISTRACTOR, 1]
    assert plan.excluded.distractors == 2


def test_all_vs_all_without_cameras():
    plan = all_vs_all(images(*MIXED), use_cameras=False)
    assert not plan.use_cameras
    assert (plan.excluded.same_camera, plan.excluded.same_camera_only, plan.excluded.no_match) == (0, 0, 1)


def test_cameras_that_nobody_knows_switch_the_rule_off():
    assert not all_vs_all(images(("A", None), ("A", None))).use_cameras


def test_market_keeps_the_sets_apart_and_a_shared_file_from_finding_itself():
    gallery = images(("A", "1"), ("A", "2"), ("-1", "1"), ("0000", "3"))
    queries = [gallery[1], *images(("A", "3"), ("B", "1"), ("0000", "1"), (None, None), folder="query")]
    plan = market(queries, gallery)
    assert plan.queries == queries[:3]
    assert plan.gallery == [gallery[row] for row in (0, 1, 3)]
    assert plan.same_image.tolist() == [1, -1, -1]
    counts = plan.excluded
    assert (counts.unlabelled, counts.junk, counts.distractors) == (1, 1, 1)
    # The first query's only same-camera image is itself, which has left already.
    assert (counts.itself, counts.same_camera, counts.no_match, counts.same_camera_only) == (1, 0, 1, 0)


def test_a_file_by_another_name_does_not_find_itself(tmp_path, monkeypatch):
    for name in ("0.jpg", "1.jpg"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "link.jpg").symlink_to("1.jpg")
    monkeypatch.chdir(tmp_path)
    gallery = images(("A", "1"), ("A", "2"), folder=str(tmp_path))
    queries = [
        ImageRecord("0.jpg", Path("0.jpg"), "A", "1"),
        ImageRecord("link.jpg", tmp_path / "link.jpg", "A", "2"),
        ImageRecord("2.jpg", tmp_path / "2.jpg", "A", "1"),
    ]
    assert market(queries, gallery).same_image.tolist() == [0, 1, -1]


def test_single_camera_data_is_explained():
    plan = all_vs_all(images(("A", "1"), ("A", "1"), ("B", "1"), ("B", "1")))
    with pytest.raises(DataError) as caught:
        plan.require_valid_query()
    assert str(caught.value) == "every query lost its matches to the same-camera rule: use --no-cameras"
    all_vs_all(images(("A", "1"), ("A", "1")), use_cameras=False).require_valid_query()


def test_single_camera_data_with_lonely_identities_is_explained():
    with pytest.raises(DataError, match="every query that had a match lost its matches to the same-camera"):
        all_vs_all(images(("A", "1"), ("A", "1"), ("B", "2"))).require_valid_query()


def test_lonely_identities_are_explained():
    with pytest.raises(DataError, match="none of 2 queries has another image of its identity"):
        all_vs_all(images(("A", "1"), ("B", "2"))).require_valid_query()


def test_nothing_labelled_is_explained():
    with pytest.raises(DataError, match="no image has a named identity; give them by folders, a CSV or --pattern"):
        all_vs_all(images((None, "1"), ("-1", "1"), ("0000", "1"))).require_valid_query()
