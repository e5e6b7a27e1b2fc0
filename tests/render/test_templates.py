"""Every page comes from a template, and no template lets text be anything else."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from fakes import write_image
from jinja2 import UndefinedError
from pages import check_page

from siamese_search.evaluation.evaluate import evaluate
from siamese_search.render import pages
from siamese_search.render.map import map_page
from siamese_search.render.pages import html_sheet
from siamese_search.render.report import html_page
from siamese_search.retrieval.map import GalleryMap, MapPoint
from siamese_search.retrieval.results import QueryResult, SearchResult, Verdict

ROOM = Path(pages.__file__).parent
EVIL = '<script>alert(1)</script>"\' onload=alert(1) x="\x1b[31m\u202e\n'


def found_by_search(path):
    results = tuple(
        SearchResult(
            rank, 0.9, "a", "1", path, "k", metadata={f"field {i}": i for i in range(50)},
            match=rank == 1, probability=0.5, sightings=2, cameras=("1", "2"),
        )
        for rank in (1, 2)
    )  # fmt: skip
    verdict = Verdict(0.01, 0.5, 10, 0.1, 0.1, 10, 0.05)
    return [QueryResult("q", results, path, verdict=verdict), QueryResult("r", error="no such file"), QueryResult("s")]


def mapped(path, values):
    points = tuple(MapPoint(f"{value}.jpg", "s", path, str(value), "1", value) for value in values)
    places = np.random.default_rng(0).normal(size=(len(points), 2))
    return GalleryMap("default", ".sss", "m", "pca", 0, "frame", len(points), points, places)


@pytest.fixture(params=["search", "map", "scale", "report"])
def page(request, tmp_path, make_images, embedder, memory_gallery):
    """Draws one of the pages, with all that it can have."""
    path = write_image(tmp_path / "a.png", size=(40, 20))
    if request.param == "report":
        records = make_images([str(i) for i in range(1, 6)], ("1", "2"), each=2, noise=300)
        report = evaluate(records, embedder, memory_gallery(), quantise=["int8"], model_name="m", data="d")
        records[0].path.unlink()
        return lambda: html_page(report, "sss evaluate d")
    if request.param == "search":
        return lambda: html_sheet(found_by_search(path))
    values = list(range(40)) if request.param == "scale" else [f"p{i}" for i in range(60)]
    return lambda: map_page(mapped(path, values))


def test_hostile_text_in_every_field_stays_text(page) -> None:
    honest, fields = page(), 0

    def hostile(value: object) -> object:
        nonlocal fields
        if isinstance(value, pages.Markup):
            return value
        fields += 1
        return spelled_out(f"{value}{EVIL}")

    pages._environment.cache_clear()
    try:
        environment = pages._environment()
        spelled_out = environment.finalize
        environment.finalize = hostile
        text = page()
    finally:
        pages._environment.cache_clear()
    judged, expected = check_page(text), check_page(honest)
    assert judged.tags == expected.tags
    assert fields > 20
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;&#34;&#39; onload") >= fields
    assert not re.search(r"[\x1b\u202e]", text)
    assert text.count("\\x1b[31m\\u202e\\n") >= fields


def test_no_template_turns_the_escaping_off() -> None:
    templates = sorted((ROOM / "templates").glob("*.j2"))
    assert len(templates) >= 5
    for path in templates:
        assert not re.search(r"\|\s*safe\b|autoescape|\bon\w+=", path.read_text(encoding="utf-8")), path.name


@pytest.mark.parametrize("path", sorted(ROOM.rglob("*.py")), ids=lambda path: path.name)
def test_no_module_has_tags_in_its_strings(path) -> None:
    strings = [
        node.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert not [text for text in strings if re.search(r"</?[a-zA-Z!][^<>]*>?", text)]


def test_a_value_that_is_missing_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="found"):
        pages.render("map.html.j2", title="x")
