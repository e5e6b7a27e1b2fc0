"""Between our types and Qdrant Edge's: vectors, points, conditions, errors."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, cast

import qdrant_edge as edge

from siamese_search.errors import SiameseSearchError, StoreError
from siamese_search.gallery.contract import Vectors
from siamese_search.gallery.fields import FilterMaker
from siamese_search.gallery.storage import EF_CONSTRUCT, EF_FILTERED, EF_SEARCH, OVERSAMPLING, M, Storage

#: Larger than any segment, in kB: build nothing.
_NEVER = 2**40
#: Scoring several times as many candidates again, each read from its own place, takes longer than an exact search.
_MOST_RESCORED = 10_000

_BOOL_TEXT = {True: "true", False: "false"}

#: Cold: an optimised segment's payload indexes stay on disk, mapped, where a million points' would take 500 MB.
_COLD = edge.Memory.Cold
INDEXES: dict[str, Any] = {
    "str": edge.KeywordIndexParams(memory=_COLD),
    "int": edge.IntegerIndexParams(lookup=True, range=True, memory=_COLD),
    "float": edge.FloatIndexParams(memory=_COLD),
    "bool": edge.KeywordIndexParams(memory=_COLD),  # see encode_bools
}

#: Cached: mapped and read in when it is opened. (Pinned would copy it, and make the system forget the file.)
_QUANTISED: dict[str, Any] = {
    "none": None,
    "int8": edge.TurboQuantQuantizationConfig(bits=edge.TurboQuantBitSize.Bits8, memory=edge.Memory.Cached),
    "int4": edge.TurboQuantQuantizationConfig(bits=edge.TurboQuantBitSize.Bits4, memory=edge.Memory.Cached),
    "binary": edge.BinaryQuantizationConfig(memory=edge.Memory.Cached),
}


def shard_config(dim: int, storage: Storage, *, compact: bool = False, index: bool = False) -> edge.EdgeConfig:
    """The configuration of a shard. What ``optimize`` does with it:

    compact: make one read-only segment of all points, searched exactly. index: with an HNSW graph. Neither: nothing.
    """
    quantised = _QUANTISED[storage.quantisation]
    return edge.EdgeConfig(
        vectors=edge.EdgeVectorParams(
            size=dim,
            distance=edge.Distance.Dot,
            datatype=edge.VectorStorageDatatype.Float16 if storage.vectors == "float16" else None,
            quantization_config=quantised,
            # Beside a quantised copy the vectors are read for a few candidates only, and stay on disk.
            memory=None if quantised is None else edge.Memory.Cold,
        ),
        # Without edges there is no graph: the segment is read-only and searched from end to end.
        hnsw_config=edge.HnswIndexConfig(m=M if index else 0, ef_construct=EF_CONSTRUCT, full_scan_threshold=10_000),
        id_tracker_memory=edge.Memory.Cold,
        optimizers=edge.EdgeOptimizersConfig(
            default_segment_number=1, indexing_threshold=1 if compact or index else _NEVER
        ),
    )


def search_params(storage: Storage, k: int, *, exact: bool, filtered: bool) -> edge.SearchParams:
    """How to search for k points: exactly, or in the quantised copy (rescored) and the index where there are any.

    filtered: in a graph, neighbours of neighbours are looked at too (ACORN, L. Patel et al., SIGMOD 2024), and more
    candidates; without that a filter that one in three passes leaves a recall of 0.5.
    """
    oversampling = OVERSAMPLING.get(storage.quantisation)
    exact = exact or (oversampling is not None and k * oversampling > _MOST_RESCORED)
    return edge.SearchParams(
        exact=exact,
        hnsw_ef=None if exact else EF_FILTERED if filtered else EF_SEARCH,
        acorn=edge.AcornSearchParams(enable=True, max_selectivity=1.0) if filtered and not exact else None,
        quantization=None
        if oversampling is None
        else edge.QuantizationSearchParams(
            ignore=exact, rescore=not exact, oversampling=None if exact else oversampling
        ),
    )


def to_points(ids: Sequence[Any], rows: Iterable[Vectors], payloads: Sequence[Any]) -> list[edge.Point]:
    """Edge points. Rows go in as memoryviews: the binding reads those in 0.4 of an array's or a list's time."""
    point = cast(Any, edge.Point)
    return [point(i, memoryview(cast(Any, row)), payload) for i, row, payload in zip(ids, rows, payloads)]


def bool_fields(types: Mapping[str, str]) -> list[str]:
    return [name for name, kind in types.items() if kind == "bool"]


def encode_bools(payload: dict[str, Any], names: Sequence[str]) -> None:
    """Truth values as the engine stores them, in place: the texts ``true`` and ``false``.

    Edge 0.9's ``MatchValue(True)`` becomes a match with the integer 1, which no truth value meets.
    """
    for name in names:
        if name in payload:
            payload[name] = _BOOL_TEXT[payload[name]]


def decode_bools(payload: dict[str, Any] | None, names: Sequence[str]) -> dict[str, Any]:
    """The inverse of :func:`encode_bools`, in place; an absent payload becomes an empty one."""
    if payload is None:
        return {}
    for name in names:
        if name in payload:
            payload[name] = payload[name] == "true"
    return payload


def _match(path: str, values: Sequence[Any]) -> edge.FieldCondition:
    if isinstance(values[0], bool):
        values = [_BOOL_TEXT[value] for value in values]
    match = edge.MatchValue(values[0]) if len(values) == 1 else edge.MatchAny(list(values))
    return edge.FieldCondition(path, match=match)


FILTERS = FilterMaker(
    match=_match,
    within=lambda path, **bounds: edge.FieldCondition(path, range=edge.RangeFloat(**bounds)),
    absent=edge.IsEmptyCondition,
    joined=edge.Filter,
)


_stderr = threading.Lock()


@contextmanager
def panics_unprinted() -> Iterator[None]:
    """Keep off stderr what the engine prints before it panics: :func:`translated` makes one line of a panic.

    It prints to the descriptor itself. What else arrives there meanwhile, from other threads too, is passed on after.
    """
    with _stderr:
        try:
            stderr, aside = os.dup(2), os.memfd_create("stderr")
        except (OSError, AttributeError):  # closed, or another system than Linux
            yield
            return
        panicked = False
        os.dup2(aside, 2)
        try:
            yield
        except BaseException as error:
            panicked = _is_panic(error)
            raise
        finally:
            os.dup2(stderr, 2)
            printed = b"" if panicked else os.pread(aside, os.fstat(aside).st_size, 0)
            os.close(aside)
            os.close(stderr)
            with suppress(OSError):
                os.write(2, printed)


#: What the engine passes on of limits of the system, and what to say: its files are as sound as before.
_LIMITS = {
    "No space left on device": "its disk is full; what was committed is kept: free some space",
    "Cannot allocate memory": "there is not enough memory to open it: free some, or raise the limit (ulimit -v)",
    "Too many open files": "too many files are open: raise the limit (ulimit -n)",
    "File too large": "a file would be larger than allowed: raise the limit (ulimit -f)",
    "Resource temporarily unavailable": "too many threads run: end some, or raise the limit (ulimit -u)",
    "Permission denied": "you may not read or write all of its files: change their permissions",
}


@contextmanager
def translated(what: str, advice: str = "") -> Iterator[None]:
    """Turn the engine's bare ``Exception`` (and Rust panics, which are BaseException) into StoreError.

    Ours, ValueError (bad arguments), interrupts and memory errors pass through unchanged.
    """
    try:
        yield
    except (SiameseSearchError, ValueError, OSError, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        if type(error) is Exception or _is_panic(error):
            if (limit := next((said for sign, said in _LIMITS.items() if sign in str(error)), None)) is not None:
                raise StoreError(f"{what}: {limit}, then run the command again") from error
            text = str(error).removeprefix("Service runtime error: ").splitlines() or ["no reason given"]
            raise StoreError(f"{what}: the vector engine failed: {text[0][:240]}{advice}") from error
        raise


def _is_panic(error: BaseException) -> bool:
    return type(error).__name__ == "PanicException"
