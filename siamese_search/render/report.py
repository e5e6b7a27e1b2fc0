"""write_report(): an evaluation as ``report.json`` and as ``report.html``, one page that needs nothing else.

The page has no script and asks nobody for anything; names from files are escaped, and images are encoded anew, small.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import numpy as np

from siamese_search._version import __version__
from siamese_search.datasets.records import ImageRecord
from siamese_search.datasets.splits import RESERVED_IDENTITIES
from siamese_search.errors import SiameseSearchError, printable
from siamese_search.evaluation.findings import camera_pairs, worst_identities, worst_queries
from siamese_search.evaluation.open_set import RATES
from siamese_search.evaluation.report import EvaluationReport
from siamese_search.evaluation.verification import FALSE_ACCEPT_RATES
from siamese_search.io.files import atomic_write_text
from siamese_search.render.curves import Series, line_chart
from siamese_search.render.html import escaped, page, picture_url, scatter, table, write_page
from siamese_search.vectors.projection import pca, tsne

#: Points of the embedding map, and results shown beside a bad query.
MAP_POINTS = 1200
_SHOWN = 6
_THUMB = (96, 48)
_SMALL = (44, 28)

#: Rows of the table of round scores, at most.
_ROUND_SCORES = 12


def write_report(report: EvaluationReport, directory: Path, command: str = "") -> Path:
    """Write ``report.json`` and ``report.html`` into ``directory`` (made if need be); returns the page.

    command: what was typed, for the page's foot. Raises SiameseSearchError where they cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps(report.to_json(), indent=1, ensure_ascii=False)
        atomic_write_text(directory / "report.json", text.encode("utf-8", "backslashreplace").decode() + "\n")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SiameseSearchError(f"{printable(directory)}: the report cannot be written: {reason}") from None
    return write_page(html_page(report, command), directory / "report.html", "report")


def html_page(report: EvaluationReport, command: str = "") -> str:
    """The whole page."""
    sections = [
        _figures(report), _charts(report), _where(report), _queries(report), _map(report),
        _counts(report), _foot(report, command),
    ]  # fmt: skip
    style = (resources.files(__package__) / "report.css").read_text(encoding="utf-8")
    return page(f"{report.model_name or 'model'} on {report.data}", "".join(sections), style)


def _figures(report: EvaluationReport) -> str:
    ranking, pairs = report.ranking, report.verification
    far, alarm = pairs.tar_at_far, report.open_set_points()["1e-1"]
    cut = f"@{report.depth}" if report.depth is not None else ""
    found = [
        ("rank-1", _rate(ranking.rank1)), ("rank-5", _rate(ranking.rank5)), ("rank-10", _rate(ranking.rank10)),
        (f"mAP{cut}", _rate(ranking.mAP)), ("mINP", _rate(ranking.mINP)),
    ]  # fmt: skip
    told = [
        ("AUC", "n/a" if pairs.auc is None else f"{pairs.auc:.4f}"), ("equal error rate", _rate(pairs.eer)),
        ("TAR at FAR 1%", _rate(far["1e-2"])), ("TAR at FAR 0.1%", _rate(far["1e-3"])),
        ("missed at 10% false alarms", _rate(alarm.fnir if alarm else None)),
    ]  # fmt: skip
    text = f"{ranking.queries:,} queries against {ranking.gallery:,} images"
    if pairs.auc is not None:
        text += f"; {pairs.genuine:,} pairs of the same identity and {pairs.impostor:,} of different ones"
    return f'<p class="lead">{text}</p>' + _boxes(found) + _boxes(told)


def _boxes(cells: Sequence[tuple[str, str]]) -> str:
    inside = "".join(f"<div><b>{value}</b><span>{name}</span></div>" for name, value in cells)
    return f'<div class="figures">{inside}</div>'


def _charts(report: EvaluationReport) -> str:
    curve = report.ranking.cmc_curve(50)
    floor = float(np.floor(np.nan_to_num(curve[0]) * 10) / 10)
    cmc = line_chart(
        [Series("CMC", range(1, 51), curve.tolist(), "c0")],
        "rank",
        "queries with a match",
        x_range=(1, 50),
        y_range=(min(floor, 0.9), 1.0),
    )
    body = _figure("Cumulative match characteristic", "How often a match is among the first results.", cmc)
    if report.verification.auc is not None:
        body += _pair_charts(report)
    if report.open_set.searches:
        text = "Missed targets, against strangers who raise a false alarm."
        body += _figure("Is the target in the gallery at all?", text, _open_set(report))
    if report.verification.auc is not None:
        text = "The lowest threshold that keeps each rate. Few false pairs make for unsure rates."
        body += _figure("Pairs: thresholds by false accept rate", text, operating_points(report))
    return f'<section class="charts">{body}</section>{_thresholds(report)}'


def _thresholds(report: EvaluationReport) -> str:
    """The cards of tables below the charts."""
    body = ""
    if report.open_set.searches:
        text = f"{report.open_set.searches:,} searches, each with its target in the gallery and without."
        body += _figure("Searches: thresholds by false alarms", text, open_set_points(report))
    if report.verification.auc is not None:
        text = "Shares of the pairs that are accepted from a score on."
        body += _figure("Pairs: rates at round scores", text, round_scores(report))
    if report.kept_points():
        text = "The thresholds that this model came with, on these images."
        body += _figure("Does the calibration hold?", text, kept_calibration(report))
    if report.quantised:
        text = "Against the vectors as they are; both from the database."
        body += _figure("What searching in fewer bits loses", text, quantised(report))
    if not body:
        return ""
    return f'<section><h2>Thresholds</h2><div class="charts">{body}</div></section>'


def _figure(name: str, text: str, drawing: str) -> str:
    return f"<figure><figcaption><b>{escaped(name)}</b> {escaped(text)}</figcaption>{drawing}</figure>"


def _pair_charts(report: EvaluationReport) -> str:
    """ROC, precision and recall, and the scores, of all pairs of images."""
    genuine, impostor = report.pairs.genuine_pairs, report.pairs.impostor_pairs
    roc = report.pairs.roc(400)
    far, tar = roc.false_accept_rate, roc.true_accept_rate
    marks = [(rate, f"FAR {rate:g}") for rate in (1e-2, 1e-3) if impostor >= 1 / rate]
    curve = line_chart(
        [Series("ROC", far.tolist(), tar.tolist(), "c0")],
        "false accept rate",
        "true accept rate",
        x_range=(min(max(1e-6, 1 / impostor), 0.1), 1.0),
        x_log=True,
        x_marks=marks,
    )
    accepted = tar * genuine + far * impostor
    precision = np.where(accepted > 0, tar * genuine / np.maximum(accepted, 1e-12), 1.0)
    recall = line_chart(
        [Series("pairs", tar.tolist(), precision.tolist(), "c0")], "recall", "precision", x_range=(0.0, 1.0)
    )
    return (
        _figure("Same or different: ROC", "Share of true pairs accepted, by share of false ones.", curve)
        + _figure(
            "Same or different: precision and recall", "Of the accepted pairs, how many are true.", recall
        )
        + _figure(
            "Scores", "Cosine similarity of true and of false pairs, each as shares.", _histogram(report)
        )
    )


def _histogram(report: EvaluationReport) -> str:
    edges, genuine, impostor = report.pairs.binned(64)
    middle = ((edges[:-1] + edges[1:]) / 2).tolist()
    shares = [counts / max(1.0, float(counts.sum())) for counts in (impostor, genuine)]
    used = np.flatnonzero(shares[0] + shares[1])
    left, right = float(edges[used[0]]), float(edges[used[-1] + 1])
    marks = [] if report.verification.threshold is None else [(report.verification.threshold, "FAR 1 %")]
    highest = float(max(shares[0].max(), shares[1].max()))
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2) if highest <= 5 * step)  # five round ticks
    return line_chart(
        [Series("different", middle, shares[0].tolist(), "c1", filled=True),
         Series("same", middle, shares[1].tolist(), "c0", filled=True)],
        "score", "share of pairs", x_range=(left, right), x_marks=marks,
        y_range=(0.0, 5 * step),
    )  # fmt: skip


def _open_set(report: EvaluationReport) -> str:
    valid = ~np.isnan(report.open_set.best_match)
    others, matches = np.sort(report.open_set.best_other[valid]), np.sort(report.open_set.best_match[valid])
    at = np.unique(np.concatenate((others, matches)))
    at = at[np.isfinite(at)]
    at = at[np.unique(np.linspace(0, len(at) - 1, 300).astype(int))]
    alarms = 1 - np.searchsorted(others, at, side="left") / len(others)
    misses = np.searchsorted(matches, at, side="left") / len(matches)
    return line_chart(
        [Series("open set", alarms.tolist(), misses.tolist(), "c0")], "false alarms (FPIR)", "missed (FNIR)",
        x_range=(0.0, 1.0), y_range=(0.0, 1.0),
    )  # fmt: skip


def _where(report: EvaluationReport) -> str:
    """Where it fails: cameras and identities, side by side where there is room."""
    return f'<div class="sides">{_cameras(report)}{_identities(report)}</div>'


def _cameras(report: EvaluationReport) -> str:
    pairs = camera_pairs(report)
    if not pairs:
        return ""
    rows = [
        (p.query_camera, p.gallery_camera, f"{p.queries:,}", _rate(p.rank1), _rate(p.mAP))
        for p in sorted(pairs, key=lambda p: p.mAP)
    ]
    head = ("query camera", "gallery camera", "queries", "rank-1", "mAP")
    text = "Each query against the images of one other camera only, hardest first."
    return f"<section><h2>Cameras</h2><p>{text}</p>{table(head, rows)}</section>"


def _identities(report: EvaluationReport) -> str:
    rows = [
        (one.identity, f"{one.queries:,}", _rate(one.rank1), _rate(one.mAP))
        for one in worst_identities(report)
    ]
    head = ("identity", "queries", "rank-1", "mAP")
    text = "The lowest mAP over an identity's queries first."
    return f"<section><h2>Hardest identities</h2><p>{text}</p>{table(head, rows)}</section>"


def _queries(report: EvaluationReport) -> str:
    rows = []
    for bad in worst_queries(report):
        query = report.plan.queries[bad.query]
        cells = [_picture(query, _THUMB, "query", f"identity {query.identity}, camera {query.camera}")]
        for place, correct in zip(bad.top[:_SHOWN], bad.correct[:_SHOWN], strict=True):
            found = report.plan.gallery[place]
            text = f"identity {found.identity}, camera {found.camera}"
            cells.append(_picture(found, _THUMB, "right" if correct else "wrong", text))
        first = f"first match at rank {bad.first_hit_rank}" if bad.first_hit_rank else "no match found"
        name = escaped(query.key)
        caption = f"{name}: {first}, AP {bad.average_precision:.3f}"
        rows.append(f'<div class="bad"><div class="row">{"".join(cells)}</div><p>{caption}</p></div>')
    text = "Lowest average precision first. Blue: the query. Then its first results: green its identity, red another."
    return f'<section><h2>Hardest queries</h2><p>{text}</p><div class="bads">{"".join(rows)}</div></section>'


def _map(report: EvaluationReport) -> str:
    records, vectors = report.plan.gallery, report.gallery_vectors
    if len(records) < 3:
        return ""
    chosen = np.unique(np.linspace(0, len(records) - 1, min(MAP_POINTS, len(records))).astype(int))
    kept = [records[place] for place in chosen]
    thumbs = [picture_url(record.path, _SMALL) for record in kept]
    captions = [f"{record.identity}, camera {record.camera}" for record in kept]
    codes: dict[str | None, int] = {}
    colours = [_hue(codes.setdefault(record.identity, len(codes))) for record in kept]
    maps = [("PCA", pca(vectors[chosen]))]
    if (second := tsne(vectors[chosen])) is not None:
        maps.append(("t-SNE", second))
    body = "".join(_figure(name, "", scatter(points, colours, captions, thumbs)) for name, points in maps)
    text = f"{len(kept):,} of {len(records):,} images, coloured by identity; point at one to see it."
    return f'<section><h2>Embedding map</h2><p>{text}</p><div class="maps">{body}</div></section>'


def _hue(code: int) -> str:
    """A colour per identity, by the golden angle: neighbours in number differ."""
    return f"hsl({code * 137.508 % 360:.0f} 60% 50%)"


def _counts(report: EvaluationReport) -> str:
    plan, invalid = report.plan, report.ranking.invalid_queries
    people = len({name for name in plan.query_ids if name not in RESERVED_IDENTITIES})
    cameras = {record.camera for record in (*plan.queries, *plan.gallery)} - {None}
    lines = [
        f"{report.ranking.queries:,} queries of {people:,} identities, {invalid:,} of them invalid",
        f"{report.ranking.gallery:,} images to find them among"
        + (f", of {len(cameras):,} cameras" if cameras else ", of no known camera"),
        *report.notes(),
    ]
    lines += [f"{printable(failure.path)}: {failure.reason}" for failure in list(report.failed)[:50]]
    items = "".join(f"<li>{escaped(line)}</li>" for line in lines)
    return f"<section><h2>What was counted</h2><ul>{items}</ul></section>"


def _foot(report: EvaluationReport, command: str) -> str:
    rows = [
        ("model", report.model_name), ("model fingerprint", report.model), ("data", report.data),
        ("data fingerprint", report.data_fingerprint or ""), ("protocol", report.plan.name),
        ("made by", f"siamese-search {__version__}"), ("command", command),
    ]  # fmt: skip
    return "<footer>" + table((), [(name, printable(value)) for name, value in rows if value]) + "</footer>"


def _picture(record: ImageRecord, size: tuple[int, int], kind: str, text: str) -> str:
    url = picture_url(record.path, size)
    inside = f'<img src="{url}" alt="">' if url else "<em>unreadable</em>"
    return f'<span class="tile {kind}" title="{escaped(text)}">{inside}</span>'


def _rate(value: float | None) -> str:
    return "n/a" if value is None or value != value else f"{value:.1%}"


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
