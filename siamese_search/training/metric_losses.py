"""Metric losses by name from pytorch-metric-learning: what a recipe may add to its own loss."""

from __future__ import annotations

import difflib
import inspect
from typing import Any, cast

from torch import Tensor, nn

from siamese_search.errors import MissingExtraError, UsageError

#: Between the names of several losses; a comma already separates the values of a sweep.
SEPARATOR = "+"

#: Losses that take embeddings and labels in name only: an abstract base, other arguments, other labels.
_OTHER_CONTRACT = {
    "BaseMetricLossFunction",
    "GenericPairLoss",
    "ManifoldLoss",
    "P2SGradLoss",
    "RankedListLoss",
    "VICRegLoss",
}


def metric_loss_names() -> list[str]:
    """The names that :func:`make_metric_losses` takes. Raises MissingExtraError without the library."""
    return sorted(_losses())


def make_metric_losses(names: str, classes: int, dim: int) -> nn.ModuleDict:
    """The losses of ``"ArcFaceLoss+MultiSimilarityLoss"``, with the library's defaults; none for ``""``.

    Each maps (embeddings float32 [n, dim], labels int64 [n] in 0 … classes-1) to a scalar. Those with proxies
    or class weights have parameters to train along. Raises UsageError for a name that there is not.
    """
    made = nn.ModuleDict()
    if not names:
        return made
    known = _losses()
    for name in names.split(SEPARATOR):
        kind = known.get(name.strip())
        if kind is None:
            close = difflib.get_close_matches(name.strip(), known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}? " if close else ""
            raise UsageError(
                f"--metric-loss: no loss {name.strip()!r} for embeddings and labels in pytorch-metric-learning; "
                f"{hint}there are {', '.join(sorted(known))}"
            )
        # Arguments are looked for in the whole ancestry: CosFaceLoss passes its own on as *args.
        wanted = {p for base in kind.__mro__ for p in inspect.signature(base.__init__).parameters}
        size = {"num_classes": classes, "embedding_size": dim}
        made[name.strip()] = kind(**{key: value for key, value in size.items() if key in wanted})
    return made


def metric_loss(losses: nn.ModuleDict, embeddings: Tensor, labels: Tensor) -> Tensor:
    """The sum of these losses; embeddings float32 [n, d], labels int64 [n]. ``losses`` must not be empty."""
    values = [cast(Tensor, loss(embeddings, labels)) for loss in losses.values()]
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def _losses() -> dict[str, Any]:
    try:
        from pytorch_metric_learning import losses
        from pytorch_metric_learning.losses.base_metric_loss_function import BaseMetricLossFunction
    except ImportError:
        raise MissingExtraError("--metric-loss", "torch") from None
    return {
        name: kind
        for name, kind in vars(losses).items()
        if inspect.isclass(kind) and issubclass(kind, BaseMetricLossFunction) and name not in _OTHER_CONTRACT
    }
