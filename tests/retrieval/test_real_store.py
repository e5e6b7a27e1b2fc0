"""The same searches on the real store, and what searching imports."""

import itertools
import subprocess
import sys

import pytest
from fakes import MODEL, ColourEmbedder, MemoryGallery, write_image, write_market
from searching import Searcher

from ingest.pipeline import run_ingest
from siamese_search.errors import FilterError
from siamese_search.gallery import open_gallery
from siamese_search.gallery.filters import Condition


def test_the_embedded_store_answers_as_the_oracle_does(tmp_path):
    root = tmp_path / "images"
    paths = write_market(root, identities=12, cameras=3)
    # Enough images of one identity that grouping has to ask again.
    paths += [write_image(root / f"0001_c4s1_{n:06d}_01.jpg", seed=f"crowd{n % 3}") for n in range(60)]
    memory = MemoryGallery()
    run_ingest([root], memory, ColourEmbedder())
    filters = [(), (Condition("camera", "=", ("4", "2")),), (Condition("frame", "<", (3,)),)]
    with open_gallery(tmp_path / "store", model=MODEL, create=True, mode="w") as gallery:
        run_ingest([root], gallery, ColourEmbedder())
        assert gallery.count() == len(memory.points) == len(paths)
        for where, exclude, grouped in itertools.product(filters, (False, True), (None, "identity")):
            options = {"k": 11, "where": where, "exclude_self": exclude, "group_by": grouped}
            expected = Searcher(memory, ColourEmbedder()).search(paths[::17], **options)
            answers = Searcher(gallery, ColourEmbedder()).search(paths[::17], **options)
            for answer, wanted in zip(answers, expected, strict=True):
                for result, want in zip(answer.results, wanted.results, strict=True):
                    assert result.score == pytest.approx(want.score, abs=1e-5)
                    found, there = result.to_json(), want.to_json()
                    del found["score"], there["score"]
                    assert found == there
                assert answer.identity == wanted.identity
        with pytest.raises(FilterError, match="weather"):
            Searcher(gallery, ColourEmbedder()).search(paths[:1], where=[Condition("weather", "=", ("sun",))])


def test_searching_and_ingesting_import_none_of_the_heavy_packages():
    code = (
        "import ingest.pipeline, siamese_search.settings, siamese_search.retrieval.searcher,"
        " siamese_search.render.sheets, sys;"
        "print(*(n for n in ('torch', 'timm', 'pandas', 'sklearn', 'qdrant_client', 'matplotlib', 'onnxruntime')"
        " if n in sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert answer.stdout.strip() == ""
