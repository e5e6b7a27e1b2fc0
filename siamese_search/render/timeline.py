"""Timelines: a lane per camera over an axis of time, as one picture, and as a page with every sighting below it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from siamese_search.errors import UsageError, amount, printable
from siamese_search.render.canvas import shown, usual_aspect
from siamese_search.render.curves import AXIS, BAD, FAINT, GOOD, GRID, PAPER, SAME, picture, svg
from siamese_search.render.marks import FRAMES, known_identities, mark
from siamese_search.render.pages import MAX_QUERIES, html_sheet, write_page
from siamese_search.retrieval.ranking import natural
from siamese_search.retrieval.timeline import Sighting, Timeline, spoken, who

#: Drawn in one picture: timelines, and lanes of each. Both pictures and pages say how many are left out.
MAX_TIMELINES, MAX_LANES = 20, 24
#: Inches: the picture's width, what lanes leave free beside them, a lane, an axis below it, a heading, an image.
_WIDTH, _LEFT, _RIGHT, _LANE, _AXIS, _HEAD, _IMAGE = 12.0, 1.5, 0.25, 1.3, 0.55, 1.15, 0.84
_LONG = _WIDTH - _LEFT - _RIGHT
_DOTS_PER_INCH = 120
#: A time without a sighting that takes more than this share of the axis is marked and named.
_GAP = 0.12
_COLOURS = {"good": GOOD, "bad": BAD, "unknown": AXIS}
_NAMES = {"good": "green", "bad": "red", "unknown": "grey"}
_DAY = 86_400
#: Days from 1970 that matplotlib can name: the years 1 to 9999.
_DAYS = (-719_162.0, 2_932_895.0)

Place = tuple[float, Sighting]


def draw_timelines(timelines: Sequence[Timeline], out: Path) -> Path:
    """Write them below each other as a PNG; returns ``out``. Raises SiameseSearchError where it cannot be written."""
    good = [one for one in timelines if one.answer.error is None]
    if not good:
        raise UsageError("there are no results to draw")
    first = good[:MAX_TIMELINES]
    identities = known_identities([one.answer for one in first])
    heights = [_HEAD + _height(one) for one in first]
    with picture(out, (_WIDTH, sum(heights))) as figure:
        for place, (one, identity) in enumerate(zip(first, identities, strict=True)):
            _heading(figure, one, identity, sum(heights[place:]), 0 if place else len(good) - len(first))
            _draw_lanes(figure, one, identity, sum(heights[place:]) - _HEAD)
    return out


def write_timeline_page(timelines: Sequence[Timeline], out: Path) -> Path:
    """Write the page, atomically; returns ``out``. Raises SiameseSearchError where it cannot be written."""
    return write_page(timeline_page(timelines), out, "page of timelines")


def timeline_page(timelines: Sequence[Timeline]) -> str:
    """The whole page."""
    answers = [one.answer for one in timelines]
    lanes = []
    for place, (one, identity) in enumerate(zip(timelines[:MAX_QUERIES], known_identities(answers))):

        def draw(figure: Figure, one: Timeline = one, identity: str | None = identity) -> str:
            _draw_lanes(figure, one, identity, _height(one))
            return f"{who(one)}, by camera and {printable(one.field)}"

        lanes.append(svg(draw, (_WIDTH, _height(one)), f"lanes{place}") if _lanes(one) else "")
    return html_sheet(
        answers,
        title="Timeline" if len(timelines) == 1 else "Timelines",
        template="timeline.html.j2",
        gaps=[[spoken(seen.gap, one.unit) for seen in one.sightings] for one in timelines],
        lanes=lanes,
        heads=[who(one) for one in timelines],
        remarks=[_remarks(one) for one in timelines],
    )


def _lanes(timeline: Timeline) -> list[tuple[str, list[Place]]]:
    """(name, sightings with their places on the axis) of each camera, or camera and sequence where those count."""
    found: dict[str, list[Place]] = {}
    for seen in timeline.sightings:
        if seen.at is not None:
            name = "no camera" if seen.result.camera is None else f"camera {printable(seen.result.camera)}"
            if "sequence" in timeline.within:
                name += f",\nsequence {printable(str(seen.result.metadata.get('sequence')))}"
            found.setdefault(name, []).append((seen.at / _DAY if timeline.unit else float(seen.at), seen))

    def order(name: str) -> tuple[Any, ...]:
        first = found[name][0][1].result
        return natural(str(first.camera)), natural(str(first.metadata.get("sequence")))

    return [(name, found[name]) for name in sorted(found, key=order)]


def _height(timeline: Timeline) -> float:
    lanes = min(len(_lanes(timeline)), MAX_LANES)
    return lanes * (_LANE + _AXIS) if timeline.within else lanes * _LANE + _AXIS


def _remarks(timeline: Timeline) -> list[str]:
    """What a reader has to know of the order and of what is not drawn."""
    lines, unplaced = list(timeline.notes), sum(seen.at is None for seen in timeline.sightings)
    if timeline.within:
        place = " and ".join(timeline.within)
        lines.append(f"{timeline.field} numbers count within one {place}: each lane has an axis of its own")
    if unplaced:
        lines.append(f"{unplaced:,} of {len(timeline.sightings):,} have no time that an axis can show")
    if (lanes := len(_lanes(timeline))) > MAX_LANES:
        lines.append(f"the first {MAX_LANES} of {lanes:,} lanes drawn")
    return [printable(line) for line in lines]


def _heading(figure: Figure, timeline: Timeline, identity: str | None, top: float, left_out: int) -> None:
    """The query's image, whose sightings these are, and what to know of them."""
    total, side = figure.get_figheight(), _LEFT - 0.5
    axes = figure.add_axes((0.25 / _WIDTH, (top - side - 0.1) / total, side / _WIDTH, side / total))
    axes.set_axis_off()
    axes.set(xlim=(0, side), ylim=(0, side))
    answer = timeline.answer
    _image(axes, answer.path, (side / 2, side / 2), (1.0, 1.0), SAME)
    name = printable(answer.query if answer.path is None else answer.path.name)
    name += f"  ·  {amount(left_out, 'more query')} not drawn" if left_out else ""
    kinds = {mark(seen.result, identity).kind for seen in timeline.sightings}
    if kinds - {"unknown"}:
        told = (f"{_NAMES[kind]} {FRAMES[kind]}" for kind in FRAMES if kind in kinds)
        name += f"  ·  frames: {', '.join(told)}"
    lines = [name, *_remarks(timeline)]
    texts: dict[str, Any] = {"x": _LEFT / _WIDTH, "va": "top", "parse_math": False}
    figure.text(y=(top - 0.15) / total, s=who(timeline), fontsize=14, fontweight="bold", **texts)
    figure.text(y=(top - 0.48) / total, s="\n".join(lines[:4]), fontsize=9.5, color=FAINT, **texts)


def _draw_lanes(figure: Figure, timeline: Timeline, identity: str | None, top: float) -> None:
    """The lanes, ``top`` inches from the foot of the figure downwards."""
    figure.set_layout_engine("none")  # axes have their places in inches
    lanes, own, total = _lanes(timeline)[:MAX_LANES], bool(timeline.within), figure.get_figheight()
    every = sorted((place for _, places in lanes for place in places), key=lambda place: place[0])
    for number, (name, places) in enumerate(lanes):
        top -= _LANE
        box = (_LEFT / _WIDTH, top / total, _LONG / _WIDTH, 0.97 * _LANE / total)
        axes: Any = figure.add_axes(box)
        axes.spines["left"].set_visible(False)
        axes.set(yticks=[], ylim=(0, 1))
        axes.set_ylabel(name, rotation=0, ha="right", va="center", labelpad=12, parse_math=False)
        shared = places if own else every
        _time_axis(axes, timeline, [at for at, _ in shared], told=own or number == len(lanes) - 1)
        top -= _AXIS if own else 0
        low, high = axes.get_xlim()
        for (before, _), (after, _) in pairwise(shared):
            if after - before >= _GAP * (high - low):
                axes.axvspan(before, after, color=GRID, alpha=0.45, linewidth=0)
                if own or number == 0:
                    text = spoken((after - before) * (_DAY if timeline.unit else 1), timeline.unit)[1:]
                    axes.text((before + after) / 2, 0.9, f"gap {text}", ha="center", fontsize=9, color=FAINT)
        _draw_sightings(axes, places, identity, (high - low) / _LONG)


def _draw_sightings(axes: Any, places: Sequence[Place], identity: str | None, inch: float) -> None:
    """A dot at each time, and an image wherever it has room; the first of those that would overlap stands for them."""
    low, high = axes.get_xlim()
    wide = 1.1 * inch * _IMAGE / max(1.0, usual_aspect([seen.result.path for _, seen in places]))
    groups: list[list[Place]] = []
    for at, seen in places:
        axes.plot([at], [0.07], "o", color=_COLOURS[mark(seen.result, identity).kind], markersize=6)
        if groups and at - groups[-1][0][0] < wide:
            groups[-1].append((at, seen))
        else:
            groups.append([(at, seen)])
    for (at, first), *rest in groups:
        centre = min(max(at, low + wide / 2), high - wide / 2), 0.51
        colour = _COLOURS[mark(first.result, identity).kind]
        right, bottom = _image(axes, first.result.path, centre, (inch, 1 / _LANE), colour)
        if rest:
            box = {"facecolor": PAPER, "edgecolor": colour, "boxstyle": "round,pad=0.25"}
            axes.text(right - 0.02 * inch, bottom, f"+{len(rest):,}", fontsize=8, bbox=box, zorder=5, ha="right")


def _image(
    axes: Any, path: Path | None, centre: tuple[float, float], inch: tuple[float, float], colour: str
) -> tuple[float, float]:
    """An image in a frame, at most ``_IMAGE`` inches; returns its lower right corner. inch: one, in axis units."""
    side = round(_IMAGE * _DOTS_PER_INCH)
    found = shown(path, (side, side))
    if isinstance(found, str):
        axes.text(*centre, found.replace(" ", "\n"), ha="center", va="center", fontsize=7, color=FAINT)
    shape = (2, 1) if isinstance(found, str) else (found.height, found.width)
    high, wide = (_IMAGE * extent / max(shape) for extent in shape)
    left, bottom = centre[0] - wide * inch[0] / 2, centre[1] - high * inch[1] / 2
    right, top = left + wide * inch[0], bottom + high * inch[1]
    if not isinstance(found, str):
        limits = {"xlim": axes.get_xlim(), "ylim": axes.get_ylim()}
        axes.imshow(found, extent=(left, right, bottom, top), aspect="auto", interpolation="none", zorder=3)
        axes.set(**limits)
    box = Rectangle((left, bottom), right - left, top - bottom, fill=False, edgecolor=colour, linewidth=2)
    axes.add_patch(box).set_zorder(4)
    return right, bottom


def _time_axis(axes: Any, timeline: Timeline, values: Sequence[float], *, told: bool) -> None:
    """Limits with room for an image at each end, and ticks where people would put them."""
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or (30 / _DAY if timeline.unit else max(1.0, abs(high) / 1e6))
    if timeline.unit:
        axes.set_xlim(max(low - room, _DAYS[0]), min(high + room, _DAYS[1]))
        locator = AutoDateLocator(tz=UTC, minticks=3, maxticks=8)
        formatter: Any = ConciseDateFormatter(locator, tz=UTC)
    else:
        axes.set_xlim(low - room, high + room)
        whole = all(value.is_integer() for value in values)
        locator = MaxNLocator(8, steps=[1, 2, 5, 10], integer=whole)
        formatter = lambda value, _: f"{value:,.10g}"  # noqa: E731
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(formatter)
    axes.tick_params(labelbottom=told, bottom=told)
    axes.xaxis.get_offset_text().set_visible(told)
    if told:
        axes.set_xlabel(printable(timeline.field) + (", UTC" if timeline.unit else ""), parse_math=False)
