"""Every hyperparameter of ``sss adapt``: those of a training that still mean something, and those of its clusters."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from siamese_search.training.config import TrainConfig, hyperparameter
from siamese_search.training.options import network_of

#: Of a training with labels; here the clusters and the memory decide.
_UNUSED = frozenset({
    "preset", "batches", "sizes", "margin", "soft_margin", "unit_triplets", "triplet_weight", "identity_weight",
    "label_smoothing", "metric_loss", "metric_weight", "teacher_weight", "similarity_weight", "teacher_views",
    "restart", "probe_epochs", "keep", "validate_every",
})  # fmt: skip


#: What the network is: where nothing else is asked for, as the model that is adapted.
SPEC = ("backbone", "dim", "height", "width", "pool", "neck", "last_stride", "instance_mix")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptConfig(TrainConfig):
    """One adaptation; its usual values are :data:`ADAPT`."""

    statistics: bool = hyperparameter(
        True, "begin with the statistics of these images in the normalisations; --epochs 0 ends there"
    )
    iters: int = hyperparameter(0, "batches of an epoch; 0: as many as the images make", 0, 10**9)
    neighbours: int = hyperparameter(12, "about as many images as an identity has", 1, 10_000)
    least: float = hyperparameter(
        0.2, "least mean k-reciprocal similarity of two clusters that are merged; higher is more clusters", 1e-6, 1
    )
    centre: bool = hyperparameter(
        True, "take the mean embedding of its camera from each image, before clustering and in the finished model"
    )
    temperature: float = hyperparameter(0.05, "temperature of the contrast with the memory", 1e-3, 10)
    momentum: float = hyperparameter(0.1, "share of a cluster's memory that an update keeps", 0, 1)
    update: Literal["hardest", "random"] = hyperparameter(
        "hardest", "which image of a batch updates its cluster's memory"
    )
    settle: float = hyperparameter(
        0.97, "agreement of two epochs' clusters (adjusted Rand index) at which to stop; 1: never before --epochs", 0, 1
    )

    def check(self) -> None:
        TrainConfig.check(replace(self, epochs=1) if self.epochs == 0 else self)


#: Not cosine to the end for its own sake: clusters settle as the learning rate falls, and then the run stops.
ADAPT = AdaptConfig(
    preset="adapt", epochs=20, triplet_weight=0.0, identity_weight=0.0, warmup_epochs=1.0, lr=2e-4, ema=0.99, freeze=3,
    validate_every=0,
)  # fmt: skip


def option_names() -> list[str]:
    """The fields that are options of ``sss adapt``, its own first."""
    names = [one.name for one in fields(AdaptConfig) if one.name not in _UNUSED]
    inherited = {one.name for one in fields(TrainConfig)}
    return sorted(names, key=lambda name: name in inherited)


def configured(init: str, **hyperparameters: Any) -> AdaptConfig:
    """The configuration for these weights: what is not given is that of the bundle. Raises BundleError, UsageError."""
    network = network_of(init)
    own = {name: network[name] for name in SPEC if name in network}
    given = {name: value for name, value in hyperparameters.items() if value is not None}
    return ADAPT.with_options(**{**own, **given})
