"""The server engine through the gallery contract: on qdrant-client's in-memory mode, and on a real server.

A real server is taken from ``QDRANT_URL`` (and ``SSS_API_KEY``). Without it those tests are skipped; with it, what
fails there fails the run. They make galleries under names of their own and drop them again.
"""

from __future__ import annotations

import os
import uuid
import warnings

import pytest

from siamese_search.gallery.qdrant.store import connect
from siamese_search.settings import ServerSettings, Settings

from .. import memory
from ..contract import GalleryContract
from ..contract_filters import FilterContract
from ..contract_payload import PayloadContract
from ..contract_storage import StorageContract

URL = os.environ.get("QDRANT_URL", "")


class TestInMemory(GalleryContract, FilterContract, PayloadContract, StorageContract):
    @pytest.fixture
    def open_engine(self):
        warnings.simplefilter("ignore")
        store = memory.memory_store()
        yield lambda model, mode="w", storage=None: store.open(
            "default", model=model, create=mode == "w", mode=mode, storage=storage
        )
        store.close()


@pytest.mark.skipif(not URL, reason="QDRANT_URL names no Qdrant server to test against")
class TestRealServer(GalleryContract, FilterContract, PayloadContract, StorageContract):
    @pytest.fixture
    def open_engine(self):
        name = f"sss-test-{uuid.uuid4().hex[:8]}"
        store = connect(URL, settings=Settings(insecure=True, server=ServerSettings(wait=30)))
        yield lambda model, mode="w", storage=None: store.open(
            name, model=model, create=mode == "w", mode=mode, storage=storage
        )
        if name in store.names():
            store.drop(name)
        store.close()
