"""What a notebook shows of results and reports: parts of a page, in the notebook's own colours, that ask nobody."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from siamese_search.evaluation.report import EvaluationReport
from siamese_search.render.curves import SIZE, STYLE, chart, draw_all, draw_cmc, draw_roc, draw_scores
from siamese_search.render.html import picture, rate, render
from siamese_search.render.marks import known_identities
from siamese_search.render.pages import shown_answer
from siamese_search.retrieval.results import QueryResult

#: Queries shown, and results of each: a notebook keeps every picture in its file.
MAX_QUERIES = 10
MAX_RESULTS = 20
_PICTURE = (128, 78)


def results_html(answers: Sequence[QueryResult]) -> str:
    """A row of thumbnails per query, framed as on the page of results."""
    first = answers[:MAX_QUERIES]
    shown = [shown_answer(*one, most=MAX_RESULTS) for one in zip(first, known_identities(first))]
    paths = {one["answer"].path for one in shown} | {r.path for one in shown for r, _ in one["results"]}
    more = f"the first {len(shown)} of {len(answers):,} queries" if len(answers) > len(shown) else ""
    return render(
        "notebook.html.j2",
        report=None,
        answers=shown,
        pictures={path: picture(path, _PICTURE) for path in paths},
        more=more,
    )


def report_html(report: EvaluationReport) -> str:
    """The figures that matter, and three curves."""
    ranking, pairs = report.ranking, report.verification
    figures = [
        ("rank-1", rate(ranking.rank1)),
        ("rank-5", rate(ranking.rank5)),
        ("mAP", rate(ranking.mAP)),
        ("AUC", "n/a" if pairs.auc is None else f"{pairs.auc:.4f}"),
        ("equal error rate", rate(pairs.eer)),
    ]
    drawn = [draw_cmc] if pairs.auc is None else [draw_cmc, draw_roc, draw_scores]
    charts = [chart(draw, report) for draw in drawn]
    return render(
        "notebook.html.j2", report=report, figures=figures, charts=charts, answers=[], pictures={}, more=""
    )


class Plot(Figure):
    """A figure that shows itself in a notebook, whatever backend that has; ``savefig`` writes it to a file."""

    def _repr_png_(self) -> bytes:
        held = io.BytesIO()
        self.savefig(held, format="png", dpi=100)
        return held.getvalue()


def plot_report(report: EvaluationReport) -> Plot:
    """The curves that ``sss evaluate --save`` draws, as a figure of matplotlib's."""
    with rc_context(STYLE):
        figure = Plot(figsize=SIZE, layout="constrained")
        FigureCanvasAgg(figure)
        draw_all(figure, report)
        return figure
