import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from fakes import ColourEmbedder, MemoryGallery


@pytest.fixture
def embedder():
    return ColourEmbedder()


@pytest.fixture
def gallery():
    return MemoryGallery()
