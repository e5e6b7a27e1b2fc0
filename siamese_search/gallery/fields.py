"""Fields of the payload, and what every engine checks and spells in the same way: vectors, point ids, field names.

A field has one type, so that a filter means the same for every point. When values of different types meet,
the field is widened, and values are stored in the wider type:

    int + float -> float        anything else mixed -> str (``True`` as ``true``, numbers as Python prints them),
                                also whole numbers that no float64 is exactly

Changes of fields are gathered, so that an engine is asked once for all points that change in the same way.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from siamese_search.errors import StoreError
from siamese_search.gallery.contract import Payload, Vectors
from siamese_search.gallery.filters import BOUNDS, INT_MAX, INT_MIN, Condition, Where, exact_ordering

T = TypeVar("T")

#: Points per call of an engine: large enough to be fast, small enough to let a waiting search in soon.
CHUNK = 1000

_CANONICAL_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

#: (Nearly) unique per point and never worth an index, of which an ingest holds all in memory until the gallery is
#: optimised (``size``: 16 MB per 100,000 points). A filter on them scans, which is 2 ms per 10,000 points.
UNINDEXED = frozenset({"key", "path", "crc", "mtime_ns", "size", "carried", "labelled"})

_TYPES = {str: "str", int: "int", float: "float", bool: "bool"}


def unit_rows(vectors: Any, dim: int, what: str = "vector") -> Vectors:
    """float32 [n, dim], C-contiguous, checked: the engine would store NaN, inf and zero rows silently.

    Raises ValueError naming the first bad row: wrong shape or type, not finite, or a length off 1 by over 1e-3.
    """
    rows = np.asarray(vectors)
    if rows.ndim != 2 or rows.shape[1] != dim:
        raise ValueError(f"{what}s must have the shape [n, {dim}], not {list(rows.shape)}")
    if rows.dtype.kind != "f":
        raise ValueError(f"{what}s must be floating point, not {rows.dtype}")
    rows = np.ascontiguousarray(rows, np.float32)
    # float64 sums: a float32 square overflows to inf for rows that are merely far too long.
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    good = np.abs(lengths - 1.0) <= 1e-3  # False for NaN
    if not good.all():
        row = int(np.argmin(good))
        if not np.isfinite(rows[row]).all():
            raise ValueError(f"{what} {row} is not finite (NaN or infinity)")
        raise ValueError(f"{what} {row} has length {lengths[row]:.6g}; it must be 1 (to 1e-3)")
    return rows


def chunks(items: Sequence[T], size: int = CHUNK) -> Iterator[Sequence[T]]:
    """The items in parts of at most ``size``, in order."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def beyond(offset: Any, after: Any) -> Any:
    """Where the next page of an engine begins. Raises StoreError where that is not after this one: it never ends."""
    if offset is not None and after is not None and str(after) <= str(offset):
        raise StoreError("the store gives the same points again and again: it is damaged")
    return after


@dataclass(frozen=True, slots=True)
class FilterMaker:
    """Checked conditions as an engine's filter, of the engine's own parts; each of a path, but for ``joined``.

    match: the field has one of these texts, whole numbers or truth values. within: it lies between the bounds ``lt``,
    ``lte``, ``gt``, ``gte``. joined: of ``must``, ``must_not``, ``should``.
    """

    match: Callable[[str, Sequence[Any]], Any]
    within: Callable[..., Any]
    absent: Callable[[str], Any]
    joined: Callable[..., Any]

    def filter_of(self, conditions: Where) -> Any:
        """The filter that means the same; None for no conditions."""
        parts: dict[str, list[Any]] = {"must": [], "must_not": []}
        for one in conditions:
            if one.operator in ("present", "absent"):
                parts["must" if one.operator == "absent" else "must_not"].append(self.absent(json_path(one.field)))
            elif one.operator in ("=", "!="):
                parts["must" if one.operator == "=" else "must_not"].append(self.any_of(one.field, one.values))
            else:
                parts["must"].append(self._ordered(one))
        return self.joined(**parts) if conditions else None

    def any_of(self, field: str, values: Sequence[Any]) -> Any:
        """The field has one of these values, which are of one type."""
        path = json_path(field)
        if not isinstance(values[0], float):
            return self.match(path, values)
        # Engines match only text, integers and truth values; a number is a range of one point.
        return self.joined(should=[self.within(path, gte=value, lte=value) for value in values])

    def _ordered(self, one: Condition) -> Any:
        ordering, numbers = exact_ordering(one)
        parts = [self.any_of(one.field, numbers)] if numbers else []
        if ordering is not None:
            bound = {BOUNDS[ordering.operator]: float(ordering.values[0])}
            parts.append(self.within(json_path(one.field), **bound))
        if not parts:  # no 64-bit number lies beyond the last one
            last = self.any_of(one.field, one.values)
            return self.joined(must=[last], must_not=[last])
        return self.joined(should=parts)


def most_frequent(counts: Mapping[Any, int], limit: int) -> dict[Any, int]:
    """The ``limit`` most frequent values, the smaller one first where two are as frequent."""
    return dict(sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:limit])


def misfits(records: Iterable[Any], name: str, kind: str) -> list[tuple[Any, list[Any]]]:
    """Of an engine's records: the values of a field that are not of its type, each with the points' ids."""
    groups: dict[tuple[type, object], list[Any]] = {}
    for record in records:
        value = (record.payload or {}).get(name)
        if type(value).__name__ != kind:
            groups.setdefault((type(value), value), []).append(record.id)
    return [(value, ids) for (_, value), ids in groups.items()]


def canonical_ids(ids: Sequence[str]) -> list[str]:
    """The ids as lower-case, hyphenated UUID text (whose order is the engine's). Raises ValueError."""
    return [one if _CANONICAL_ID.fullmatch(one) else _canonical(one) for one in ids]


def _canonical(one: str) -> str:
    try:
        return str(uuid.UUID(one))
    except (ValueError, AttributeError, TypeError):
        raise ValueError(f"{one!r} is not a point id: it must be a UUID") from None


def json_path(field: str) -> str:
    """The field as the engine's JSON path: quoted, so that ``a.b`` is a name and not a nested field."""
    return f'"{field}"'


def json_paths(fields: Sequence[str] | None) -> bool | list[str]:
    """What an engine is to give of payloads: these fields, all for ``None``; a name that cannot be is not there."""
    if fields is None:
        return True
    return [json_path(name) for name in fields if name and '"' not in name and "\\" not in name] or False


def coerce(value: Any, kind: str) -> Any:
    """A str, int, float or bool value as ``kind``: its own type, a wider one, or what a text reads as.

    Text that reads as nothing of this kind stays as it is.
    """
    if kind == "str":
        return str(value).lower() if type(value) is bool else str(value)
    if type(value) is str:
        return _read(value, kind)
    return float(value) if kind == "float" else value


def reads_as(texts: Iterable[str], kind: str) -> bool:
    """Whether all these texts are values of ``kind`` as :func:`coerce` writes them: nothing is lost by either way."""

    def written(text: str, kind: str) -> bool:
        value = _read(text, kind)
        return type(value).__name__ == kind and coerce(value, "str") == text

    return all(
        written(text, kind) or (kind == "float" and written(text, "int") and not _rounded(int(text))) for text in texts
    )


def _read(text: str, kind: str) -> Any:
    if kind == "bool":
        return {"true": True, "false": False}.get(text, text)
    try:
        value = int(text) if kind == "int" and len(text) <= 20 else float(text)
    except ValueError:
        return text
    return value if INT_MIN <= value <= INT_MAX or (kind == "float" and math.isfinite(value)) else text


def settle(
    payloads: Sequence[Mapping[str, Any]], known: Mapping[str, str], row_offset: int = 0
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Validated payloads with every value in its field's type, and the fields that are new or wider.

    None values are dropped; numpy scalars become Python's. Raises ValueError naming the row and the field for what
    cannot be stored: other types, NaN and infinities, integers beyond 64 bits, invalid Unicode, impossible names.
    """
    cleaned = [_clean(payload, row) for row, payload in enumerate(payloads, row_offset)]
    seen: dict[str, set[type]] = {}
    for payload in cleaned:
        for name, value in payload.items():
            seen.setdefault(name, set()).add(type(value))
    changed: dict[str, str] = {}
    for name, kinds in seen.items():
        found = {_TYPES[kind] for kind in kinds} | ({known[name]} if name in known else set())
        # Not a pairwise fold: bool + int + float must be str in any order.
        final = found.pop() if len(found) == 1 else "float" if found == {"int", "float"} else "str"
        if final == "float" and int in kinds and any(_rounded(payload.get(name)) for payload in cleaned):
            final = "str"
        if known.get(name) != final:
            if name not in known and not (isinstance(name, str) and name and json_paths([name]) and name.isprintable()):
                raise ValueError(
                    f"{name!r} cannot name a payload field: use printable text without quotes or backslashes"
                )
            changed[name] = final
        if any(_TYPES[kind] != final for kind in kinds):
            for payload in cleaned:
                if name in payload:
                    payload[name] = coerce(payload[name], final)
    return cleaned, changed


def same_payload(sent: Mapping[str, Any], stored: Mapping[str, Any], ignore: Collection[str] = ()) -> bool:
    """Whether ``stored`` is what ``sent`` becomes when it is stored: in a field widened to str, 1 is ``"1"``."""
    names = [name for name in sent if name not in ignore]
    return len(names) == sum(name not in ignore for name in stored) and all(
        (there := stored.get(name)) == sent[name] or (isinstance(there, str) and there == coerce(sent[name], "str"))
        for name in names
    )


def _rounded(value: Any) -> bool:
    """Whether a whole number would become another one as a float64."""
    return type(value) is int and float(value) != value


def _clean(payload: Mapping[str, Any], row: int) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in payload.items():
        if value is None:
            continue
        if type(value) not in _TYPES:
            value = _plain(value, name, row)
        if type(value) is str and not value.isascii():
            try:
                value.encode("utf-8")
            except UnicodeEncodeError:
                shown = f"row {row}: field {name!r} is not valid Unicode ({value[:80]!r})"
                raise ValueError(f"{shown}; encode file names with encode_key") from None
        elif type(value) is int and not INT_MIN <= value <= INT_MAX:
            raise ValueError(f"row {row}: field {name!r} is {value}, which does not fit 64 bits")
        elif type(value) is float and not math.isfinite(value):
            raise ValueError(f"row {row}: field {name!r} is {value}; leave it out instead")
        out[name] = value
    return out


def _plain(value: Any, name: str, row: int) -> Any:
    """A numpy scalar or a subclass of a plain type (an enum, np.str_) as the plain type itself."""
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "ndim", 0) == 0:
        value = item()
    for plain in (bool, int, float, str):
        if isinstance(value, plain):
            return plain(value)
    raise ValueError(
        f"row {row}: field {name!r} is a {type(value).__name__}; a payload holds str, int, float and bool only"
    )


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the points ``ids``: fields to write, in their settled types, and names to take away."""

    ids: list[str]
    written: dict[str, Any]
    removed: tuple[str, ...]


def one_per_id(ids: Sequence[str], payloads: Sequence[Payload]) -> dict[str, dict[str, Any]]:
    """Each id's change; of several for the same id, fields of a later one win.

    Raises ValueError where the numbers differ, and for ``crc``, which belongs to the vector.
    """
    if len(ids) != len(payloads):
        raise ValueError(f"{len(ids)} ids and {len(payloads)} payloads do not match")
    merged: dict[str, dict[str, Any]] = {}
    for row, (one, payload) in enumerate(zip(ids, payloads)):
        if "crc" in payload:
            raise ValueError(f"row {row}: 'crc' is the checksum of the vector and cannot be set")
        merged[one] = {**merged.get(one, {}), **payload}
    return merged


def gather(payloads: Mapping[str, Mapping[str, Any]], known: Mapping[str, str]) -> tuple[list[Change], dict[str, str]]:
    """The changes by id as few :class:`Change`, and the fields that are new or wider (see :func:`settle`).

    known: the gallery's fields. What takes away a field that nobody knows is left out. Raises ValueError as settle.
    """
    settled, changed = settle(list(payloads.values()), known)
    groups: dict[tuple[Any, ...], Change] = {}
    for (one, payload), written in zip(payloads.items(), settled):
        removed = tuple(sorted(name for name, value in payload.items() if value is None and name in known))
        # The type too: 1 and True are equal, and are not the same value.
        key = (tuple(sorted((name, type(v).__name__, v) for name, v in written.items())), removed)
        if key in groups:
            groups[key].ids.append(one)
        elif written or removed:
            groups[key] = Change([one], written, removed)
    return list(groups.values()), changed
