"""Charts as SVG text, for pages that must show them without any script or other file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

#: Size of the drawing, and the margins around its plot area: left, top, right, bottom.
WIDTH, HEIGHT = 460, 300
_LEFT, _TOP, _RIGHT, _BOTTOM = 52, 12, 14, 44


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
        return lower - (lower - _TOP) * share

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
        parts.append(f'<path class="grid" d="M{x(value):.1f} {_TOP}V{lower}"/>')
        parts.append(
            f'<text class="tick" x="{x(value):.1f}" y="{lower + 16}" text-anchor="middle">{text}</text>'
        )
    for value, text in x_marks:
        parts.append(f'<path class="mark" d="M{x(value):.1f} {_TOP}V{lower}"/>')
        parts.append(f'<text class="tick" x="{x(value) + 4:.1f}" y="{_TOP + 10}">{escape(text)}</text>')
    for one in series:
        points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(one.xs, one.ys, strict=True))
        if one.filled and points:
            ends = f"{x(one.xs[-1]):.1f},{lower} {x(one.xs[0]):.1f},{lower}"
            parts.append(f'<polygon class="area {one.colour}" points="{points} {ends}"/>')
        parts.append(f'<polyline class="line {one.colour}" points="{points}"/>')
    parts.append(
        f'<text class="label" x="{(_LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>'
    )
    middle = (_TOP + lower) / 2
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
