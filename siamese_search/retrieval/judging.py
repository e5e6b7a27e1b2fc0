"""Who says match or no match in a gallery: its own calibration, else its model's, and only where that holds.

Without a single label a gallery tells whether a calibration holds in it. Hardly any two of its images show the same
identity, so the scores between them lie as the calibration's scores of different identities do, or its thresholds let
through something else here. What is compared is the share of pairs above the calibration's median of different
identities: there are enough of these in a few images. ``benchmarks/verdicts.py`` says how often each answer is right.

Before any score is known, the query's identity is taken to be in the gallery as likely as not, and if it is, to be any
of the n identities there with the same chance. Each image is then the query's with a prior of 1/(2n).

A search compares the query with many images, so that a high score means less in a large gallery than in a small one:
the prior knows how many identities there are. By Bayes' rule

    odds(same | score) = odds(prior) · L(score)

where L is the likelihood ratio, the odds of the calibration, which takes both as equally likely. Each image is
judged by its own score alone; the scores of the others, which may be of the same identity, are not used. A result is
a match where the odds are even or better, so that match and probability never contradict each other; with a false
match rate of the caller's own, where the score reaches the threshold for it, whatever the probability. Two images that
are compared in the same gallery, or with the same prior, have the probability that a search gives them.

Among very many identities even odds lie beyond every score that the calibration has seen, where its curve is a guess
and no score might do. What was measured there is that only one pair of different identities in so many scored that
high: where that makes any false match among all images less likely than none, such a score is a match too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from siamese_search.datasets.records import JUNK_IDENTITY
from siamese_search.errors import StoreError, UsageError
from siamese_search.gallery.contract import Gallery
from siamese_search.gallery.filters import Condition
from siamese_search.model.bundle import Bundle
from siamese_search.model.calibration import ADAPT, Calibration, any_false_match
from siamese_search.retrieval.ranking import people_of
from siamese_search.retrieval.results import QueryResult, SearchResult, Verdict

#: The probability that two images show the same identity, where no gallery says how many identities there are.
ALONE = 0.01
#: How likely it is, before any score is known, that the query's identity is in the gallery.
IN_GALLERY = 0.5
#: Up to so many images the identities are counted; in more they are estimated, in a twentieth of a second.
_COUNTED = 20_000
#: Images looked at, and how many it takes to tell anything.
SAMPLE = 256
LEAST_IMAGES = 32
#: The calibration's rate whose threshold is looked at, and the shares of it, seen here, between which it holds.
_RATE = 0.5
_LOWEST, _HIGHEST = 1 / 3, 1.45

#: Why there is no verdict on a query that shows no such object at all, or shows it as no camera here does.
STRANGE = "an image unlike all that the calibration was measured on (no such object, or another camera): scores only"
#: Why a search with mirrored queries says nothing of matches: the one rule for ``flip``.
NOT_FLIPPED = "no verdicts with --flip: a calibration is of images as they are"

_NOW, _FORMER = "calibration", "former_calibration"


@dataclass(frozen=True, slots=True)
class Judge:
    """What verdicts rest on. calibration: ``None`` where there are none, ``why`` then says the reason, if there is one.

    origin: whose calibration it is. identities: that the gallery holds, 0 without a gallery. prior: of two images to
    show the same identity. doubt: without a gallery, in one line, why it is not known whether the calibration holds.
    """

    calibration: Calibration | None
    origin: Literal["gallery", "model"] = "model"
    identities: int = 0
    prior: float = ALONE
    why: str = ""
    doubt: str = ""

    @property
    def owner(self) -> str | None:
        """Whose calibration there is, whether it holds or not; ``None`` where there is none."""
        return self.origin if self.calibration is not None or self.why else None


#: Where there is no calibration.
NOBODY = Judge(None)


def judge_in(gallery: Gallery, of_model: Bundle | Calibration | None, prior: float | None = None) -> Judge:
    """The judge of searches in a gallery. of_model: read where it has none itself. prior: None for its identities'."""
    own = gallery_calibration(gallery)
    known = own or (of_model.calibration if isinstance(of_model, Bundle) else of_model)
    if known is None:
        return Judge(None)
    identities = identities_in(gallery)
    likely = IN_GALLERY / max(1, identities) if prior is None else prior
    return checked(Judge(known, "model" if own is None else "gallery", identities, likely), *sample(gallery))


def identities_in(gallery: Gallery) -> int:
    """The identities of a gallery, an image without one counting as one. Counted up to 20,000 images.

    Beyond that they are estimated: an image whose identity has n images stands for 1/n identities, and the 256 images
    with the lowest point ids are as good as drawn at random, for ids are hashes.
    """
    images = gallery.count()
    if images == 0 or "identity" not in gallery.fields():
        return images
    if images <= _COUNTED:
        counts = gallery.facet("identity", limit=_COUNTED)
        somebody = people_of(gallery, counts)
        return images - sum(counts[one] for one in somebody) + len(somebody)
    points = islice(gallery.scroll(fields=("identity", "key"), batch=SAMPLE), SAMPLE)
    drawn = [point.identity if point.is_somebody else None for point in points]
    named = tuple(sorted({identity for identity in drawn if identity is not None}))
    counts = gallery.facet("identity", [Condition("identity", "=", named)], limit=SAMPLE) if named else {}
    shares = [1 / counts.get(str(identity), 1) if identity is not None else 1 for identity in drawn]
    return max(1, round(images * sum(shares) / max(1, len(shares))))


def judge_alone(of_model: Calibration | None, vectors: NDArray[np.float32], prior: float | None = None) -> Judge:
    """The judge of images that are compared without a gallery. vectors: theirs, float32 [n, d]."""
    if of_model is None:
        return Judge(None)
    found = Judge(of_model, prior=ALONE if prior is None else prior)
    return checked(found, vectors, [None] * len(vectors), "these images are")


def checked(
    found: Judge, vectors: NDArray[np.float32], names: Sequence[str | None], what: str = "this gallery is"
) -> Judge:
    """A judge whose calibration counts only if it holds for images like these: vectors [n, d], identities' names n.

    Where they are too few to tell, a gallery's own does, its model's does not, and without a gallery that is in doubt.
    """
    assert found.calibration is not None
    images, share = len(vectors), share_above_median(vectors, names, found.calibration)
    if share is None or images < LEAST_IMAGES:
        if found.origin == "gallery":  # it was measured for just these
            return found
        few = f"{images} image{'s' * (images != 1)} cannot tell whether the model's calibration holds"
        if not found.identities:  # two images never could
            return replace(found, doubt=few)
        why = f"{few}: scores only; {LEAST_IMAGES} can, or with labels: sss calibrate"
    elif _LOWEST <= share <= _HIGHEST:
        return found
    else:
        like = f"{what} not like what the {found.origin} was calibrated on"
        why = f"{like}: scores only; with labels: sss calibrate; without: {ADAPT}"
    return replace(found, calibration=None, why=why)


def share_above_median(
    vectors: NDArray[np.float32], identities: Sequence[str | None], calibration: Calibration
) -> float | None:
    """The share of pairs above the calibration's median score of different identities, over what it is there.

    1 where the scores lie alike, more where images are more alike here. Pairs known to be of the same identity are
    left out. ``None`` without any pair. vectors: unit, float32 [n, d]; identities: n, ``None`` where unknown.
    """
    at = next((n for n, rate in enumerate(calibration.rates) if rate <= _RATE), len(calibration.rates) - 1)
    names = np.array([f"#{row}" if name is None else f"={name}" for row, name in enumerate(identities)])
    left, right = np.triu_indices(len(vectors), 1)
    other = names[left] != names[right] if len(vectors) else np.empty(0, bool)
    if not other.any():
        return None
    scores = (vectors @ vectors.T)[left[other], right[other]]
    return float((scores >= calibration.thresholds[at]).mean() / calibration.rates[at])


def sample(gallery: Gallery) -> tuple[NDArray[np.float32], list[str | None]]:
    """Vectors, float32 [n, d], and identities of some images: those with the lowest ids, which are hashes. No junk."""
    wanted = [one for one in ("identity", "key") if one in gallery.fields()]
    points = islice(gallery.scroll(with_vectors=True, fields=wanted, batch=SAMPLE), SAMPLE)
    found = [one for one in points if one.vector is not None and (one.is_somebody or one.identity != JUNK_IDENTITY)]
    vectors = np.array([one.vector for one in found], np.float32).reshape(len(found), gallery.dim)
    return vectors, [one.identity if one.is_somebody else None for one in found]


def gallery_calibration(gallery: Gallery) -> Calibration | None:
    """The calibration that the gallery itself keeps. Raises StoreError for a damaged one."""
    return _read(gallery, gallery.notes().get(_NOW))


def keep_calibration(gallery: Gallery, calibration: Calibration) -> None:
    """Make this the gallery's calibration; its former one stays, to be taken back."""
    notes = gallery.notes()
    gallery.annotate({**notes, _NOW: calibration.to_json(), _FORMER: notes.get(_NOW)})


def take_back(gallery: Gallery) -> Calibration | None:
    """The former calibration again, ``None`` for the model's; twice changes nothing. UsageError where there is none."""
    notes = gallery.notes()
    if notes.get(_NOW) is None and notes.get(_FORMER) is None:
        raise UsageError(f"{gallery.what} has no calibration of its own: there is nothing to take back")
    former = _read(gallery, notes.get(_FORMER))
    gallery.annotate({**notes, _NOW: notes.get(_FORMER), _FORMER: notes.get(_NOW)})
    return former


def hand_over(source: Gallery, target: Gallery) -> bool:
    """Give ``target``, of the same model, the calibration of ``source``, if that has one; whether it was another."""
    now = source.notes().get(_NOW)
    if now is None or target.notes().get(_NOW) == now:
        return False
    found = _read(source, now)
    assert found is not None
    keep_calibration(target, found)
    return True


def _read(gallery: Gallery, saved: Any) -> Calibration | None:
    if saved is None:
        return None
    try:
        return Calibration.from_json(saved)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise StoreError(f"the calibration of {gallery.what} is damaged: measure it anew with: sss calibrate") from None


def check_fmr(judge: Judge, false_match_rate: float | None, model: str) -> None:
    """Raise UsageError for a rate that nothing here can give, before anything is embedded. model: for people."""
    if false_match_rate is None:
        return
    if judge.calibration is not None:
        judge.calibration.threshold(false_match_rate)
    elif not judge.why:
        raise UsageError(
            f"model {model} has no calibration, so no score is known to mean {false_match_rate:g} false matches: run"
            " `sss calibrate` where the gallery has labels, or use --min-score"
        )


def mark(
    answers: Sequence[QueryResult], judge: Judge, false_match_rate: float | None, images: int
) -> list[QueryResult]:
    """The answers with a verdict, their results with ``match`` and ``probability``; without, with the reason, if any.

    false_match_rate: per comparison, ``None`` for the threshold at which same and different are equally likely, or the
    strictest one of the calibration where that lies beyond it. images: that each query was ranked against. The query's
    own image is a match for sure. Raises UsageError as :func:`check_fmr`.
    """
    calibration = judge.calibration
    if calibration is None:
        return [replace(one, no_verdict=judge.why) if one.error is None else one for one in answers]
    strictest = False
    if false_match_rate is None:
        threshold, last = calibration.even_score(judge.prior), calibration.thresholds[-1]
        if threshold > last and any_false_match(calibration.rates[-1], images) <= 0.5:
            threshold, strictest = last, True
    else:
        threshold = calibration.threshold(false_match_rate)
    measured = calibration.false_match_rate(threshold) if threshold <= 1 else 0.0
    verdict = Verdict(
        false_match_rate=measured if false_match_rate is None else false_match_rate,
        threshold=threshold,
        compared=images,
        any_false_match=any_false_match(measured, images),
        expected_false_matches=measured * images,
        identities=judge.identities,
        prior=judge.prior,
        asked=false_match_rate,
        strictest=strictest,
        calibration=judge.origin,
    )

    def marked(result: SearchResult) -> SearchResult:
        if result.itself:
            return replace(result, match=True, probability=1.0)
        chance = calibration.probability(result.score, judge.prior)
        return replace(result, match=result.score >= threshold, probability=chance)

    def judged(answer: QueryResult) -> QueryResult:
        if answer.error is not None or not answer.pairwise:
            return answer
        if answer.looks is not None and calibration.strange(answer.looks).any():
            return replace(answer, no_verdict=STRANGE)
        return replace(answer, verdict=verdict, results=tuple(map(marked, answer.results)))

    return list(map(judged, answers))
