"""A network of OpenVINO's format (``.xml`` and ``.bin``) in torch: on a GPU it answers a hundred times as often.

Only what the teacher is made of; anything else is an error that names it. tests/benchmarks/test_ir.py holds it to
OpenVINO's own answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

_TYPES = {"f32": np.float32, "f16": np.float16, "i64": np.int64, "i32": np.int32}
#: What an operation makes of its inputs; ``given`` are the attributes of its layer.
_Operation = Callable[..., Tensor]


def _pair(text: str) -> list[int]:
    return [int(one) for one in text.split(",")]


def _convolution(x: Tensor, weight: Tensor, given: dict[str, str]) -> Tensor:
    groups = 1
    if weight.ndim == 5:  # [groups, out, in, h, w]
        groups, weight = weight.shape[0], weight.flatten(0, 1)
    if given["pads_begin"] != given["pads_end"]:
        raise ValueError(f"a convolution padded by {given['pads_begin']} and {given['pads_end']}")
    return F.conv2d(
        x, weight, None, _pair(given["strides"]), _pair(given["pads_begin"]), _pair(given["dilations"]), groups
    )


def _normalised(x: Tensor, axes: Tensor, given: dict[str, str]) -> Tensor:
    over = axes.tolist()
    variance, mean = torch.var_mean(x, over, correction=0, keepdim=True)
    return (x - mean) * torch.rsqrt(variance + float(given["eps"]))


def _reshaped(x: Tensor, shape: Tensor, _given: dict[str, str]) -> Tensor:
    return x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(shape.tolist())])


def _gathered(x: Tensor, indices: Tensor, axis: Tensor, _given: dict[str, str]) -> Tensor:
    found = x.index_select(int(axis), indices.reshape(-1).to(x.device))
    return found if indices.ndim else found.squeeze(int(axis))


def _pooled(pool: Callable[..., Tensor]) -> _Operation:
    return lambda x, given: pool(x, _pair(given["kernel"]), _pair(given["strides"]), _pair(given["pads_begin"]))


_OPERATIONS: dict[str, _Operation] = {
    "Add": lambda x, y, _: x + y,
    "Subtract": lambda x, y, _: x - y,
    "Multiply": lambda x, y, _: x * y,
    "ReLU": lambda x, _: x.relu(),
    "PReLU": lambda x, slope, _: torch.where(x > 0, x, x * slope.reshape(-1)),
    "Sigmoid": lambda x, _: x.sigmoid(),
    "Convolution": _convolution,
    "GroupConvolution": _convolution,
    "MatMul": lambda x, y, given: x @ (y.T if given["transpose_b"] == "true" else y),
    "MaxPool": _pooled(F.max_pool2d),
    "AvgPool": _pooled(F.avg_pool2d),
    "ReduceMean": lambda x, axes, _: x.mean(axes.tolist(), keepdim=True),
    "MVN": _normalised,
    "Reshape": _reshaped,
    "ShapeOf": lambda x, _: torch.tensor(x.shape),
    "Gather": _gathered,
    "Concat": lambda *parts: torch.cat([part.reshape(-1) for part in parts[:-1]]),
}


class IRNetwork(nn.Module):
    """``path``: the .xml. outputs: names of layers whose results are given beside the network's own."""

    def __init__(self, path: Path | str, outputs: Sequence[str] = ()) -> None:
        super().__init__()
        root = ElementTree.parse(path).getroot()
        data = Path(path).with_suffix(".bin").read_bytes()
        layers = {layer.attrib["id"]: layer for layer in root.iterfind("layers/layer")}
        sources: dict[str, dict[int, str]] = {name: {} for name in layers}
        for edge in root.iterfind("edges/edge"):
            sources[edge.attrib["to-layer"]][int(edge.attrib["to-port"])] = edge.attrib["from-layer"]
        self._steps: list[tuple[str, _Operation, list[str], dict[str, str]]] = []
        self._wanted: list[str] = []
        self._shapes: dict[str, Tensor] = {}  # whole numbers stay on the CPU: they are shapes and axes
        for layer in map(layers.__getitem__, _ordered(sources)):
            number, kind, element = layer.attrib["id"], layer.attrib["type"], layer.find("data")
            given = {} if element is None else dict(element.attrib)
            before = [sources[number][port] for port in sorted(sources[number])]
            if kind == "Const":
                self._keep(number, _constant(given, data))
            elif kind == "Parameter":
                self._input = number
            elif kind == "Result":
                self._wanted.insert(0, before[0])
            elif kind == "Convert":  # of weights in half precision, which are float32 by now
                self._steps.append((number, lambda x, _: x, before, given))
            elif kind not in _OPERATIONS:
                raise ValueError(f"{path}: layer {layer.attrib['name']} is a {kind}, which is not known here")
            else:
                self._steps.append((number, _OPERATIONS[kind], before, given))
            if layer.attrib["name"] in outputs:
                self._wanted.append(number)

    def _keep(self, number: str, value: Tensor) -> None:
        if value.is_floating_point():
            self.register_buffer(f"c{number}", value.float(), persistent=False)
        else:
            self._shapes[number] = value

    def forward(self, images: Tensor) -> list[Tensor]:
        """The network's output and those that were asked for, in the order of the layers, of float32 [n, c, h, w]."""
        held: dict[str, Any] = {self._input: images, **self._shapes}
        held |= {name[1:]: value for name, value in self.named_buffers(recurse=False)}
        for number, operation, before, given in self._steps:
            held[number] = operation(*(held[one] for one in before), given)
        return [held[number] for number in self._wanted]


def _ordered(sources: dict[str, dict[int, str]]) -> list[str]:
    """The layers, each behind those that it needs."""
    from graphlib import TopologicalSorter

    return list(TopologicalSorter({name: set(ports.values()) for name, ports in sources.items()}).static_order())


def _constant(given: dict[str, str], data: bytes) -> Tensor:
    kind = np.dtype(_TYPES[given["element_type"]])
    count, offset = int(given["size"]) // kind.itemsize, int(given["offset"])
    shape = _pair(given["shape"]) if given["shape"] else []
    return torch.from_numpy(np.frombuffer(data, kind, count, offset).reshape(shape).copy())
