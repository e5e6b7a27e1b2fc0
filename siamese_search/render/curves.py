"""Curves: an evaluation as one picture (CMC, ROC, histograms of scores), and each of its curves on axes of its own."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup

# Figures without pyplot: no global state, no window system, safe in any thread.
from matplotlib import rc_context
from matplotlib.figure import Figure

from siamese_search.errors import UsageError, amount, printable
from siamese_search.evaluation.report import EvaluationReport
from siamese_search.evaluation.verification import FALSE_ACCEPT_RATES
from siamese_search.io.files import OWN_TEXT, atomic_path, writing
from siamese_search.render.marks import decimal, rate, small_rate

#: Every colour of these curves. A page puts its own in their place (:func:`chart`).
INK, PAPER, GRID, AXIS, FAINT = "#1f2933", "#ffffff", "#e4e7eb", "#9aa5b1", "#66727f"
SAME, DIFFERENT, MARK, GOOD, BAD = "#1769aa", "#d9822b", "#c23030", "#00925e", "#cd3e26"

SIZE = (15, 4.9)  # inches, of three curves
_TOP = 50  # ranks shown by the CMC curve

#: How every picture of figures looks.
STYLE = {
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": AXIS,
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
    "legend.facecolor": PAPER,
    "figure.constrained_layout.w_pad": 0.12,
    "figure.constrained_layout.h_pad": 0.1,
    "svg.hashsalt": "siamese-search",  # the same report gives the same file
}


@contextmanager
def picture(out: Path, size: tuple[float, float]) -> Iterator[Figure]:
    """A figure of ``size`` inches to draw on, written to ``out`` at the end: a PNG or an SVG, by its suffix. Raises
    UsageError for another one, SiameseSearchError where the file cannot be written."""
    kind = out.suffix.lower()
    if kind not in (".png", ".svg"):
        raise UsageError(f"{printable(out)}: curves are drawn as .png or .svg")
    with rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        metadata = {"Date": None} if kind == ".svg" else dict([OWN_TEXT])
        with writing(out, "the curves "), atomic_path(out) as aside:
            figure.savefig(aside, format=kind[1:], dpi=120, metadata=metadata)


def draw_curves(report: EvaluationReport, out: Path) -> None:
    """Write the three curves of ``report`` to ``out``, as :func:`picture` does; one without data says so instead."""
    with picture(out, SIZE) as figure:
        draw_all(figure, report)


class Plot(Figure):
    """A figure that shows itself in a notebook, whatever backend that has; ``savefig`` writes it to a file."""

    def _repr_png_(self) -> bytes:
        held = io.BytesIO()
        self.savefig(held, format="png", dpi=100)
        return held.getvalue()


def plot_report(report: EvaluationReport) -> Plot:
    """The curves that ``sss evaluate --plot`` draws, as a figure of matplotlib's."""
    with rc_context(STYLE):
        figure = Plot(figsize=SIZE, layout="constrained")
        draw_all(figure, report)
        return figure


def draw_all(figure: Figure, report: EvaluationReport) -> None:
    """The three curves side by side."""
    cmc, roc, scores = figure.subplots(1, 3)
    draw_cmc(cmc, report)
    draw_roc(roc, report)
    draw_scores(scores, report)
    figure.suptitle(_headline(report), x=0.01, ha="left", fontsize=10.5, parse_math=False)


def _headline(report: EvaluationReport) -> str:
    ranking = report.ranking
    data = report.data if len(report.data) <= 60 else "…" + report.data[-59:]
    parts = [
        data,
        report.model_name or report.model[:12],
        f"{amount(ranking.valid_queries, 'query')}, {amount(ranking.gallery, 'image')} in the gallery",
        "same identity and camera excluded" if report.plan.use_cameras else "no cameras",
    ]
    return "   ·   ".join(part for part in parts if part)


def draw_cmc(axes: Any, report: EvaluationReport) -> None:
    """How often a match is among the first k results."""
    top = max(2, min(_TOP, report.ranking.gallery))
    curve = report.ranking.cmc_curve(top)
    axes.set_title("CMC: a match among the first k")
    axes.set_xlabel("rank k")
    if np.isnan(curve).all():
        say(axes, "no valid query")
        return
    ranks = np.arange(1, top + 1)
    axes.plot(ranks, 100 * curve, color=SAME, linewidth=2)
    shown = [k for k in (1, 5, 10) if k <= top]
    axes.plot(shown, [100 * curve[k - 1] for k in shown], "o", color=SAME, markersize=5)
    axes.set(xlim=(0, top + 0.5), ylim=(0, 101.5), ylabel="queries, %")
    lines = [_line(f"rank-{k}", float(curve[k - 1])) for k in shown]
    _box(axes, [*lines, _line("mAP", report.ranking.mAP), _line("mINP", report.ranking.mINP)])


def draw_roc(axes: Any, report: EvaluationReport) -> None:
    """True accepts over false accepts, of all pairs of images."""
    axes.set_title("ROC: same or different?")
    curve = report.pairs.roc()
    if not curve.threshold.size:
        axes.set_xlabel("false accept rate, %")
        say(axes, "no pairs of the same or of different identities")
        return
    verification = report.verification
    # Left of one impostor pair there is nothing to draw.
    left = 10.0 ** np.floor(np.log10(max(1 / verification.impostor, 1e-6)))
    seen = curve.false_accept_rate > 0
    shares = curve.false_accept_rate[seen], 100 * curve.true_accept_rate[seen]
    axes.step(*shares, where="post", color=SAME, linewidth=2)
    roc_axes(axes, left)
    lines = [f"{'AUC':<10}{decimal(verification.auc):>8}", _line("EER", verification.eer)]
    lines += [_line(f"TAR@{100 * FALSE_ACCEPT_RATES[far]:g}%", tar) for far, tar in verification.tar_at_far.items()]
    _box(axes, lines, low=verification.auc is not None and verification.auc > 0.8)


def roc_axes(axes: Any, left: float) -> None:
    """Axes of a ROC from the false accept rate ``left`` on, both in percent, with the line of chance."""
    chance = np.geomspace(left, 1, 200)
    axes.plot(chance, 100 * chance, color=AXIS, linewidth=1, linestyle=":")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda at, _: np.format_float_positional(100 * at, 4, trim="-", fractional=False))
    axes.set(xlim=(left, 1), ylim=(0, 101.5), xlabel="false accept rate, %", ylabel="true accept rate, %")


def draw_scores(axes: Any, report: EvaluationReport) -> None:
    """Histograms of the scores of pairs of the same and of different identities."""
    axes.set_title("Scores of pairs")
    axes.set_xlabel("cosine similarity")
    edges, same, different = report.pairs.binned(128)
    occupied = np.flatnonzero(same + different)
    if not occupied.size:
        say(axes, "no pairs")
        return
    for counts, colour, name in ((different, DIFFERENT, "different"), (same, SAME, "same")):
        if total := int(counts.sum()):
            share = 100 * counts / total
            axes.stairs(share, edges, fill=True, color=colour, alpha=0.35)
            axes.stairs(share, edges, color=colour, linewidth=1.4, label=f"{name} ({amount(total, 'pair')})")
    verification = report.verification
    if verification.threshold is not None and verification.false_match_rate is not None:
        label = f"threshold {verification.threshold:.3f}: {small_rate(verification.false_match_rate)} false matches"
        axes.axvline(verification.threshold, color=MARK, linewidth=1.3, linestyle="--", label=label)
    axes.set_xlim(edges[occupied[0]] - 0.02, edges[occupied[-1] + 1] + 0.02)
    axes.set_ylabel("share of pairs, % per bin")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * 1.28)  # room for the legend above the peaks
    axes.legend(loc="upper left", framealpha=1, edgecolor=GRID, fontsize=9)


def draw_recall(axes: Any, report: EvaluationReport) -> None:
    """Precision over recall, of all pairs of images."""
    axes.set_title("Precision and recall of pairs")
    axes.set_xlabel("recall, %")
    curve = report.pairs.roc()
    if not curve.threshold.size:
        say(axes, "no pairs of the same or of different identities")
        return
    right = curve.true_accept_rate * report.pairs.genuine_pairs
    accepted = right + curve.false_accept_rate * report.pairs.impostor_pairs
    precision = np.where(accepted > 0, right / np.maximum(accepted, 1e-12), 1.0)
    axes.plot(100 * curve.true_accept_rate, 100 * precision, color=SAME, linewidth=2)
    axes.set(xlim=(0, 101.5), ylim=(0, 101.5), ylabel="precision, %")


def draw_open_set(axes: Any, report: EvaluationReport) -> None:
    """Missed targets over false alarms, of searches with their target in the gallery and without."""
    axes.set_title("Is the target in the gallery at all?")
    axes.set_xlabel("false alarms (FPIR), %")
    valid = ~np.isnan(report.open_set.best_match)
    if not valid.any():
        say(axes, "no searches")
        return
    others, matches = np.sort(report.open_set.best_other[valid]), np.sort(report.open_set.best_match[valid])
    at = np.unique(np.concatenate((others, matches)))
    at = at[np.isfinite(at)]
    alarms = 1 - np.searchsorted(others, at, side="left") / len(others)
    misses = np.searchsorted(matches, at, side="left") / len(matches)
    axes.plot(100 * alarms, 100 * misses, color=SAME, linewidth=2)
    axes.set(xlim=(0, 101.5), ylim=(0, 101.5), ylabel="missed (FNIR), %")


def _box(axes: Any, lines: list[str], *, low: bool = True) -> None:
    """Figures in a corner that the curve leaves free."""
    x, y, horizontal, vertical = (0.97, 0.05, "right", "bottom") if low else (0.04, 0.96, "left", "top")
    box = {"facecolor": PAPER, "edgecolor": GRID, "boxstyle": "round,pad=0.5"}
    place = {"transform": axes.transAxes, "ha": horizontal, "va": vertical, "ma": "left"}
    axes.text(x, y, "\n".join(lines), family="monospace", fontsize=9, linespacing=1.4, bbox=box, **place)


def say(axes: Any, text: str) -> None:
    """Words in the place of a curve that has no data."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=FAINT)
    axes.set(xticks=[], yticks=[])


def _line(name: str, share: float | None) -> str:
    """A name and a percentage, in columns."""
    return f"{name:<10}{rate(share):>8}"


#: The page's variables, light and dark, by the colours that are drawn with.
_VARIABLES = {
    INK: "ink",
    PAPER: "card",
    GRID: "line",
    AXIS: "soft",
    FAINT: "soft",
    SAME: "c0",
    DIFFERENT: "c1",
    MARK: "mark",
    GOOD: "good",
    BAD: "bad",
}
_STYLE = STYLE | {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "svg.fonttype": "none",  # text stays text
    "font.sans-serif": ["DejaVu Sans", "sans-serif"],
    "font.monospace": ["DejaVu Sans Mono", "monospace"],
}
Drawing = Callable[[Any, EvaluationReport], None]

_SIZE = (4.8, 3.4)  # inches
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def chart(draw: Drawing, report: EvaluationReport) -> Markup:
    """An ``svg`` element without a title: the page has one. Its ids begin with the name of ``draw``."""

    def alone(figure: Figure) -> str:
        axes = figure.subplots()
        draw(axes, report)
        axes.set_title("")
        return " over ".join(filter(None, (axes.get_ylabel(), axes.get_xlabel())))

    return svg(alone, _SIZE, draw.__name__)


def svg(draw: Callable[[Figure], str], size: tuple[float, float], name: str) -> Markup:
    """What ``draw`` puts on a figure of ``size`` inches, as an ``svg`` element with the label that it returns, and ids
    that begin with ``name``."""
    held = io.StringIO()
    with rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        label = draw(figure)
        figure.savefig(held, format="svg", metadata=_NO_METADATA)
    root = ElementTree.fromstring(held.getvalue())
    _made_part_of_a_page(root, name)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _made_part_of_a_page(root: ElementTree.Element, name: str) -> None:
    """Drop name spaces, rules for all elements and idle ids; put ``name`` before ids, and variables for colours."""
    used = set(re.findall(r"#(\w+)", " ".join(v for one in root.iter() for k, v in one.items() if k != "style")))
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.text, element.tail = (part if part and part.strip() else None for part in (element.text, element.tail))
        for child in [child for child in element if child.tag.endswith("}style")]:
            element.remove(child)
        attributes = {key.rpartition("}")[2]: value for key, value in element.items()}
        if attributes.get("id") not in used:
            attributes.pop("id", None)
        for key, value in attributes.items():
            if key == "id":
                attributes[key] = f"{name}-{value}"
            elif key == "style":
                attributes[key] = re.sub(r"#[0-9a-f]{6}", lambda at: f"var(--{_VARIABLES.get(at[0], 'ink')})", value)
            else:
                attributes[key] = re.sub(r"(\.\d\d)\d+", r"\1", value.replace("#", f"#{name}-"))
        element.attrib = attributes
