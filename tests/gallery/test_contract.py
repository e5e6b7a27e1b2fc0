"""The embedded engine through the gallery contract."""

from __future__ import annotations

import pytest

from siamese_search.gallery import open_gallery

from .contract import GalleryContract
from .contract_filters import FilterContract
from .contract_payload import PayloadContract
from .contract_storage import StorageContract


class TestEmbedded(GalleryContract, FilterContract, PayloadContract, StorageContract):
    @pytest.fixture
    def open_engine(self, scratch):
        def open_(model, mode="w", storage=None):
            return open_gallery(scratch / "store", model=model, create=mode == "w", mode=mode, storage=storage)

        return open_
