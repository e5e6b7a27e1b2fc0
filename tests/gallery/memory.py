"""qdrant-client's in-memory mode in place of a server, behind our connection.

It differs from a server in three things that matter here, which the shim makes up for; answers are its own.

- An unknown collection, or one that exists already, is a bare ValueError: said as the client says it over REST.
- Closing a client would close the "server".
- Scores come from one matrix product, in which equal vectors can differ in the last bit, by their place in the
  matrix. A server scores each vector by itself, so that equal ones tie.
"""

from __future__ import annotations

import json
import warnings
from unittest import mock

import httpx
import numpy as np
from qdrant_client import QdrantClient
from qdrant_client.http.exceptions import UnexpectedResponse
from qdrant_client.local import distances
from qdrant_client.local.qdrant_local import QdrantLocal

from siamese_search.gallery.qdrant.address import Address
from siamese_search.gallery.qdrant.connection import Connection
from siamese_search.gallery.qdrant.store import ServerStore


class _Local(QdrantLocal):
    def close(self, **kwargs):
        """A server stays when one of its clients goes."""

    def _get_collection(self, collection_name):
        try:
            return super()._get_collection(collection_name)
        except ValueError as error:
            raise refusal(404, str(error)) from None

    def query_batch_points(self, collection_name, requests, **kwargs):
        with mock.patch.object(distances, "dot_product", _each_by_itself):
            return super().query_batch_points(collection_name, requests, **kwargs)

    def create_collection(self, collection_name, *args, **kwargs):
        try:
            return super().create_collection(collection_name, *args, **kwargs)
        except ValueError as error:
            raise refusal(409 if "already exists" in str(error) else 400, str(error)) from None

    def update_collection_aliases(self, change_aliases_operations, **kwargs):
        try:
            return super().update_collection_aliases(change_aliases_operations, **kwargs)
        except ValueError as error:
            raise refusal(400, str(error)) from None


def _each_by_itself(query, vectors):
    return np.einsum("nd,d->n", vectors, query)


def refusal(status, text):
    content = json.dumps({"status": {"error": text}}).encode()
    return UnexpectedResponse(status, "", content, httpx.Headers())


def memory_client() -> QdrantClient:
    client = QdrantClient(":memory:")
    client._client = _Local(":memory:")
    return client


def memory_store(client: QdrantClient | None = None, **settings) -> ServerStore:
    """A store on an in-memory "server"; give the same client to open the same one again."""
    from siamese_search.settings import ServerSettings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # payload indexes have no effect there
        client = memory_client() if client is None else client
        connection = Connection(Address("http", "localhost", 6333))
        connection._adopt(client, client.info())
    return ServerStore(connection, ServerSettings(**settings))
