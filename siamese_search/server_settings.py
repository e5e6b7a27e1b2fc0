"""The table ``[server]`` of ``sss.toml``: how collections are made on a Qdrant server, and how long to wait for one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from siamese_search.errors import SettingsError

QUANTISATIONS = ("none", "int8", "int4", "binary")

#: More shards than this a gallery cannot have.
MOST_SHARDS = 1024

#: Smallest and largest value of each number.
_BOUNDS: dict[str, tuple[int, int]] = {
    "grpc_port": (0, 65535),
    "wait": (0, 86400),
    "shards": (0, MOST_SHARDS),
    "replicas": (0, 64),
    "write_consistency": (0, 64),
    "m": (0, 256),
    "ef_construct": (0, 4096),
}


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Settings of galleries on a server. 0 leaves a number to the server's own configuration.

    All but the first two take effect where a collection is made (``sss ingest``, ``sss reindex``).

    grpc_port: port of the server's gRPC interface; 0 is 6334. The user's own settings only: the key goes there.
    wait: seconds for which a writer waits for a server that does not answer; a search waits 10 at most.
    shards, replicas, write_consistency: as in Qdrant (shard_number, replication_factor, write_consistency_factor).
    on_disk: vectors are served from disk, not from memory.
    quantisation: none, int8, int4 (servers from 1.18) or binary; all are rescored with the full vectors.
    m, ef_construct: of the HNSW graph.
    """

    grpc_port: int = 0
    wait: int = 300
    shards: int = 0
    replicas: int = 0
    write_consistency: int = 0
    on_disk: bool = False
    quantisation: str = "none"
    m: int = 0
    ef_construct: int = 0

    def merged(self, values: Mapping[str, Any]) -> ServerSettings:
        """With these values, which :func:`check_server_value` has seen, in place of its own."""
        return replace(self, **values)


KEYS = tuple(field.name for field in fields(ServerSettings))


def check_server_value(where: str, key: str, value: Any) -> Any:
    """The value, if ``key`` (one of KEYS) may have it. Raises SettingsError that begins with ``where``."""
    if key == "on_disk":
        if not isinstance(value, bool):
            raise SettingsError(f"{where} must be true or false, not {str(value)[:80]!r}")
        return value
    if key == "quantisation":
        if value not in QUANTISATIONS:
            raise SettingsError(f"{where} must be one of {', '.join(QUANTISATIONS)}, not {str(value)[:80]!r}")
        return value
    low, high = _BOUNDS[key]
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise SettingsError(f"{where} must be a whole number from {low} to {high}, not {str(value)[:80]!r}")
    return value
