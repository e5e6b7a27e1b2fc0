"""The report page's tables of thresholds: what accepting from a score on does, for pairs and for whole searches."""

from __future__ import annotations

import math

import numpy as np

from siamese_search.evaluation.open_set import RATES
from siamese_search.evaluation.report import EvaluationReport
from siamese_search.evaluation.verification import FALSE_ACCEPT_RATES
from siamese_search.render.html import table

#: Rows of the table of round scores, at most.
_ROUND_SCORES = 12


def operating_points(report: EvaluationReport) -> str:
    """For each false accept rate the threshold, the true accept rate, and the false pairs that both rest on."""
    rows = [
        (percent(FALSE_ACCEPT_RATES[name]), "n/a", "n/a", "fewer than one pair")
        if point is None
        else (
            percent(FALSE_ACCEPT_RATES[name]),
            f"{point.threshold:.4f}",
            percent(point.true_accept_rate),
            f"{point.false_accepts:,}",
        )
        for name, point in report.verification.at_far.items()
    ]
    return table(("false accept rate", "threshold", "true accept rate", "false pairs behind it"), rows)


def round_scores(report: EvaluationReport) -> str:
    """True and false accept rates at round scores, over the range that there is."""
    edges, genuine, impostor = report.pairs.binned(64)
    used = np.flatnonzero(genuine + impostor)
    low, high = float(edges[used[0]]), float(edges[used[-1] + 1])
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2) if (high - low) / step < _ROUND_SCORES)
    known = report.calibration or report.kept
    rows = []
    for number in range(math.ceil(low / step), math.floor(high / step) + 1):
        score = number * step
        point = report.pairs.at_threshold(score)
        if point is None:
            continue
        right = point.true_accept_rate * report.verification.genuine
        accepted = right + point.false_accepts
        row = [
            f"{score:.2f}",
            percent(point.true_accept_rate),
            percent(point.false_accept_rate),
            percent(right / accepted) if accepted else "n/a",
        ]
        rows.append(row + ([percent(known.probability(score))] if known else []))
    head = ["from a score of", "true accepted", "false accepted", "precision"]
    return table([*head, "P(same | score)"] if known else head, rows)


def open_set_points(report: EvaluationReport) -> str:
    """The thresholds at which strangers seldom raise an alarm, and the targets missed there."""
    rows = [
        (percent(RATES[name]), "n/a", "n/a", "n/a")
        if point is None
        else (percent(RATES[name]), f"{point.threshold:.4f}", percent(point.fpir), percent(point.fnir))
        for name, point in report.open_set_points().items()
    ]
    return table(("asked for", "threshold", "false alarms (FPIR)", "missed (FNIR)"), rows)


def kept_calibration(report: EvaluationReport) -> str:
    """What the thresholds that the model came with do on these pairs."""
    rows = [
        (
            percent(rate),
            f"{point.threshold:.4f}",
            percent(point.false_accept_rate),
            percent(point.true_accept_rate),
        )
        for rate, point in report.kept_points().items()
    ]
    return table(("meant for", "threshold", "false accepted here", "true accepted here"), rows)


def quantised(report: EvaluationReport) -> str:
    """What searching in fewer bits loses."""
    rows = [
        (
            one.quantisation,
            percent(one.rank1),
            f"{one.rank1 - one.exact_rank1:+.2%}",
            percent(one.mAP),
            f"{one.mAP - one.exact_mAP:+.2%}",
            percent(one.recall),
        )
        for one in report.quantised
    ]
    depth = report.quantised[0].depth
    return table(
        ("searched in", "rank\u20111", "change", f"mAP@{depth}", "change", "of the nearest ten found"), rows
    )


def percent(rate: float) -> str:
    """A rate for people: two digits that count, however small."""
    if rate != rate:
        return "n/a"
    return f"{rate:.1%}" if rate >= 0.0095 or rate == 0 else f"{100 * rate:.2g}%"
