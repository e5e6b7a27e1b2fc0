"""A small gallery over each engine: qdrant-client in memory stands for the server."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
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


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A fresh directory, in memory where the system offers that: a gallery fsyncs a great deal."""
    memory = Path("/dev/shm")
    if not (memory.is_dir() and os.access(memory, os.W_OK)):
        yield tmp_path
        return
    path = Path(tempfile.mkdtemp(prefix="sss-tests-", dir=memory))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(params=["embedded", "server"])
def open_care(request, scratch: Path) -> Iterator[OpenCare]:
    """``open_care(mode="w", model=MODEL)`` opens the same gallery at every call; the first one makes it."""
    if request.param == "embedded":
        yield lambda mode="w", model=MODEL: open_gallery(
            scratch / "store", model=model, create=mode == "w", mode=mode
        )
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
