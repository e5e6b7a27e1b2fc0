"""Match or no match: a calibrated model says of each result whether it is the same identity, and how sure that is.

A search compares the query with many images, so that a high score means less in a large gallery than between two
images. What is known before any score is stated as a prior: the query's identity is in the gallery as likely as
not, and if it is, it is any of the n identities there with the same chance. Each image is then the query's with a
prior of 1/(2n), and by Bayes' rule

    odds(same | score) = odds(prior) · L(score)

where L is the likelihood ratio, the odds of the calibration, which takes both as equally likely. Each image is
judged by its own score alone; the scores of the others, which may be of the same identity, are not used. A result is
a match where the odds are even or better, so that match and probability never contradict each other; with a false
match rate of the caller's own, where the score reaches the threshold for it, whatever the probability.

Among very many identities even odds lie beyond every score that the calibration has seen, where its curve is a guess
and no score might do. What was measured there is that only one pair of different identities in so many scored that
high: where that makes any false match among all images less likely than none, such a score is a match too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

from siamese_search.errors import UsageError
from siamese_search.gallery.contract import Gallery
from siamese_search.gallery.filters import Condition
from siamese_search.model.calibration import Calibration, any_false_match
from siamese_search.retrieval.grouping import is_somebody
from siamese_search.retrieval.results import QueryResult, SearchResult, Verdict

#: How likely it is, before any score is known, that the query's identity is in the gallery.
IN_GALLERY = 0.5
#: Up to so many images the identities are counted; in more they are estimated, in a twentieth of a second.
_COUNTED = 20_000
_SAMPLE = 256


def check_fmr(calibration: Calibration | None, false_match_rate: float | None, model: str) -> None:
    """Raise UsageError for a rate that this model cannot give, before anything is embedded. model: for people."""
    if false_match_rate is None:
        return
    if calibration is not None:
        calibration.threshold(false_match_rate)
    else:
        raise UsageError(
            f"model {model} has no calibration, so no score is known to mean {false_match_rate:g} false matches: run"
            f" `sss evaluate DATA --model {model} --calibrate` on identities that it has not seen, or use --min-score"
        )


@dataclass(frozen=True, slots=True)
class Population:
    """What a query is ranked against. identities: an image without one counts as one; at most ``images``."""

    images: int
    identities: int

    @property
    def prior(self) -> float:
        """The probability of each image to be the query's, before any score is known."""
        return IN_GALLERY / max(1, self.identities)


def population(gallery: Gallery, where: Sequence[Condition] = ()) -> Population:
    """The images and identities that meet the conditions. Identities are counted up to 20,000 images.

    Beyond that they are estimated: an image whose identity has n images stands for 1/n identities, and the 256 images
    with the lowest point ids are as good as drawn at random, for ids are hashes.
    """
    images = gallery.count(where)
    if images == 0 or "identity" not in gallery.fields():
        return Population(images, images)
    if images <= _COUNTED:
        counts = gallery.facet("identity", where, limit=_COUNTED)
        somebody = [identity for identity in counts if is_somebody(identity)]
        return Population(images, images - sum(counts[one] for one in somebody) + len(somebody))
    sample = [
        point.identity
        for point in islice(gallery.scroll(where, fields=("identity",), batch=_SAMPLE), _SAMPLE)
    ]
    named = tuple(sorted({str(identity) for identity in sample if is_somebody(identity)}))
    counts = (
        gallery.facet("identity", [*where, Condition("identity", "=", named)], limit=_SAMPLE) if named else {}
    )
    shares = [1 / counts.get(identity, 1) for identity in sample]
    return Population(images, max(1, round(images * sum(shares) / max(1, len(shares)))))


def mark(
    answers: Sequence[QueryResult],
    calibration: Calibration | None,
    false_match_rate: float | None,
    among: Population,
) -> list[QueryResult]:
    """The answers with a verdict, their results with ``match`` and ``probability``; as they are without calibration.

    false_match_rate: per comparison, ``None`` for the threshold at which same and different are equally likely, or the
    strictest one of the calibration where that lies beyond it.
    among: what each query was ranked against, under its filters. The query's own image is a match for sure.
    Raises UsageError as :func:`check_fmr`.
    """
    if calibration is None:
        return list(answers)
    strictest = False
    if false_match_rate is None:
        threshold = calibration.even_score(among.prior)
        false_alarm = any_false_match(calibration.rates[-1], among.images)
        strictest = threshold > calibration.thresholds[-1] and false_alarm <= 0.5
        threshold = calibration.thresholds[-1] if strictest else threshold
    else:
        threshold = calibration.threshold(false_match_rate)
    measured = calibration.false_match_rate(threshold) if threshold <= 1 else 0.0
    verdict = Verdict(
        measured if false_match_rate is None else false_match_rate,
        threshold,
        among.images,
        any_false_match(measured, among.images),
        among.identities,
        among.prior,
        false_match_rate,
        strictest,
    )

    def marked(result: SearchResult) -> SearchResult:
        if result.itself:
            return replace(result, match=True, probability=1.0)
        chance = calibration.probability(result.score, among.prior)
        return replace(result, match=result.score >= threshold, probability=chance)

    return [
        answer
        if answer.error is not None or not answer.pairwise
        else replace(answer, verdict=verdict, results=tuple(map(marked, answer.results)))
        for answer in answers
    ]
