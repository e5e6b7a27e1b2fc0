from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from pages import check_page, screenshot

from siamese_search.datasets.records import ImageRecord
from siamese_search.errors import SiameseSearchError
from siamese_search.evaluation.evaluate import evaluate
from siamese_search.evaluation.findings import camera_pairs, worst_identities, worst_queries
from siamese_search.evaluation.protocol import Labels
from siamese_search.evaluation.retrieval import retrieval_metrics
from siamese_search.render.report import html_page, write_report
from siamese_search.vectors.projection import pca


@pytest.fixture
def report(make_images, embedder, memory_gallery):
    records = make_images(["1", "2", "3", "4", "0000"], ("1", "2", "10"), each=2, noise=400)
    return evaluate(records, embedder, memory_gallery(), data="photos", model_name="model")


def test_the_page_is_whole_and_asks_nobody(report) -> None:
    page = html_page(report, "sss evaluate photos")
    parser = check_page(page)
    assert {"svg", "table", "figure"} <= parser.tags
    for text in (
        "rank-1",
        "Hardest queries",
        "Embedding map",
        "Cameras",
        "sss evaluate photos",
        report.model,
        report.data_fingerprint,
        "24 queries of 4 identities, 0 of them invalid",
        "30 images to find them among, of 3 cameras",
    ):
        assert text in page


def test_names_from_files_cannot_speak_html(make_images, embedder, memory_gallery, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    records = [
        ImageRecord(f"{evil}{i}.png", r.path, evil if r.identity == "1" else r.identity, '"><b>')
        for i, r in enumerate(make_images(["1", "2"], ("1",), each=3, noise=50))
    ]
    found = evaluate(records, embedder, memory_gallery(), use_cameras=False, data=evil, model_name=evil)
    page = html_page(found, evil)
    assert len(check_page(page).scripts) == 1  # that of the maps
    assert "<b>&quot;" not in page
    assert "&lt;script&gt;" in page
    check_page(page)


def test_both_files_are_written_or_the_place_is_named(report, tmp_path: Path) -> None:
    page = write_report(report, tmp_path / "out" / "report")
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert json.loads((page.parent / "report.json").read_text())["rank1"] == report.rank1
    (tmp_path / "file").write_text("")
    with pytest.raises(SiameseSearchError, match="file"):
        write_report(report, tmp_path / "file")


def test_images_that_have_gone_leave_a_mark(report) -> None:
    for record in report.plan.gallery[:5]:
        record.path.unlink()
    assert "unreadable" in html_page(report)


def test_the_worst_identities_by_the_slow_way(report) -> None:
    precision = report.ranking.average_precision
    by_identity = {
        name: np.mean([p for p, own in zip(precision, report.plan.query_ids, strict=True) if own == name])
        for name in set(report.plan.query_ids)
    }
    found = worst_identities(report)
    assert [one.identity for one in found] == sorted(by_identity, key=lambda name: (by_identity[name], name))
    assert found[0].mAP == pytest.approx(min(by_identity.values()))
    assert sum(one.queries for one in found) == report.ranking.valid_queries


def test_the_worst_queries_come_with_what_beat_them(report) -> None:
    found = worst_queries(report, 5)
    assert [one.average_precision for one in found] == sorted(report.ranking.average_precision)[:5]
    for bad in found:
        if bad.first_hit_rank <= len(bad.correct):
            assert bad.correct.index(True) == bad.first_hit_rank - 1
        else:
            assert not any(bad.correct)


def test_camera_pairs_rank_one_camera_alone(report) -> None:
    pairs = camera_pairs(report)
    assert [(p.query_camera, p.gallery_camera) for p in pairs] == [
        (a, b) for a in ("1", "2", "10") for b in ("1", "2", "10") if a != b
    ]
    plan = report.plan
    rows = [i for i, q in enumerate(plan.queries) if q.camera == "2"]
    columns = [i for i, g in enumerate(plan.gallery) if g.camera == "10"]
    expected = retrieval_metrics(
        report.query_vectors[rows], report.gallery_vectors[columns],
        Labels.of([plan.query_ids[i] for i in rows], [plan.gallery_ids[i] for i in columns]),
    )  # fmt: skip
    one = next(p for p in pairs if (p.query_camera, p.gallery_camera) == ("2", "10"))
    assert (one.rank1, one.mAP, one.queries) == (expected.rank1, expected.mAP, len(rows))


def test_pca_finds_the_plane() -> None:
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(60, 2)) * [5.0, 2.0]
    axes = np.linalg.qr(rng.normal(size=(8, 2)))[0]
    found = pca((plane @ axes.T + 3.0).astype(np.float32))
    centred = plane - plane.mean(axis=0)
    distances = [np.linalg.norm(p[:, None] - p[None, :], axis=2) for p in (found, centred)]
    np.testing.assert_allclose(distances[0], distances[1], atol=1e-4)


def drawn(page: str) -> dict[str, ET.Element]:
    """The charts of a page by the captions of their figures, each parsed by the strict rules of XML."""
    found = re.findall(r"<figcaption><b>([^<]*)</b>[^<]*</figcaption>(<svg.*?</svg>)", page, re.DOTALL)
    return {name: ET.fromstring(svg) for name, svg in found}


def curve_of(svg: ET.Element, colour: str = "c0") -> np.ndarray:
    """The corners of the longest line of this colour, float64 [n, 2]; y grows downwards."""
    paths = [one.get("d") for one in svg.iter("path") if f"stroke: var(--{colour})" in one.get("style", "")]
    return np.array(re.findall(r"[ML] (\S+) (\S+)", max(paths, key=len)), dtype=float)


def test_the_charts_have_their_curves_labels_and_marks(report) -> None:
    charts = drawn(html_page(report))
    said = {name: ["".join(text.itertext()) for text in svg.iter("text")] for name, svg in charts.items()}
    cmc, roc, recall, scores, open_set = charts
    assert {"rank k", "queries, %", f"rank-1{report.rank1:>12.1%}"} <= set(said[cmc])
    assert {"0", "20", "60", "80", "100"} <= set(said[cmc])  # the whole of it, however good the model is
    assert f": {report.ranking.queries:,} queries, {report.ranking.gallery:,} images</h1>" in html_page(report)
    assert {"false accept rate, %", "true accept rate, %", "100", "10"} <= set(said[roc])
    assert any(text.startswith("TAR@1%") for text in said[roc])
    assert {"recall, %", "precision, %", "0", "20", "40", "60", "80", "100"} <= set(said[recall])
    assert {"cosine similarity", "share of pairs, % per bin"} <= set(said[scores])
    for start in ("same (", "different (", "threshold "):
        assert any(text.startswith(start) for text in said[scores])
    assert {"false alarms (FPIR), %", "missed (FNIR), %"} <= set(said[open_set])
    assert charts[roc].get("aria-label") == "true accept rate, % over false accept rate, %"
    for svg in charts.values():
        left, top, right, bottom = map(float, svg.get("viewBox").split())
        curve = curve_of(svg)
        assert len(curve) >= 2
        # What lies beyond the axes is cut off a point outside the drawing, and hidden by their clip path.
        assert ((curve >= (left - 1, top - 1)) & (curve <= (right + 1, bottom + 1))).all()
    assert (np.diff(curve_of(charts[cmc])[:, 1]) <= 0).all()  # more ranks never find less
    for colour in ("c1", "mark"):
        assert len(curve_of(charts[scores], colour)) >= 2


def test_charts_have_no_colours_of_their_own_and_their_text_is_text(report) -> None:
    for svg in drawn(html_page(report)).values():
        styles = [one.get("style", "") for one in svg.iter()]
        assert not [style for style in styles if re.search(r"#[0-9a-f]{3}|rgb|black|white", style)]
        assert {one.tag for one in svg.iter()} <= {"svg", "defs", "g", "path", "use", "text", "clipPath", "rect"}
        assert len(list(svg.iter("text"))) > 5


def test_what_cannot_be_measured_has_no_chart(make_images, embedder, memory_gallery) -> None:
    found = evaluate(make_images(["1"], ("1", "2"), each=1), embedder, memory_gallery())
    page = html_page(found)
    check_page(page)
    assert list(drawn(page)) == ["Cumulative match characteristic", "Is the target in the gallery at all?"]
    assert "Pairs:" not in page


def test_a_browser_shows_it_without_a_complaint(report, tmp_path: Path) -> None:
    page = write_report(report, tmp_path / "report")
    picture = screenshot(page, tmp_path / "page.png")
    assert picture.size == (1100, 1800)
    assert len(picture.getcolors(1 << 22) or []) > 100
