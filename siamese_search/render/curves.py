"""Curves: an evaluation as one picture (CMC, ROC, histograms of scores), and charts as SVG text.

The SVG is for pages that must show a chart without any script or other file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from siamese_search.errors import SiameseSearchError, UsageError, printable
from siamese_search.io.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from siamese_search.evaluation.report import EvaluationReport


INK, GRID = "#1f2933", "#e4e7eb"
_SAME, _DIFFERENT, _MARK = "#1769aa", "#d9822b", "#c23030"
_TOP = 50  # ranks shown by the CMC curve

#: How every picture of figures looks.
_STYLE = {
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9aa5b1",
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "figure.constrained_layout.w_pad": 0.12,
    "figure.constrained_layout.h_pad": 0.1,
    "svg.hashsalt": "siamese-search",  # the same report gives the same file
}

#: Size of the drawing, and the margins around its plot area: left, top, right, bottom.
WIDTH, HEIGHT = 460, 300
_LEFT, _PLOT_TOP, _RIGHT, _BOTTOM = 52, 12, 14, 44


@contextmanager
def picture(out: Path, size: tuple[float, float]) -> Iterator[Figure]:
    """A figure of ``size`` inches to draw on, written to ``out`` at the end: a PNG or an SVG, by its suffix.

    Raises UsageError for another suffix, SiameseSearchError where the file cannot be written.
    """
    kind = out.suffix.lower()
    if kind not in (".png", ".svg"):
        raise UsageError(f"{printable(out)}: curves are drawn as .png or .svg")
    # Figure and canvas without pyplot: no global state, no window system, safe in any thread.
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        metadata = {"Date": None} if kind == ".svg" else {"Software": None}
        try:
            with atomic_path(out) as aside:
                figure.savefig(aside, format=kind[1:], dpi=120, metadata=metadata)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise SiameseSearchError(f"{printable(out)}: the curves cannot be written: {reason}") from None


def draw_curves(report: EvaluationReport, out: Path) -> None:
    """Write the three curves of ``report`` to ``out``, as :func:`picture` does.

    A curve without data (no impostor pairs, say) says so instead.
    """
    with picture(out, (15, 4.9)) as figure:
        cmc, roc, scores = figure.subplots(1, 3)
        _draw_cmc(cmc, report)
        _draw_roc(roc, report)
        _draw_scores(scores, report)
        figure.suptitle(_headline(report), x=0.01, ha="left", fontsize=10.5, parse_math=False)


def _headline(report: EvaluationReport) -> str:
    ranking = report.ranking
    data = report.data if len(report.data) <= 60 else "…" + report.data[-59:]
    parts = [
        data,
        report.model_name or report.model[:12],
        f"{ranking.valid_queries:,} queries, {ranking.gallery:,} images in the gallery",
        "same identity and camera excluded" if report.plan.use_cameras else "no cameras",
    ]
    return "   ·   ".join(part for part in parts if part)


def _draw_cmc(axes: Any, report: EvaluationReport) -> None:
    top = max(2, min(_TOP, report.ranking.gallery))
    curve = report.ranking.cmc_curve(top)
    axes.set_title("CMC: a match among the first k")
    axes.set_xlabel("rank k")
    if np.isnan(curve).all():
        say(axes, "no valid query")
        return
    ranks = np.arange(1, top + 1)
    axes.plot(ranks, 100 * curve, color=_SAME, linewidth=2)
    shown = [k for k in (1, 5, 10) if k <= top]
    axes.plot(shown, [100 * curve[k - 1] for k in shown], "o", color=_SAME, markersize=5)
    axes.set_xlim(0, top + 0.5)
    lowest = 100 * float(curve[0])
    axes.set_ylim(max(0.0, np.floor((lowest - 8) / 10) * 10), 101.5)
    axes.set_ylabel("queries, %")
    lines = [_line(f"rank-{k}", float(curve[k - 1])) for k in shown]
    metrics = report.ranking
    lines += [_line("mAP", metrics.mAP), _line("mINP", metrics.mINP)]
    _box(axes, lines)


def _draw_roc(axes: Any, report: EvaluationReport) -> None:
    axes.set_title("ROC: same or different?")
    axes.set_xlabel("false accept rate")
    curve = report.pairs.roc()
    if not curve.threshold.size:
        say(axes, "no pairs of the same or of different identities")
        return
    verification = report.verification
    # Left of one impostor pair there is nothing to draw.
    left = 10.0 ** np.floor(np.log10(max(1 / verification.impostor, 1e-6)))
    seen = curve.false_accept_rate > 0
    axes.step(
        curve.false_accept_rate[seen],
        100 * curve.true_accept_rate[seen],
        where="post",
        color=_SAME,
        linewidth=2,
    )
    chance = np.geomspace(left, 1, 200)
    axes.plot(chance, 100 * chance, color="#9aa5b1", linewidth=1, linestyle=":")
    axes.set_xscale("log")
    axes.set_xlim(left, 1)
    axes.set_ylim(0, 101.5)
    axes.set_ylabel("true accept rate, %")
    auc = "n/a" if verification.auc is None else f"{verification.auc:.4f}"
    lines = [f"{'AUC':<10}{auc:>8}", _line("EER", verification.eer)]
    lines += [_line(f"TAR@{name}", value) for name, value in verification.tar_at_far.items()]
    _box(axes, lines, low=verification.auc is not None and verification.auc > 0.8)


def _draw_scores(axes: Any, report: EvaluationReport) -> None:
    axes.set_title("Scores of pairs")
    axes.set_xlabel("cosine similarity")
    edges, same, different = report.pairs.binned(128)
    occupied = np.flatnonzero(same + different)
    if not occupied.size:
        say(axes, "no pairs")
        return
    for counts, colour, name in ((different, _DIFFERENT, "different"), (same, _SAME, "same")):
        total = int(counts.sum())
        if total:
            share = 100 * counts / total
            axes.stairs(share, edges, fill=True, color=colour, alpha=0.35)
            axes.stairs(share, edges, color=colour, linewidth=1.4, label=f"{name} ({total:,} pairs)")
    verification = report.verification
    if verification.threshold is not None and verification.false_match_rate is not None:
        axes.axvline(
            verification.threshold,
            color=_MARK,
            linewidth=1.3,
            linestyle="--",
            label=f"threshold {verification.threshold:.3f}: {100 * verification.false_match_rate:.2g} % "
            "false matches",
        )
    axes.set_xlim(edges[occupied[0]] - 0.02, edges[occupied[-1] + 1] + 0.02)
    axes.set_ylabel("share of pairs, % per bin")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * 1.28)  # room for the legend above the peaks
    axes.legend(loc="upper left", framealpha=1, edgecolor=GRID, fontsize=9)


def _box(axes: Any, lines: list[str], *, low: bool = True) -> None:
    """Figures in a corner that the curve leaves free."""
    x, y, horizontal, vertical = (0.97, 0.05, "right", "bottom") if low else (0.04, 0.96, "left", "top")
    axes.text(
        x,
        y,
        "\n".join(lines),
        transform=axes.transAxes,
        ha=horizontal,
        va=vertical,
        ma="left",
        family="monospace",
        fontsize=9,
        linespacing=1.4,
        bbox={"facecolor": "white", "edgecolor": GRID, "boxstyle": "round,pad=0.5"},
    )


def say(axes: Any, text: str) -> None:
    """Words in the place of a curve that has no data."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="#7b8794")
    axes.set_xticks([])
    axes.set_yticks([])


def _line(name: str, share: float | None) -> str:
    """A name and a percentage, in columns."""
    value = "n/a" if share is None else f"{100 * share:.1f} %"
    return f"{name:<10}{value:>8}"


@dataclass(frozen=True)
class Series:
    """One line. ``colour`` is a class of the page's style sheet: ``c0`` … ``c3``. filled: the area below it too."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    colour: str
    filled: bool = False


def line_chart(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    x_range: tuple[float, float],
    y_range: tuple[float, float] = (0.0, 1.0),
    x_log: bool = False,
    x_marks: Sequence[tuple[float, str]] = (),
    percent: bool = True,
) -> str:
    """An ``<svg>`` of lines over common axes; points outside the ranges are drawn at their edge.

    x_log: logarithmic x axis (values of 0 stand at its lower end). x_marks: vertical lines with a caption.
    percent: y values are shares.
    """
    low, high = (math.log10(v) for v in x_range) if x_log else x_range
    bottom, top = y_range
    right, lower = WIDTH - _RIGHT, HEIGHT - _BOTTOM

    def x(value: float) -> float:
        at = math.log10(max(value, x_range[0])) if x_log else value
        return _LEFT + (right - _LEFT) * min(max((at - low) / (high - low), 0.0), 1.0)

    def y(value: float) -> float:
        share = min(max((value - bottom) / ((top - bottom) or 1.0), 0.0), 1.0)
        return lower - (lower - _PLOT_TOP) * share

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y_label)} over {escape(x_label)}">'
    ]
    for tick in (bottom + (top - bottom) * i / 5 for i in range(6)):
        text = f"{tick:.0%}" if percent else f"{tick:.3g}"
        parts.append(f'<path class="grid" d="M{_LEFT} {y(tick):.1f}H{right}"/>')
        parts.append(
            f'<text class="tick" x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{text}</text>'
        )
    for value, text in _x_ticks(x_range, x_log):
        parts.append(f'<path class="grid" d="M{x(value):.1f} {_PLOT_TOP}V{lower}"/>')
        parts.append(
            f'<text class="tick" x="{x(value):.1f}" y="{lower + 16}" text-anchor="middle">{text}</text>'
        )
    for value, text in x_marks:
        parts.append(f'<path class="mark" d="M{x(value):.1f} {_PLOT_TOP}V{lower}"/>')
        parts.append(f'<text class="tick" x="{x(value) + 4:.1f}" y="{_PLOT_TOP + 10}">{escape(text)}</text>')
    for one in series:
        points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(one.xs, one.ys, strict=True))
        if one.filled and points:
            ends = f"{x(one.xs[-1]):.1f},{lower} {x(one.xs[0]):.1f},{lower}"
            parts.append(f'<polygon class="area {one.colour}" points="{points} {ends}"/>')
        parts.append(f'<polyline class="line {one.colour}" points="{points}"/>')
    parts.append(
        f'<text class="label" x="{(_LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>'
    )
    middle = (_PLOT_TOP + lower) / 2
    parts.append(
        f'<text class="label" transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>"
    )
    parts.append("</svg>")
    names = "".join(f'<span><i class="key {one.colour}"></i>{escape(one.name)}</span>' for one in series)
    return "".join(parts) + (f'<div class="keys">{names}</div>' if len(series) > 1 else "")


def _x_ticks(x_range: tuple[float, float], x_log: bool) -> list[tuple[float, str]]:
    first, last = x_range
    if x_log:
        powers = range(math.ceil(math.log10(first) - 1e-9), math.floor(math.log10(last) + 1e-9) + 1)
        return [(10.0**power, f"1e{power}" if power else "1") for power in powers]
    # The finest step of 1, 2 or 5 times a power of ten that gives at most seven ticks.
    power = 10.0 ** math.floor(math.log10((last - first) / 6))
    step = next(power * one for one in (1, 2, 5, 10) if (last - first) / (power * one) <= 7)
    ticks = [step * i for i in range(math.ceil(first / step - 1e-9), math.floor(last / step + 1e-9) + 1)]
    return [(tick, f"{tick:.6g}") for tick in ticks]
