"""A small gallery over each engine: qdrant-client in memory stands for the server."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "gallery"))

from memory import memory_store
from vectors import MODEL

from siamese_search.gallery import open_gallery
from siamese_search.gallery.contract import Gallery

OpenCare = Callable[..., Gallery]


@pytest.fixture(params=["embedded", "server"])
def open_care(request, scratch: Path) -> Iterator[OpenCare]:
    """``open_care(mode="w", model=MODEL)`` opens the same gallery at every call; the first one makes it."""
    if request.param == "embedded":
        yield lambda mode="w", model=MODEL: open_gallery(scratch / "store", model=model, create=mode == "w", mode=mode)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # payload indexes have no effect in memory
        store = memory_store()
        yield lambda mode="w", model=MODEL: store.open("default", model=model, create=mode == "w", mode=mode)
        store.close()


@pytest.fixture
def gallery(open_care: OpenCare) -> Iterator[Gallery]:
    with open_care() as opened:
        yield opened
