"""The embedded engine through the gallery contract."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from siamese_search.gallery import open_gallery

# importlib import mode keeps test directories off sys.path, so the suite is loaded by its file.
_spec = importlib.util.spec_from_file_location("gallery_contract", Path(__file__).with_name("contract.py"))
assert _spec is not None
assert _spec.loader is not None
contract = importlib.util.module_from_spec(_spec)
sys.modules["gallery_contract"] = contract
_spec.loader.exec_module(contract)


class TestEmbedded(contract.GalleryContract):
    @pytest.fixture
    def open_engine(self, scratch):
        def open_(model, mode="w"):
            return open_gallery(scratch / "store", model=model, create=mode == "w", mode=mode)

        return open_
