"""Does a calibration hold in a gallery? By its unlabelled scores, and by whose calibration counts."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
from fakes import MODEL, MemoryGallery

from siamese_search.errors import StoreError, UsageError
from siamese_search.model.calibration import Calibration
from siamese_search.retrieval.judging import (
    ALONE,
    LEAST_IMAGES,
    gallery_calibration,
    hand_over,
    judge_alone,
    judge_in,
    keep_calibration,
    share_above_median,
    take_back,
)

#: Half of the pairs of different identities score 0 or more.
KNOWN = Calibration((1.0, 0.5, 0.01), (-1.0, 0.0, 0.6), slope=10.0, offset=-5.0, genuine=50, impostor=100)
OTHER = Calibration((1.0, 0.5), (-1.0, 0.9), slope=20.0, offset=-5.0, genuine=60, impostor=200)


def spread(n: int, seed: int = 0, towards: float = 0.0) -> np.ndarray:
    """Unit vectors in all directions, or all the more in one of them."""
    rows = np.random.default_rng(seed).normal(size=(n, MODEL.dim)).astype(np.float32)
    rows[:, 0] += towards
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def filled(vectors: np.ndarray, identities: list[str | None] | None = None) -> MemoryGallery:
    gallery = MemoryGallery()
    ids = [str(uuid.uuid5(uuid.NAMESPACE_URL, str(n))) for n in range(len(vectors))]
    names = identities or [None] * len(vectors)
    gallery.upsert(ids, vectors, [{"identity": name} for name in names])
    return gallery


def share_slowly(vectors: np.ndarray, identities: list[str | None]) -> float:
    """The definition, pair by pair."""
    others = [
        float(vectors[i] @ vectors[j])
        for i in range(len(vectors))
        for j in range(i)
        if identities[i] is None or identities[i] != identities[j]
    ]
    return sum(score >= 0.0 for score in others) / len(others) / 0.5


@pytest.mark.parametrize("names", [[None], ["a", "b", "c"], ["a", None, "0000"]])
def test_the_share_is_that_of_pairs_not_known_to_be_the_same(names: list[str | None]) -> None:
    vectors = spread(40, towards=2.0)
    identities = [names[n % len(names)] for n in range(40)]
    found = share_above_median(vectors, identities, KNOWN)
    assert found == pytest.approx(share_slowly(vectors, identities))


def test_there_is_no_share_without_a_pair() -> None:
    assert share_above_median(spread(0), [], KNOWN) is None
    assert share_above_median(spread(1), ["a"], KNOWN) is None
    assert share_above_median(spread(5), ["a"] * 5, KNOWN) is None


def test_verdicts_are_given_where_scores_lie_as_they_did_when_it_was_calibrated() -> None:
    here = judge_in(filled(spread(100)), KNOWN)
    assert (here.calibration, here.origin, here.why, here.doubt) == (KNOWN, "model", "", "")
    assert (here.identities, here.prior) == (100, 1 / 200)
    elsewhere = judge_in(filled(spread(100, towards=6.0)), KNOWN)
    assert elsewhere.calibration is None
    assert "this gallery is not like what the model was calibrated on: scores only" in elsewhere.why
    assert "with labels: sss calibrate; without: sss adapt DIR --epochs 0" in elsewhere.why
    # Labels that explain why images are alike change the answer: what is left are pairs of others.
    vectors = np.repeat(spread(10), 10, axis=0)
    assert judge_in(filled(vectors, [str(n // 10) for n in range(100)]), KNOWN).calibration is KNOWN


def test_too_few_images_cannot_tell_so_only_the_gallerys_own_calibration_gives_verdicts() -> None:
    small = filled(spread(LEAST_IMAGES - 1))
    few = judge_in(small, KNOWN, prior=0.25)
    assert (few.calibration, few.owner, few.prior) == (None, "model", 0.25)
    assert few.why.startswith(f"{LEAST_IMAGES - 1} images cannot tell whether the model's calibration holds: scores")
    assert f"{LEAST_IMAGES} can" in few.why
    keep_calibration(small, OTHER)
    own = judge_in(small, KNOWN)
    assert (own.calibration, own.why, own.doubt) == (OTHER, "", "")
    assert judge_in(filled(spread(LEAST_IMAGES)), KNOWN).calibration is KNOWN


def test_images_without_a_gallery_are_judged_and_where_they_are_few_with_a_doubt() -> None:
    alone = judge_alone(KNOWN, spread(2))
    assert (alone.calibration, alone.prior) == (KNOWN, ALONE)
    assert alone.doubt == "2 images cannot tell whether the model's calibration holds"
    assert not judge_alone(KNOWN, spread(LEAST_IMAGES)).doubt
    assert judge_alone(KNOWN, spread(100, towards=6.0)).calibration is None
    assert judge_alone(None, spread(100)).why == judge_in(filled(spread(100)), None).why == ""


def test_the_gallerys_own_calibration_comes_first_and_can_be_taken_back() -> None:
    gallery = filled(spread(100, towards=30.0))
    with pytest.raises(UsageError, match="nothing to take back"):
        take_back(gallery)
    assert judge_in(gallery, KNOWN).calibration is None
    keep_calibration(gallery, OTHER)
    mine = judge_in(gallery, KNOWN)
    assert (mine.calibration, mine.origin) == (None, "gallery") or mine.calibration == OTHER
    assert gallery_calibration(gallery) == OTHER
    keep_calibration(gallery, KNOWN)
    assert take_back(gallery) == OTHER
    assert gallery_calibration(gallery) == OTHER
    assert take_back(gallery) == KNOWN  # the second takes back the first
    keep_calibration(gallery, OTHER)
    assert take_back(gallery) == KNOWN


def test_a_first_calibration_taken_back_leaves_the_models() -> None:
    gallery = filled(spread(100))
    keep_calibration(gallery, OTHER)
    assert take_back(gallery) is None
    assert judge_in(gallery, KNOWN).origin == "model"
    assert take_back(gallery) == OTHER


def test_a_copy_takes_the_calibration_along() -> None:
    source, target = filled(spread(5)), filled(spread(5))
    target.annotate({"else": 1})
    assert not hand_over(source, target)
    keep_calibration(source, KNOWN)
    keep_calibration(target, OTHER)
    assert hand_over(source, target)
    assert not hand_over(source, target)
    assert gallery_calibration(target) == KNOWN
    assert target.notes()["else"] == 1
    assert take_back(target) == OTHER


def test_a_damaged_calibration_is_named() -> None:
    gallery = filled(spread(5))
    gallery.annotate({"calibration": {"thresholds": "no"}})
    with pytest.raises(StoreError, match="calibration of gallery 'default' in memory is damaged"):
        judge_in(gallery, KNOWN)
