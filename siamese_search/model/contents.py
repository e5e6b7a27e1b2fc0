"""What the files of a bundle hold, read without the libraries that run them: a bundle may come from a stranger.

The fingerprint of the weights, and whether an ONNX graph wants other files than itself.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any

#: torch's names of safetensors' types.
_DTYPES = {
    **{
        "F64": "float64",
        "F32": "float32",
        "F16": "float16",
        "BF16": "bfloat16",
        "BOOL": "bool",
        "U8": "uint8",
    },
    **{"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8"},
}

#: Of ONNX's protocol buffers: field by field, the message that is in it. Only these can hold a tensor.
_MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14


def weights_fingerprint(data: bytes, network: Mapping[str, Any]) -> str:
    """What :func:`siamese_search.model.weights_file.fingerprint_of` says of these safetensors, without torch.

    network: the description in model.json. Raises ValueError for what is no such file.
    """
    try:
        start = 8 + struct.unpack_from("<Q", data)[0]
        header = json.loads(data[8:start])
        digest = hashlib.sha256(json.dumps(network, sort_keys=True).encode())
        for name in sorted(header.keys() - {"__metadata__"}):
            one = header[name]
            begin, end = one["data_offsets"]
            digest.update(f"{name} torch.{_DTYPES[one['dtype']]} {tuple(one['shape'])}\n".encode())
            digest.update(memoryview(data)[start + begin : start + end])
    except (struct.error, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("not a file of safetensors") from error
    return digest.hexdigest()


def wants_other_files(model: bytes) -> bool:
    """Whether a tensor of an ONNX model lies in another file. Raises ValueError for what is no protocol buffer."""
    waiting: list[tuple[str, memoryview]] = [("model", memoryview(model))]
    while waiting:
        kind, content = waiting.pop()
        inner = _MESSAGES[kind]
        for field, value in _fields(content):
            if kind == "tensor" and (field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value == 1)):
                return True
            if field in inner and isinstance(value, memoryview):
                waiting.append((inner[field], value))
    return False


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
            raise ValueError("no protocol buffer")
        if at + size > len(content):
            raise ValueError("a protocol buffer that ends early")
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
    raise ValueError("no protocol buffer")
