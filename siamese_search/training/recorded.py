"""The network's forward and backward pass as CUDA graphs: replayed, not launched kernel by kernel.

A recorded graph has one shape and one place in memory, so what changes from step to step (the images, whose styles are
mixed) is copied there before each replay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from siamese_search.model.network import APNNetwork
from siamese_search.training.mixstyle import mixers
from siamese_search.training.pixels import moved

#: False launches every kernel by itself, as where nothing can be recorded.
RECORD = True
#: Shapes of batches that are recorded; each holds the memory of a whole step.
_MOST_SHAPES = 3

Forward = Callable[[Tensor], tuple[Tensor, Tensor]]


class Passes:
    """(features, necked) of a batch in training mode, in bf16 on CUDA; recorded there where ``record`` says so.

    The same random numbers as without recording: MixStyle's are drawn by :meth:`__call__` in the order of its stages.
    """

    def __init__(self, network: APNNetwork, device: torch.device, *, record: bool) -> None:
        self._network = network
        self._half = device.type == "cuda"
        self._device = device
        self._record = record and RECORD
        self._recorded: dict[tuple[int, ...], Forward | None] = {}
        self._mixers = mixers(network.backbone)
        self._given: dict[int, list[tuple[Tensor, Tensor]]] = {}  # by the size of a batch

    def __call__(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        shape = tuple(inputs.shape)
        if self._record and shape not in self._recorded and len(self._recorded) < _MOST_SHAPES:
            self._recorded[shape] = self._recording(inputs)
        run = self._recorded.get(shape)
        if run is None:
            with self._autocast():
                features, necked = self._network(inputs)
            return features, necked
        for mixer, (partner, share) in zip(self._mixers, self._given[len(inputs)], strict=True):
            drawn = mixer.draw(len(inputs)) or (torch.arange(len(inputs)), torch.ones(len(inputs)))
            partner.copy_(moved(drawn[0], self._device))
            share.copy_(moved(drawn[1], self._device))
        return run(inputs)

    def _autocast(self) -> Any:
        return torch.autocast(
            self._device.type, torch.bfloat16, enabled=self._half, cache_enabled=not self._record
        )

    def _recording(self, inputs: Tensor) -> Forward | None:
        """The passes of a batch of this shape; None where they cannot be recorded. The network stays as it is."""
        network, n = self._network, len(inputs)
        buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
        given = self._given.setdefault(
            n,
            [
                (torch.arange(n, device=self._device), torch.ones(n, device=self._device))
                for _ in self._mixers
            ],
        )
        for mixer, pair in zip(self._mixers, given, strict=True):
            mixer.given = pair
        try:
            with self._autocast(), torch.backends.cudnn.flags(enabled=True, benchmark=True):
                return record(_Whole(network), inputs.detach().clone())
        except (RuntimeError, AssertionError):
            if self._half:
                torch.cuda.synchronize(self._device)
            return None
        finally:
            for mixer in self._mixers:
                mixer.given = None  # only the recording reads it
            with torch.no_grad():  # the runs before the recording have moved the statistics
                for name, buffer in network.named_buffers():
                    buffer.copy_(buffers[name])


class _Whole(nn.Module):
    """Holds the network, so that what is recorded does not take the place of the network's own ``forward``."""

    def __init__(self, network: APNNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        features, necked = self.network(inputs)
        return features, necked


def record(module: nn.Module, inputs: Tensor) -> Forward:
    """Forward and backward of ``module`` for inputs of this shape as CUDA graphs."""
    recorded: Forward = torch.cuda.make_graphed_callables(module, (inputs,))  # type: ignore[assignment]
    return recorded
