from __future__ import annotations

import re
from dataclasses import replace

import pytest

from siamese_search.evaluation.evaluate import evaluate
from siamese_search.model.calibration import Calibration
from siamese_search.render.marks import small_rate
from siamese_search.render.report import html_page

#: As if the model had been calibrated on other images: its thresholds mean something else here.
KEPT = Calibration((0.2, 0.1, 0.01), (0.1, 0.3, 0.7), 4.0, -2.0, 100, 100)


@pytest.fixture
def report(make_images, embedder, memory_gallery):
    records = make_images([str(i) for i in range(1, 9)], ("1", "2"), each=2, noise=300)
    return replace(evaluate(records, embedder, memory_gallery(), quantise=["int8"]), kept=KEPT)


def rows(page: str, name: str) -> list[list[str]]:
    """The cells of the table below this caption, without its head."""
    table = page.partition(f"<b>{name}</b>")[2].partition("</table>")[0]
    return [re.findall(r"<td>([^<]*)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", table)][1:]


def test_each_rate_has_its_threshold_and_the_pairs_behind_it(report) -> None:
    shown = rows(html_page(report), "Pairs: thresholds by false accept rate")
    assert [row[0] for row in shown] == ["10.0%", "1.0%", "0.1%", "0.01%"]
    # 8 identities, 2 images each before either camera: 16 · 14 pairs of different ones across the cameras.
    assert report.verification.impostor == 224
    assert [row[3] for row in shown] == ["22", "2", "fewer than one pair", "fewer than one pair"]
    assert shown[0][1] == f"{report.verification.at_far['1e-1'].threshold:.4f}"


def test_round_scores_count_what_they_let_through(report) -> None:
    shown = rows(html_page(report), "Pairs: rates at round scores")
    assert 3 <= len(shown) <= 12
    plan, vectors = report.plan, report.gallery_vectors
    scores = vectors @ vectors.T
    for score, true_accepted, false_accepted, precision, probability in shown:
        counts = {True: [0, 0], False: [0, 0]}
        for i in range(len(vectors)):
            for j in range(i + 1, len(vectors)):
                if plan.gallery[i].camera != plan.gallery[j].camera:
                    same = plan.gallery[i].identity == plan.gallery[j].identity
                    counts[same][0] += 1
                    counts[same][1] += scores[i, j] >= float(score)
        (genuine, right), (impostor, wrong) = counts[True], counts[False]
        assert true_accepted == small_rate(right / genuine)
        assert false_accepted == small_rate(wrong / impostor)
        assert precision == (small_rate(right / (right + wrong)) if right + wrong else "n/a")
        assert probability == small_rate(KEPT.probability(float(score)))


def test_a_calibration_from_elsewhere_is_held_against_these_pairs(report) -> None:
    points = report.kept_points()
    assert list(points) == [0.1, 0.01]  # 0.001 is below what its hundred pairs can tell
    assert points[0.01].threshold == pytest.approx(0.7, abs=1e-5)
    assert points[0.01] == report.pairs.at_threshold(0.7)
    shown = rows(html_page(report), "Does the calibration hold?")
    assert [row[:2] for row in shown] == [["10.0%", "0.3000"], ["1.0%", "0.7000"]]
    assert report.to_json()["kept_calibration"]["0.001"] is None
    assert replace(report, kept=None).kept_points() == {}


def test_the_page_has_all_of_them(report) -> None:
    page = html_page(report)
    for heading in (
        "thresholds by false accept rate",
        "thresholds by false alarms",
        "rates at round scores",
        "Does the calibration hold?",
        "What searching in fewer bits loses",
        "data fingerprint",
    ):
        assert heading in page
    assert "Does the calibration hold?" not in html_page(replace(report, kept=None))


@pytest.mark.parametrize(
    ("rate", "text"),
    [(0.0, "0.0%"), (1.0, "100.0%"), (0.1234, "12.3%"), (0.01, "1.0%"), (0.00123, "0.12%"), (1e-4, "0.01%"),
     (float("nan"), "n/a")],
)  # fmt: skip
def test_small_rates_keep_two_digits(rate: float, text: str) -> None:
    assert small_rate(rate) == text
