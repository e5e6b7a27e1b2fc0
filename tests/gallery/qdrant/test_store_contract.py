"""The store on a server through the store contract, as test_server_contract.py does with its galleries."""

from __future__ import annotations

import os
import warnings

import pytest

from siamese_search.gallery.qdrant.store import connect
from siamese_search.settings import ServerSettings, Settings

from .. import memory, store_contract

URL = os.environ.get("QDRANT_URL", "")


class TestInMemory(store_contract.StoreContract):
    @pytest.fixture
    def open_place(self):
        warnings.simplefilter("ignore")
        client = memory.memory_client()
        return lambda: memory.memory_store(client)


@pytest.mark.skipif(not URL, reason="QDRANT_URL names no Qdrant server to test against")
class TestRealServer(store_contract.StoreContract):
    """Of a server of its own: the contract begins with an empty one."""

    @pytest.fixture
    def open_place(self):
        settings = Settings(insecure=True, server=ServerSettings(wait=30))
        with connect(URL, settings=settings) as store:
            if store.names():
                pytest.skip(f"{URL} holds galleries already; the store contract begins with an empty one")
        yield lambda: connect(URL, settings=settings)
        with connect(URL, settings=settings) as store:
            for name in store.names():
                store.drop(name)
