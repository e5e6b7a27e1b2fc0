"""Match or no match: each result is judged by its score, by the calibration and the prior of a :class:`Judge`.

A search compares the query with many images, so that a high score means less in a large gallery than in a small one:
the prior knows how many identities there are (:mod:`siamese_search.retrieval.judging`). By Bayes' rule

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
from dataclasses import replace

from siamese_search.errors import UsageError
from siamese_search.model.calibration import Calibration, any_false_match
from siamese_search.retrieval.judging import Judge
from siamese_search.retrieval.results import QueryResult, SearchResult, Verdict


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


def threshold_of(judge: Judge, calibration: Calibration, images: int) -> tuple[float, bool]:
    """The score from which a pair is likelier the same than not among so many images; whether it is the strictest."""
    even, strictest = calibration.even_score(judge.prior), calibration.thresholds[-1]
    if even > strictest and any_false_match(calibration.rates[-1], images) <= 0.5:
        return strictest, True
    return even, False


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
        threshold, strictest = threshold_of(judge, calibration, images)
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

    return [
        answer
        if answer.error is not None or not answer.pairwise
        else replace(answer, verdict=verdict, results=tuple(map(marked, answer.results)))
        for answer in answers
    ]
