"""One picture of a sweep: the ROC curves of its runs overlaid, and rank-1 and mAP of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullLocator

from siamese_search.errors import amount, printable
from siamese_search.render.curves import BAD, DIFFERENT, FAINT, GRID, SAME, picture, roc_axes, say
from siamese_search.render.marks import decimal
from siamese_search.training.config import flag
from siamese_search.training.data import as_paths
from siamese_search.training.sweep.grid import Value, label, text
from siamese_search.training.sweep.record import Sweep, SweepRun

#: More runs than this are too many to tell apart: the others' curves are grey and stand in no legend.
_MOST_CURVES = 12
_MOST_BARS = 40
_CURVES = 5.2  # inches, the height of a picture of curves alone


def draw_sweep(sweep: Sweep, out: Path) -> None:
    """Write the runs that are done so far to ``out`` (.png or .svg): ROC curves, and rank-1 and mAP against the value
    where one option of numbers was swept, else as bars. Raises SiameseSearchError where the file cannot be written."""
    values = [run.point.values[sweep.swept[0]] for run in sweep.runs]
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    numeric = len(sweep.swept) == 1 and numbers
    shown = _best(sweep, _MOST_BARS)
    height = _CURVES if numeric else max(_CURVES, 1.9 + 0.46 * len(shown))
    with picture(out, (13.5, height)) as figure:
        # Beside a long list of bars the curves keep their shape, at the top.
        grid = figure.add_gridspec(2, 2, height_ratios=(_CURVES, max(height - _CURVES, 1e-3)))
        roc = figure.add_subplot(grid[0, 0] if height > 1.3 * _CURVES else grid[:, 0])
        figures = figure.add_subplot(grid[:, 1])
        _draw_roc(roc, sweep)
        if numeric:
            _draw_against(figures, sweep)
        else:
            _draw_bars(figures, sweep, shown)
        figure.suptitle(_headline(sweep), x=0.01, ha="left", fontsize=10.5, parse_math=False)


def _headline(sweep: Sweep) -> str:
    data = ", ".join(str(path) for path in as_paths(sweep.data))
    states = [run.state for run in sweep.runs]
    counts = [f"{states.count(state)} {state}" for state in ("failed", "planned") if state in states]
    parts = [
        printable(data if len(data) <= 50 else "…" + data[-49:]),
        f"preset {sweep.preset}",
        f"{amount(len(sweep.heldout_identities), 'identity')} held out, {amount(len(sweep.protocol.queries), 'query')}",
        "same identity and camera excluded" if sweep.protocol.use_cameras else "no cameras",
        amount(len(states), "run") + (f", {', '.join(counts)}" if counts else ""),
    ]
    return "   ·   ".join(parts)


def _draw_roc(axes: Any, sweep: Sweep) -> None:
    axes.set_title("ROC on the held-out identities")
    axes.set_xlabel("false accept rate, %")
    curves = [run for run in sweep.runs if run.figures and run.figures.roc[0]]
    if not curves:
        say(axes, "no run has pairs of the same and of different identities yet")
        return
    best = [run for run in _best(sweep, _MOST_CURVES) if run in curves]
    # Along a scale that the colour-blind can order too, without its palest end.
    colours = dict(zip((run.name for run in best), colormaps["viridis"](np.linspace(0.0, 0.88, max(len(best), 2)))))
    left, lowest = 1.0, 100.0
    for run in sorted(curves, key=lambda run: run.name in colours):  # the grey ones first, below the others
        assert run.figures
        rates, accepted = (np.asarray(part) for part in run.figures.roc)
        seen = rates > 0
        left = min(left, float(rates[seen].min(initial=1.0)))
        lowest = min(lowest, 100 * float(accepted[seen].min(initial=1.0)))
        named = run.name in colours
        name = f"{_short(sweep, run)}   AUC {decimal(run.figures.auc)}" if named else None
        look = {"color": colours.get(run.name, "#cbd2d9"), "linewidth": 1.8 if named else 1.0}
        axes.step(rates[seen], 100 * accepted[seen], where="post", label=name, **look)
    left = 10.0 ** np.floor(np.log10(max(left, 1e-6)) + 1e-9) if left < 1 else 0.1
    roc_axes(axes, left)
    if lowest > 50:
        axes.set_ylim(np.floor((lowest - 8) / 10) * 10)
    rest = len(curves) - len(best)
    words = [flag(sweep.swept[0])[2:]] if len(sweep.swept) == 1 else []
    words += [f"grey: {rest} more"] if rest else []
    heading = {"title": "; ".join(words) or None, "title_fontsize": 9}
    axes.legend(loc="best", fontsize=8.5, framealpha=0.92, edgecolor=GRID, **heading)


def _draw_against(axes: Any, sweep: Sweep) -> None:
    """rank-1 and mAP against the one swept number; the ticks are the values that were tried."""
    (name,) = sweep.swept
    axes.set_title(f"Held-out rank-1 and mAP against {flag(name)[2:]}")
    axes.set_xlabel(flag(name)[2:])
    runs = sorted(sweep.runs, key=lambda run: run.point.values[name])
    values = [float(run.point.values[name]) for run in runs]
    places, scale = _places(values)
    axes.set_xscale(scale)
    axes.set_xticks(places, [text(run.point.values[name]) for run in runs], minor=False)
    axes.xaxis.set_minor_locator(NullLocator())
    done = [place for place, run in zip(places, runs, strict=True) if run.figures]
    lines = (
        ("rank-1", SAME, [100 * run.figures.rank1 for run in runs if run.figures]),
        ("mAP", DIFFERENT, [100 * run.figures.mAP for run in runs if run.figures]),
    )
    found = [height for _, _, heights in lines for height in heights] or [0.0, 100.0]
    room = max(4.0, 0.25 * (max(found) - min(found)))
    low, high = max(0.0, min(found) - room), min(104.0, max(found) + room)
    axes.set_ylim(low, high)
    for (what, colour, heights), others in zip(lines, (lines[1][2], lines[0][2]), strict=True):
        axes.plot(done, heights, "o-", color=colour, linewidth=2, markersize=6, label=what, clip_on=False)
        for place, height, other in zip(done, heights, others, strict=True):
            offset = (0, 8) if (height, what) > (other, "r") else (0, -14)  # of two of a height, rank-1 is above
            if offset[1] < 0 and height - low < 0.08 * (high - low):  # there is the axis
                offset = (16, 3)
            halo = {"path_effects": [withStroke(linewidth=3, foreground="white")]}
            above = {"xytext": offset, "textcoords": "offset points", "ha": "center"}
            axes.annotate(f"{height:.1f}", (place, height), color=colour, fontsize=9, **above, **halo)
    if failed := [place for place, run in zip(places, runs, strict=True) if run.state == "failed"]:
        bottom = low + 0.04 * (high - low)
        axes.plot(failed, [bottom] * len(failed), "x", color=BAD, markersize=9, mew=2.2, label="failed")
    axes.set_ylabel("%")
    axes.margins(x=0.08)
    axes.legend(loc="best", framealpha=0.92, edgecolor=GRID)


def _draw_bars(axes: Any, sweep: Sweep, shown: Sequence[SweepRun]) -> None:
    """A pair of bars per run, in the order of the grid from the top."""
    all_of_them = len(shown) == len(sweep.runs)
    axes.set_title("Held-out rank-1 and mAP" if all_of_them else f"The best {len(shown)} of {len(sweep.runs)}")
    rows = np.arange(len(shown))
    for shift, colour, what in ((-0.2, SAME, "rank-1"), (0.2, DIFFERENT, "mAP")):
        found = [(row, run.figures) for row, run in zip(rows, shown, strict=True) if run.figures]
        widths = [100 * (figures.rank1 if what == "rank-1" else figures.mAP) for _, figures in found]
        bars = axes.barh([row + shift for row, _ in found], widths, 0.36, color=colour, label=what)
        axes.bar_label(bars, fmt="%.1f", padding=3, fontsize=8.5, color=colour)
    for row, run in zip(rows, shown, strict=True):
        if not run.figures:
            colour = BAD if run.state == "failed" else FAINT
            axes.text(1, row, run.state, color=colour, va="center", fontsize=9)
    axes.set_yticks(rows, [_short(sweep, run) for run in shown], fontsize=9)
    axes.set(ylim=(len(shown) - 0.4, -0.6), xlim=(0, 109), xticks=range(0, 101, 20), xlabel="%")
    axes.grid(visible=False, axis="y")
    if any(run.figures for run in shown):
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.2, frameon=False, fontsize=9)


def _places(values: Sequence[float]) -> tuple[list[float], str]:
    """Where ascending values stand on an axis, and its scale; evenly spaced where they would overlap."""
    spread = values[-1] - values[0]
    if values[0] > 0 and values[-1] / values[0] >= 10:
        logs = np.log10(values)
        if np.diff(logs).min() >= 0.06 * (logs[-1] - logs[0]):
            return list(values), "log"
    elif np.diff(values).min() >= 0.06 * spread:
        return list(values), "linear"
    return [float(place) for place in range(len(values))], "linear"


def _best(sweep: Sweep, most: int) -> list[SweepRun]:
    """The runs, or of too many those with the highest mAP, in the order of the grid."""
    if len(sweep.runs) <= most:
        return list(sweep.runs)
    ranked = sorted(sweep.runs, key=lambda run: -run.figures.mAP if run.figures else 1.0)
    chosen = {run.name for run in ranked[:most]}
    return [run for run in sweep.runs if run.name in chosen]


def _short(sweep: Sweep, run: SweepRun) -> str:
    """The values alone where one option was swept (the title names it), else with their names."""
    values: dict[str, Value] = run.point.values
    words = text(values[sweep.swept[0]]) if len(values) == 1 else label(values)
    words = words if len(words) <= 48 else words[:47] + "…"
    return words.replace("$", r"\$")  # no mathematics
