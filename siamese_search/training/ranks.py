"""Several processes that train one network (``torchrun``): who is who, and what they agree on after every batch.

Each takes its own batches of the same epoch. After each batch gradients and batch-norm statistics are averaged, so that
all hold the same bits and the first one's checkpoint is the whole state.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from siamese_search.errors import DataError, UsageError

T = TypeVar("T")

#: The first process validates and exports while the others wait; PyTorch's usual limit is 10 minutes.
_PATIENCE = timedelta(hours=2)


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that train together; all methods but ``shard`` wait for the others.

    rank: 0 … world-1; the first writes files and prints. local: the same on this machine.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    local_world: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def shard(self, batches: Iterable[T], steps: int) -> Iterator[T]:
        """This process's batches: every ``world``-th of the epoch, as many as everybody gets.

        steps: batches of the whole epoch; up to world-1 at its end are left out.
        """
        return islice(batches, self.rank, steps - steps % self.world, self.world)

    def steps(self, steps: int) -> int:
        """How many batches :meth:`shard` yields. Raises DataError where there is not one for everybody."""
        if steps < self.world:
            raise DataError(
                f"an epoch has {steps} batches for {self.world} processes: lower --batch-size or start fewer"
            )
        return steps // self.world

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes, float32 [n]; the same bits everywhere."""
        if self.world == 1:
            return values
        total = values.clone()
        distributed.all_reduce(total)
        return total / self.world

    def any(self, flag: bool) -> bool:
        """True everywhere when it is true anywhere."""
        return flag if self.world == 1 else bool(self.mean(torch.tensor([float(flag)])).item() > 0)

    def average(self, parameters: Iterable[nn.Parameter], module: nn.Module) -> None:
        """Average gradients and floating-point buffers (batch-norm statistics) in one message, in place."""
        if self.world == 1:
            return
        tensors = [p.grad for p in parameters if p.grad is not None]
        tensors += [buffer for buffer in module.buffers() if buffer.is_floating_point()]
        mean = self.mean(torch.cat([tensor.reshape(-1) for tensor in tensors]))
        with torch.no_grad():
            for tensor, part in zip(tensors, torch.split(mean, [t.numel() for t in tensors]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def agree(self, value: T) -> T:
        """The first process's ``value``, JSON-like, in every process."""
        if self.world == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.world > 1:
            distributed.barrier()


SINGLE = Ranks()


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Join the other processes of a ``torchrun``; alone where there are none.

    device: ``cpu`` (gloo) or ``cuda…`` (NCCL). Raises UsageError for a ``torchrun`` that cannot work.
    """
    ranks, cuda = _from_environment(), device.startswith("cuda")
    if ranks.world == 1:
        yield ranks
        return
    if cuda:
        if ranks.local >= torch.cuda.device_count():
            raise UsageError(
                f"{ranks.local_world} processes on a machine with {torch.cuda.device_count()} GPUs: "
                "give torchrun --nproc-per-node no more than that, or use --device cpu"
            )
        torch.cuda.set_device(ranks.local)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=_PATIENCE)
    try:
        yield ranks
    finally:
        distributed.destroy_process_group()


def _from_environment() -> Ranks:
    """What torchrun says. Raises UsageError where its variables are no numbers."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return SINGLE
    try:
        return Ranks(*(int(os.environ.get(name, default)) for name, default in zip(names, "0101", strict=True)))
    except ValueError:
        raise UsageError(f"{', '.join(names)} must be whole numbers: start with torchrun, or unset them") from None
