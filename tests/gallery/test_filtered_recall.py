"""A filter loses no true result, whatever share of the gallery it keeps: 20,000 points behind a graph."""

from __future__ import annotations

import os
import uuid
from contextlib import contextmanager

import numpy as np
import pytest

from siamese_search.gallery import open_gallery
from siamese_search.gallery.contract import ModelRef
from siamese_search.gallery.edge.convert import search_params
from siamese_search.gallery.filters import bind, parse_where
from siamese_search.gallery.qdrant.collections import search_params as server_params
from siamese_search.gallery.qdrant.store import connect
from siamese_search.gallery.storage import Storage, exact_if_filtered
from siamese_search.settings import ServerSettings, Settings

URL = os.environ.get("QDRANT_URL", "")
POINTS, DIM, QUERIES = 20_000, 256, 200
MODEL = ModelRef("c" * 64, DIM)
FILTERS = ("detection=1", "sequence!=1,2", "camera=3,4,5", "camera!=1", "camera=1", "detection>=2", "detection=0")


def population():
    """Unit vectors around 750 people, each camera's pushed its own way: what makes links of a graph end at a filter."""
    rng = np.random.default_rng(0)
    camera = rng.integers(0, 6, POINTS)
    vectors = rng.standard_normal((750, DIM))[rng.integers(0, 750, POINTS)]
    vectors += 0.6 * rng.standard_normal((6, DIM))[camera] + rng.standard_normal((POINTS, DIM))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    detection = rng.choice(5, POINTS, p=[0.05, 0.35, 0.25, 0.2, 0.15])
    payloads = [
        {"camera": str(1 + c), "sequence": int(s), "detection": int(d)}
        for c, s, d in zip(camera, rng.integers(1, 7, POINTS), detection)
    ]
    return vectors.astype(np.float32), payloads


@contextmanager
def embedded(path):
    with open_gallery(path, model=MODEL, create=True, mode="w") as gallery:
        yield gallery


@contextmanager
def server(_path):
    name = f"sss-test-{uuid.uuid4().hex[:8]}"
    with connect(URL, settings=Settings(insecure=True, server=ServerSettings(wait=120))) as store:
        try:
            with store.open(name, model=MODEL, create=True, mode="w") as gallery:
                yield gallery
        finally:
            store.drop(name)


@pytest.mark.parametrize(
    "engine", [embedded, pytest.param(server, marks=pytest.mark.skipif(not URL, reason="QDRANT_URL names no server"))]
)
def test_recall_under_filters(engine, tmp_path):
    vectors, payloads = population()
    ids = [str(uuid.UUID(int=1 + n)) for n in range(POINTS)]
    rows = vectors[:: POINTS // QUERIES]
    with engine(tmp_path) as gallery:
        gallery.upsert(ids, vectors, payloads)
        gallery.optimise(index=True)
        assert gallery.info().indexed_points > 0
        for expression in FILTERS:
            where = bind(parse_where([expression]), gallery.fields())
            exact = gallery.query_ids(rows, 10, where, exact=True)
            found = gallery.query_ids(rows, 10, where)
            hits = [len(set(best) & set(ranked)) for best, ranked in zip(exact, found, strict=True)]
            assert sum(hits) >= 0.999 * sum(map(len, exact)), expression


def test_what_is_too_large_for_an_exact_search_goes_by_acorn():
    assert exact_if_filtered(100_000, 512, False)
    assert not exact_if_filtered(100_001, 512, False)
    assert not exact_if_filtered(1000, 512, True)
    params = search_params(Storage(), 10, exact=False, filtered=True)
    assert (params.exact, params.acorn.enable, params.acorn.max_selectivity) == (False, True, 1.0)
    assert search_params(Storage(), 10, exact=False, filtered=False).acorn is None

    class Info:
        points_count = 1_000_000

        class config:  # noqa: N801 - the client's name
            quantization_config = None

    large = server_params(Info, 512, exact=False, filtered=True)
    assert (large.exact, large.acorn.max_selectivity) == (False, 1.0)
    assert server_params(Info, 512, exact=False, filtered=False).acorn is None
    Info.points_count = 20_000
    assert server_params(Info, 512, exact=False, filtered=True).exact
