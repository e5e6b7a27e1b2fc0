"""A generation's collection on a server: made, its fields recorded, widened and indexed, its indexing held back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from qdrant_client import QdrantClient, models

from siamese_search.errors import StoreError
from siamese_search.gallery.contract import ModelRef, OptimiseProgress
from siamese_search.gallery.fields import UNINDEXED, beyond, chunks, coerce, json_path, misfits
from siamese_search.gallery.qdrant.connection import Connection
from siamese_search.gallery.qdrant.generation import Generation, State, field_metadata, metadata_of
from siamese_search.gallery.qdrant.points import FILTERS
from siamese_search.gallery.storage import EF_FILTERED, OVERSAMPLING, Storage, exact_if_filtered
from siamese_search.settings import ServerSettings

_INT4_VERSION = (1, 18)
#: How many more candidates the quantised search hands over for rescoring with the full vectors.
_OVERSAMPLING = {"scalar": OVERSAMPLING["int8"], "turbo": OVERSAMPLING["int4"], "binary": OVERSAMPLING["binary"]}


def create_collection(
    connection: Connection,
    collection: str,
    model: ModelRef,
    state: State,
    settings: ServerSettings,
    storage: Storage,
    *,
    builder: dict[str, Any] | None = None,
    wait: float,
) -> None:
    """Make an empty collection with its metadata, indexing held back until a writer closes it.

    Raises CollectionExistsError where it exists, StoreError where the server cannot do what the settings ask.
    """
    quantisation = _quantisation(connection, storage.quantisation)
    hnsw = models.HnswConfigDiff(m=settings.m or None, ef_construct=settings.ef_construct or None)
    connection.call(
        lambda client: client.create_collection(
            collection,
            # Dot on unit vectors is the cosine, and unlike Cosine it stores what was sent.
            vectors_config=models.VectorParams(
                size=model.dim,
                distance=models.Distance.DOT,
                on_disk=settings.on_disk or None,
                datatype=models.Datatype.FLOAT16 if storage.vectors == "float16" else None,
            ),
            shard_number=settings.shards or None,
            replication_factor=settings.replicas or None,
            write_consistency_factor=settings.write_consistency or None,
            hnsw_config=hnsw if settings.m or settings.ef_construct else None,
            quantization_config=quantisation,
            # Unique fields (key, path) have no index, and a server in strict mode would refuse to filter by them.
            strict_mode_config=models.StrictModeConfig(
                unindexed_filtering_retrieve=True, unindexed_filtering_update=True
            ),
            metadata=metadata_of(collection, model, state, storage, builder or {}),
        ),
        wait=wait,
    )
    defer_indexing(connection, collection, wait=wait)


def defer_indexing(connection: Connection, collection: str, *, wait: float) -> None:
    """Build no index for now: a bulk load is faster when the graph is built once, at its end.

    Only for an empty collection: on a large one the server could take minutes. The threshold to restore is kept in the
    metadata, where a later writer finds it.
    """
    config = connection.call(lambda client: client.get_collection(collection), wait=wait).config
    if threshold := config.optimizer_config.indexing_threshold:
        update_metadata(connection, collection, {"deferred": threshold}, wait=wait)
        _set_threshold(connection, collection, 0, wait)


def restore_indexing(connection: Connection, collection: str, threshold: int, *, wait: float) -> None:
    """The opposite of :func:`defer_indexing`; the index is then built in the background."""
    _set_threshold(connection, collection, threshold, wait)
    update_metadata(connection, collection, {"deferred": 0}, wait=wait)


def update_metadata(connection: Connection, collection: str, values: dict[str, Any], *, wait: float) -> None:
    """Replace these keys of a collection's metadata; the others stay."""
    connection.call(lambda client: client.update_collection(collection, metadata=values), wait=wait)


def search_params(info: models.CollectionInfo, dim: int, *, exact: bool, filtered: bool) -> models.SearchParams:
    """How to search a collection: exactly, or by its index, rescored with the full vectors where it is quantised.

    filtered: exactly up to a size, else with ACORN (see the embedded engine's), which a server knows from 1.16 on.
    """
    configured = info.config.quantization_config
    exact = exact or (filtered and exact_if_filtered(info.points_count or 0, dim, configured is not None))
    graph: dict[str, Any] = {"exact": exact}
    if filtered and not exact:
        graph |= {"hnsw_ef": EF_FILTERED, "acorn": models.AcornSearchParams(enable=True, max_selectivity=1.0)}
    if configured is None:
        return models.SearchParams(**graph)
    oversampling = next((v for k, v in _OVERSAMPLING.items() if hasattr(configured, k)), 2.0)
    return models.SearchParams(
        **graph,
        quantization=models.QuantizationSearchParams(
            ignore=exact, rescore=not exact, oversampling=None if exact else oversampling
        ),
    )


def _set_threshold(connection: Connection, collection: str, threshold: int, wait: float) -> None:
    diff = models.OptimizersConfigDiff(indexing_threshold=threshold)
    connection.call(lambda client: client.update_collection(collection, optimizers_config=diff), wait=wait)


def _quantisation(connection: Connection, wanted: str) -> Any:
    """The client's model of a quantisation; None for none."""
    if wanted == "int8":
        return models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
        )
    if wanted == "binary":
        return models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True))
    if wanted == "int4":
        if connection.version < _INT4_VERSION:
            major, minor = connection.version
            raise StoreError(
                f'{connection.location} runs Qdrant {major}.{minor}: quantisation = "int4" needs'
                f" {_INT4_VERSION[0]}.{_INT4_VERSION[1]}; use int8 or upgrade the server"
            )
        turbo = getattr(models, "TurboQuantization", None)
        if turbo is None:
            raise StoreError('quantisation = "int4" needs qdrant-client 1.18 or later: pip install -U qdrant-client')
        bits = models.TurboQuantBitSize.BITS4
        return turbo(turbo=models.TurboQuantQuantizationConfig(bits=bits, always_ram=True))
    return None


def wait_until_idle(
    status: Callable[[], models.CollectionStatus], looks: int, progress: OptimiseProgress | None
) -> bool:
    """Wait until the server's optimiser rests at so many looks in a row; whether it was seen at work."""
    started, quiet, worked = time.monotonic(), 0, False
    while quiet < looks:
        quiet = 0 if status() == models.CollectionStatus.YELLOW else quiet + 1
        worked = worked or quiet == 0
        if quiet < looks:
            time.sleep(0.2)
            if progress is not None:
                progress("indexing", time.monotonic() - started)
    return worked


T = TypeVar("T")
_PAGE = 1000
_OPERATIONS = 200

_INDEXES = {
    "str": models.PayloadSchemaType.KEYWORD,
    "int": models.PayloadSchemaType.INTEGER,
    "float": models.PayloadSchemaType.FLOAT,
    "bool": models.PayloadSchemaType.BOOL,
}


class Run(Protocol):
    """Carries out a method of QdrantClient, patiently."""

    def __call__(self, operation: Callable[..., T], /, *args: Any, **kwargs: Any) -> T: ...


def add_fields(run: Run, generation: Generation, changed: Mapping[str, str]) -> None:
    """Record new or widened fields, convert what is stored, and index them, before points with them arrive.

    The metadata come first and mark the fields as pending: the next writer after a crash in between finishes.
    """
    collection = generation.collection
    run(QdrantClient.update_collection, collection, metadata=field_metadata(changed, pending=True))
    _settle_stored(run, collection, changed, [name for name in changed if name in generation.fields])


def finish_fields(run: Run, generation: Generation) -> None:
    """Do what a writer that died on the way has left. Harmless while that writer is alive after all."""
    pending = {name: generation.fields[name] for name in generation.pending}
    if pending:
        _settle_stored(run, generation.collection, pending, list(pending))


def _settle_stored(run: Run, collection: str, types: Mapping[str, str], widened: list[str]) -> None:
    for name, kind in types.items():
        if name in widened:
            _convert_stored(run, collection, name, kind)
            run(QdrantClient.delete_payload_index, collection, json_path(name), wait=True)
        if name not in UNINDEXED:
            create = QdrantClient.create_payload_index
            run(create, collection, json_path(name), field_schema=_INDEXES[kind], wait=True)
    run(QdrantClient.update_collection, collection, metadata=field_metadata(types, pending=False))


def _convert_stored(run: Run, collection: str, name: str, kind: str) -> None:
    """Rewrite stored values of a field that are not of its type; a second run changes nothing."""
    path = json_path(name)
    present = models.Filter(must_not=[models.IsEmptyCondition(is_empty=models.PayloadField(key=path))])
    offset: Any = None
    while True:
        records, after = run(
            QdrantClient.scroll, collection, scroll_filter=present, limit=_PAGE, offset=offset, with_payload=[path]
        )
        # Only where the old value still stands: another writer may have replaced the point since we read it.
        operations: list[Any] = [
            models.SetPayloadOperation(
                set_payload=models.SetPayload(
                    payload={name: coerce(value, kind)},
                    filter=models.Filter(must=[models.HasIdCondition(has_id=ids), FILTERS.any_of(name, [value])]),
                )
            )
            for value, ids in misfits(records, name, kind)
        ]
        for part in chunks(operations, _OPERATIONS):
            run(QdrantClient.batch_update_points, collection, part, wait=True)
        if (offset := beyond(offset, after)) is None:
            return
