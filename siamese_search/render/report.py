"""write_report(): an evaluation as ``report.json`` and as ``report.html``, one page that needs nothing else."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from siamese_search._version import __version__
from siamese_search.errors import amount
from siamese_search.evaluation.findings import BadQuery, camera_pairs, worst_identities, worst_queries
from siamese_search.evaluation.report import EvaluationReport
from siamese_search.evaluation.retrieval import RATES
from siamese_search.evaluation.verification import FALSE_ACCEPT_RATES
from siamese_search.io.files import writing
from siamese_search.model.calibration import Calibration
from siamese_search.render.curves import Drawing, chart, draw_cmc, draw_open_set, draw_recall, draw_roc, draw_scores
from siamese_search.render.marks import decimal, rate
from siamese_search.render.pages import Picture, picture, render, scattered, write_page
from siamese_search.retrieval.map import hue
from siamese_search.vectors.projection import METHODS, best_method, project

#: Points of the embedding map, and results shown beside a bad query.
MAP_POINTS = 1200
_SHOWN = 6
_THUMB = (96, 48)
_SMALL = (44, 28)

#: Rows of the table of round scores, at most.
_ROUND_SCORES = 12


def write_report(report: EvaluationReport, directory: Path, command: str = "") -> Path:
    """Write both into ``directory`` (made if need be); returns the page. command: what was typed, for the page's foot.
    Raises SiameseSearchError where they cannot be written."""
    with writing(directory, "the report "):
        directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report.to_json(), indent=1, ensure_ascii=False)
    write_page(text + "\n", directory / "report.json", "report")
    return write_report_page(report, directory / "report.html", command)


def write_report_page(report: EvaluationReport, out: Path, command: str = "") -> Path:
    """Write the page alone; returns ``out``. Raises SiameseSearchError."""
    return write_page(html_page(report, command), out, "report")


def html_page(report: EvaluationReport, command: str = "") -> str:
    """The whole page."""
    plan, ranking = report.plan, report.ranking
    known = report.calibration or report.kept
    pairs = report.verification.auc is not None
    mapped, maps = _maps(report)
    return render(
        "report.html.j2",
        title=f"{report.model_name or 'model'} on {report.data}: {amount(ranking.queries, 'query')},"
        f" {amount(ranking.gallery, 'image')}",
        report=report,
        charts=_charts(report),
        accept_rates=FALSE_ACCEPT_RATES,
        alarm_rates=RATES,
        known=known,
        scores=round_scores(report, known) if pairs else [],
        cameras=camera_pairs(report),
        identities=worst_identities(report),
        queries=[_bad(report, one) for one in worst_queries(report)],
        mapped=mapped,
        maps=maps,
        people=len(set(plan.query_ids)),
        lenses=len({record.camera for record in (*plan.queries, *plan.gallery)} - {None}),
        made=(
            ("model", report.model_name), ("model fingerprint", report.model), ("data", report.data),
            ("data fingerprint", report.data_fingerprint), ("protocol", plan.name),
            ("made by", f"siamese-search {__version__}"), ("command", command),
        ),
    )  # fmt: skip


def _charts(report: EvaluationReport) -> list[tuple[str, str, Markup]]:
    """(name, text, drawing) of each; none of what there is no data for."""
    pairs, searches = report.verification.auc is not None, bool(report.open_set.searches)
    all_of_them: list[tuple[bool, str, str, Drawing]] = [
        (True, "Cumulative match characteristic", "How often a match is among the first results.", draw_cmc),
        (pairs, "Same or different: ROC", "Share of true pairs accepted, by share of false ones.", draw_roc),
        (pairs, "Same or different: precision and recall", "Of the accepted pairs, how many are true.", draw_recall),
        (pairs, "Scores", "Cosine similarity of true and of false pairs, each as shares.", draw_scores),
        (searches, "Is the target in the gallery at all?",
         "Missed targets, against strangers who raise a false alarm.", draw_open_set),
    ]  # fmt: skip
    return [(name, text, chart(draw, report)) for wanted, name, text, draw in all_of_them if wanted]


def report_html(report: EvaluationReport) -> str:
    """What a notebook shows: the figures that matter, and three curves."""
    ranking, pairs = report.ranking, report.verification
    figures = [("rank-1", rate(ranking.rank1)), ("rank-5", rate(ranking.rank5)), ("mAP", rate(ranking.mAP))]
    figures += [("AUC", decimal(pairs.auc)), ("equal error rate", rate(pairs.eer))]
    charts = [chart(draw, report) for draw in (draw_cmc, *([] if pairs.auc is None else [draw_roc, draw_scores]))]
    return render("notebook.html.j2", report=report, figures=figures, charts=charts, answers=[], once="", more="")


def round_scores(report: EvaluationReport, known: Calibration | None) -> list[tuple[float, list[float]]]:
    """Round scores over the range that there is, each with the rates from it on: of true pairs accepted, of false ones,
    precision and, where a calibration is known, the probability."""
    edges, genuine, impostor = report.pairs.binned(64)
    used = np.flatnonzero(genuine + impostor)
    low, high = float(edges[used[0]]), float(edges[used[-1] + 1])
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2) if (high - low) / step < _ROUND_SCORES)
    rows = []
    for number in range(math.ceil(low / step), math.floor(high / step) + 1):
        score = number * step
        if (point := report.pairs.at_threshold(score)) is None:
            continue
        right = point.true_accept_rate * report.verification.genuine
        accepted = right + point.false_accepts
        rates = [point.true_accept_rate, point.false_accept_rate, right / accepted if accepted else math.nan]
        rows.append((score, rates + ([known.probability(score)] if known else [])))
    return rows


def _bad(report: EvaluationReport, bad: BadQuery) -> dict[str, Any]:
    """A query that was answered badly, with its frames and pictures."""
    query = report.plan.queries[bad.query]
    results = zip(bad.top[:_SHOWN], bad.correct[:_SHOWN], strict=True)
    shown = [("query", query), *(("right" if good else "wrong", report.plan.gallery[at]) for at, good in results)]
    return {
        "key": query.key,
        "first": bad.first_hit_rank,
        "precision": bad.average_precision,
        "tiles": [(frame, record, Picture(picture(record.path, _THUMB).url, "unreadable")) for frame, record in shown],
    }


def _maps(report: EvaluationReport) -> tuple[int, list[tuple[str, list[dict[str, Any]]]]]:
    """How many images are mapped, and the maps with their names."""
    records, vectors = report.plan.gallery, report.gallery_vectors
    if len(records) < 3:
        return 0, []
    chosen = np.unique(np.linspace(0, len(records) - 1, min(MAP_POINTS, len(records))).astype(int))
    kept = [records[place] for place in chosen]
    urls = [picture(record.path, _SMALL).url for record in kept]
    captions = [f"{record.identity}, camera {record.camera}" for record in kept]
    codes: dict[str | None, int] = {}
    colours = [hue(codes.setdefault(record.identity, len(codes))) for record in kept]
    names = [record.identity for record in kept]
    places = {method: project(vectors[chosen], method) for method in dict.fromkeys(("pca", best_method(len(kept))))}
    return len(kept), [
        (METHODS[method], scattered(points, colours, captions, urls, names)) for method, points in places.items()
    ]
