"""Match or no match: a calibrated model says of each result whether it is the same identity, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from siamese_search.errors import UsageError
from siamese_search.model.calibration import DEFAULT_FMR, Calibration, any_false_match
from siamese_search.retrieval.results import QueryResult, Verdict


def check_fmr(calibration: Calibration | None, false_match_rate: float | None, model: str) -> None:
    """Raise UsageError for a rate that this model cannot give, before anything is embedded. model: for people."""
    if calibration is not None:
        calibration.threshold(DEFAULT_FMR if false_match_rate is None else false_match_rate)
    elif false_match_rate is not None:
        raise UsageError(
            f"model {model} has no calibration, so no score is known to mean {false_match_rate:g} false matches: run"
            f" `sss evaluate DATA --model {model} --calibrate` on identities that it has not seen, or use --min-score"
        )


def mark(
    answers: Sequence[QueryResult],
    calibration: Calibration | None,
    false_match_rate: float | None,
    compared: int,
) -> list[QueryResult]:
    """The answers with a verdict, their results with ``match`` and ``probability``; as they are without calibration.

    false_match_rate: per comparison, ``None`` for the usual one. compared: images that each query was ranked
    against, under its filters: the chance that one of them passes by mistake grows with them.
    Raises UsageError as :func:`check_fmr`.
    """
    if calibration is None:
        return list(answers)
    rate = DEFAULT_FMR if false_match_rate is None else false_match_rate
    threshold = calibration.threshold(rate)
    verdict = Verdict(
        rate, threshold, compared, any_false_match(calibration.false_match_rate(threshold), compared)
    )
    return [
        answer
        if answer.error is not None or not answer.pairwise
        else replace(
            answer,
            verdict=verdict,
            results=tuple(
                replace(
                    result,
                    match=result.score >= threshold,
                    probability=calibration.probability(result.score),
                )
                for result in answer.results
            ),
        )
        for answer in answers
    ]
