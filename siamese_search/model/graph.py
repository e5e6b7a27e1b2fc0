"""A bundle's ONNX graph as bytes, read and completed without the onnx package: search does not need it.

The weights of a network are in its bundle once, in ``model.safetensors``. The graph names them: a convolution's kernel
is that of the network, or that with the normalisation behind it multiplied in.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

#: Of ONNX's protocol buffers: field by field, the message that is in it. Only these can hold a tensor, or more code.
_MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "code", 25: "code"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "code", 10: "tensor", 11: "code", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14

#: Of the messages that are written here: ModelProto.graph, GraphProto.initializer; dims, data_type, name and raw_data
#: of TensorProto, whose type 1 is float32.
_GRAPH, _INITIALISER = 7, 5
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA, _FLOAT = 1, 2, 8, 9, 1

#: safetensors' names of the types that hold weights.
_WEIGHTS = {"F16": "<f2", "F32": "<f4"}


def tensors(data: bytes) -> Iterator[tuple[str, str, tuple[int, ...], memoryview]]:
    """Name, type, shape and bytes of each tensor of a file of safetensors, by name.

    Raises ValueError for what is no such file, or where together they are more than there is: their bytes overlap.
    """
    try:
        start = 8 + struct.unpack_from("<Q", data)[0]
        header = json.loads(data[8:start])
        named = sorted(header.keys() - {"__metadata__"})
        spans = [(int(begin), int(end)) for begin, end in (header[name]["data_offsets"] for name in named)]
        if sum(end - begin for begin, end in spans) > len(data) or min(map(min, spans), default=0) < 0:
            raise ValueError("tensors that overlap")
        for name, (begin, end) in zip(named, spans, strict=True):
            one = header[name]
            yield name, str(one["dtype"]), tuple(one["shape"]), memoryview(data)[start + begin : start + end]
    except (struct.error, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError("not a file of safetensors") from error


def read_weights(data: bytes) -> dict[str, Floats]:
    """The tensors of floats of a file of safetensors, by name. Raises ValueError for what is no such file."""
    return {
        name: np.frombuffer(content, _WEIGHTS[dtype]).astype(np.float32).reshape(shape)
        for name, dtype, shape, content in tensors(data)
        if dtype in _WEIGHTS
    }


def kernel(state: Mapping[str, Floats], name: str, norm: str | None = None, eps: float = 0.0) -> Floats:
    """A tensor of a network, float32 [out, …]; with ``norm``, that normalisation multiplied in.

    state: as :func:`read_weights` gives it. eps: what the normalisation adds to its variances. Raises KeyError, and
    ValueError where the two do not fit.
    """
    values = state[name]
    if norm is None:
        return values
    scale = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + np.float32(eps))
    if scale.shape != values.shape[:1]:
        raise ValueError(f"{len(values)} channels of {name[:80]!r}, and another number of its normalisation")
    return np.asarray(values * scale.reshape(-1, *(1,) * (values.ndim - 1)), np.float32)


def completed(model: bytes, weights: Mapping[str, list[Any]], state: Mapping[str, Floats]) -> bytes:
    """An ONNX model with the initialisers that it lacks.

    weights: by the name of each initialiser, what :func:`kernel` makes it of. A message that follows another of its
    kind is merged into it, so what is missing is only appended. Raises ValueError where ``state`` does not have it, or
    is asked for more than twice what it has.
    """
    parts: list[bytes | memoryview] = []
    room = 2 * sum(values.nbytes for values in state.values())
    try:
        with np.errstate(all="ignore"):  # of a stranger's normalisation
            for name, origin in sorted(weights.items()):
                parts += _tensor(name, kernel(state, *origin))
                room -= len(parts[-1])
                if room < 0:
                    raise ValueError("its graph names the same weights again and again")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its weights are not those of the graph ({str(error)[:80]})") from None
    return b"".join([model, _start(_GRAPH, sum(map(len, parts))), *parts])


def _tensor(name: str, values: Floats) -> list[bytes | memoryview]:
    """An initialiser of a graph in parts, whose last one are the values where they lie."""
    raw = np.ascontiguousarray(values, "<f4").data.cast("B")
    said = name.encode()
    head = b"".join([
        *(_bits(_DIMS << 3) + _bits(size) for size in values.shape),
        _bits(_DATA_TYPE << 3) + _bits(_FLOAT),
        _start(_NAME, len(said)) + said,
        _start(_RAW_DATA, len(raw)),
    ])  # fmt: skip
    return [_start(_INITIALISER, len(head) + len(raw)) + head, raw]


def _start(number: int, size: int) -> bytes:
    """What comes before so many bytes of a field."""
    return _bits(number << 3 | 2) + _bits(size)


def _bits(value: int) -> bytes:
    """A varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def check_graph(model: bytes) -> None:
    """Raise ValueError for what is no ONNX model, and for one that no bundle needs.

    Its weights in another file may be any file. A loop may never end, and functions grow when they are written out.
    """
    waiting: list[tuple[str, memoryview]] = [("model", memoryview(model))]
    while waiting:
        kind, content = waiting.pop()
        inner = _MESSAGES[kind]
        for field, value in _fields(content):
            if kind == "tensor" and (field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value == 1)):
                raise ValueError("its weights lie in another file, of which nothing was read")
            if inner.get(field) == "code":
                raise ValueError("it has loops, branches or functions, as no bundle has")
            if field in inner and isinstance(value, memoryview):
                waiting.append((inner[field], value))


def _fields(content: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """The fields of a message: number and bytes, or number and value of a varint."""
    at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        field, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(content, at)
            yield field, value
            continue
        size = 8 if wire == 1 else 4
        if wire == 2:
            size, at = _varint(content, at)
        elif wire not in (1, 5):
            raise ValueError("not an ONNX model")
        if at + size > len(content):
            raise ValueError("an ONNX model that ends early")
        yield field, content[at : at + size]
        at += size


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            break
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("not an ONNX model")
