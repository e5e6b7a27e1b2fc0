"""The parts together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from siamese_search.errors import UsageError
from siamese_search.gallery.storage import Storage
from siamese_search.planning import Question, figures, plan
from siamese_search.settings import SERVER_KEYS as KEYS
from siamese_search.settings import check_value

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def test_the_asked_storage_is_a_row_and_the_rows_are_in_order() -> None:
    usual = plan(Question(10**7))
    assert [str(row.size.storage) for row in usual.rows] == [
        "float32",
        "float16",
        "float16, searched in int8",
        "float16, searched in int4",
        "float16, searched in binary",
    ]
    assert usual.chosen is usual.rows[0]
    other = plan(Question(10**7, storage=Storage("float32", "int8")))
    assert [str(row.size.storage) for row in other.rows][:3] == ["float32", "float32, searched in int8", "float16"]
    assert other.chosen is other.rows[1]


def test_settings_are_what_a_server_takes() -> None:
    for storage in (Storage(), Storage("float16", "int4"), Storage("float32", "binary")):
        settings = plan(Question(10**9, storage=storage, m=32)).server_settings
        assert set(settings) <= set(KEYS)
        for key, value in settings.items():
            check_value(key, key, value)
        assert settings["on_disk"] == (storage.quantisation != "none")
        assert settings["quantisation"] == storage.quantisation
        assert settings["m"] == 32


def test_two_generations_side_by_side() -> None:
    answer = plan(Question(10**8))
    document = answer.to_json()
    asked = next(row for row in document["server"] if row["asked"])
    assert document["reindex"]["transient_disk"] == asked["disk"]
    assert document["reindex"]["peak_disk"] == pytest.approx(2 * asked["disk"], abs=1)
    assert document["reindex"]["peak_ram"] == pytest.approx(2 * asked["ram"], abs=1)


def test_a_workers_rate_is_the_measured_one_unless_given() -> None:
    measured, given = plan(Question(10**6)), plan(Question(10**6, rate=1570.0, workers=3))
    assert measured.to_json()["ingest"]["measured"] is True
    assert given.to_json()["ingest"]["measured"] is False
    assert measured.hours[1] == pytest.approx(10 * given.hours[1])
    assert given.hours[3] == pytest.approx(given.hours[1] / 3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"images": 0},
        {"images": 1, "dim": 0},
        {"images": 1, "replicas": 0},
        {"images": 1, "node_ram": 0},
        {"images": 1, "m": 1},
        {"images": 1, "rate": 0.0},
        {"images": 1, "rate": float("nan")},
        {"images": 1, "workers": 0},
        {"images": 1, "queries_per_second": float("inf")},
    ],
)
def test_what_cannot_be_planned(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        plan(Question(**wrong))


def test_every_figure_has_a_source() -> None:
    for figure in figures.ALL.values():
        assert figure.source.startswith(("benchmarks/", "Qdrant documentation")), figure
        if figure.source.startswith("benchmarks/"):
            assert (RESULTS.parents[1] / figure.source.split()[0]).is_file(), figure


#: Benchmarks are run on whatever machine there is; a figure that is further off than this is out of date.
CURRENT = 0.5


@pytest.mark.parametrize(
    ("figure", "result", "path"),
    [
        ("worker_rate", "ingest-256x128.json", "ingest_images_per_second"),
        ("embed", "ingest-256x128.json", "ingest_cpu_ms"),
        ("walk", "reingest.json", "sizes/-1/files_per_second"),
        ("embedded_writes", "gallery.json", "upsert_points_per_s"),
        ("server_writes", "server.json", "best/ServerGallery.upsert"),
    ],
)
def test_the_measured_figures_are_those_in_the_results(figure: str, result: str, path: str) -> None:
    value = json.loads((RESULTS / result).read_text())
    for key in path.split("/"):
        value = value[int(key)] if isinstance(value, list) else value[key]
    assert figures.ALL[figure].value == pytest.approx(value, rel=CURRENT)
