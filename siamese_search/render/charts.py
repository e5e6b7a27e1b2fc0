"""chart(): a curve as SVG for a page, in the page's own colours: what ``curves`` draws, without anything to ask for."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup

from siamese_search.evaluation.report import EvaluationReport
from siamese_search.render import curves

#: The page's variables, light and dark, by the colours that are drawn with.
_VARIABLES = {
    curves.INK: "ink",
    curves.PAPER: "card",
    curves.GRID: "line",
    curves.AXIS: "soft",
    curves.FAINT: "soft",
    curves.SAME: "c0",
    curves.DIFFERENT: "c1",
    curves.MARK: "mark",
}
_STYLE = curves.STYLE | {
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
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    held = io.StringIO()
    with rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        draw(axes, report)
        axes.set_title("")
        figure.savefig(held, format="svg", metadata=_NO_METADATA)
    root = ElementTree.fromstring(held.getvalue())
    label = " over ".join(filter(None, (axes.get_ylabel(), axes.get_xlabel())))
    _made_part_of_a_page(root, draw.__name__)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _made_part_of_a_page(root: ElementTree.Element, name: str) -> None:
    """Drop name spaces, rules for all elements and idle ids; put ``name`` before ids, and variables for colours."""
    used = set(
        re.findall(r"#(\w+)", " ".join(v for one in root.iter() for k, v in one.items() if k != "style"))
    )
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.text, element.tail = (
            part if part and part.strip() else None for part in (element.text, element.tail)
        )
        for child in [child for child in element if child.tag.endswith("}style")]:
            element.remove(child)
        attributes = {key.rpartition("}")[2]: value for key, value in element.items()}
        if attributes.get("id") not in used:
            attributes.pop("id", None)
        for key, value in attributes.items():
            if key == "id":
                attributes[key] = f"{name}-{value}"
            elif key == "style":
                attributes[key] = re.sub(r"#[0-9a-f]{6}", _variable, value)
            else:
                attributes[key] = re.sub(r"(\.\d\d)\d+", r"\1", value.replace("#", f"#{name}-"))
        element.attrib = attributes


def _variable(colour: re.Match[str]) -> str:
    return f"var(--{_VARIABLES.get(colour[0], 'ink')})"
