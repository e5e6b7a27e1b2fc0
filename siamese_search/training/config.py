"""Presets: every hyperparameter of a training run in one frozen dataclass; each field is an option."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Self

from siamese_search.errors import UsageError


def hyperparameter(default: Any, text: str) -> Any:
    """A field that is an option, with its help."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One training run. The defaults are the ``reid`` preset."""

    preset: str = hyperparameter("reid", "name of the recipe these values come from")

    # network
    backbone: str = hyperparameter(
        "efficientnet_b0", "any timm model name, or simple_cnn (then 100×100, 5-D)"
    )
    dim: int = hyperparameter(512, "embedding dimension")
    height: int = hyperparameter(256, "input height in pixels")
    width: int = hyperparameter(128, "input width in pixels")
    pool: Literal["avg", "gem"] = hyperparameter("avg", "pooling: average or generalised mean")
    neck: Literal["none", "bn"] = hyperparameter("bn", "batch-norm neck before the identity classifier")
    last_stride: Literal[1, 2] = hyperparameter(
        2, "stride of the last down-sampling; 1 doubles the final map and the cost"
    )
    instance_mix: float = hyperparameter(
        0.0,
        "share of each image's own statistics in the normalisations of the stem and the first stage;"
        " for other cameras; 0 keeps what the initial weights have",
    )

    # batches
    batches: Literal["pk", "apn", "pairs"] = hyperparameter(
        "pk", "P×K identities, anchor-positive-negative triplets, or pairs with the contrastive loss"
    )
    batch_size: int = hyperparameter(64, "images per P×K batch, or triplets, or pairs")
    images_per_identity: int = hyperparameter(4, "K of P×K")
    epochs: int = hyperparameter(60, "passes over the training images")
    sizes: str = hyperparameter(
        "",
        "smaller sizes to begin at, with their epochs, as in 128x64:20+192x96:2; the other epochs are at full size",
    )

    # losses
    margin: float = hyperparameter(0.3, "margin of the triplet or contrastive loss, in Euclidean distance")
    soft_margin: bool = hyperparameter(False, "softplus instead of a hinge in the batch-hard triplet loss")
    unit_triplets: bool = hyperparameter(False, "triplet or pair distances between L2-normalised embeddings")
    triplet_weight: float = hyperparameter(1.0, "weight of the triplet or contrastive loss")
    identity_weight: float = hyperparameter(
        1.0, "weight of the identity classification loss; 0 switches it off"
    )
    label_smoothing: float = hyperparameter(0.1, "label smoothing of the identity loss")
    metric_loss: str = hyperparameter(
        "", "more losses, by their names in pytorch-metric-learning: MultiSimilarityLoss+CircleLoss"
    )
    metric_weight: float = hyperparameter(1.0, "weight of the losses of --metric-loss")
    teacher_weight: float = hyperparameter(
        10.0, "weight of the cosine regression onto the teacher's embedding"
    )
    similarity_weight: float = hyperparameter(
        10.0, "weight of matching the teacher's in-batch similarity matrix"
    )
    teacher_views: int = hyperparameter(
        0,
        "augmented views of each image that the teacher is asked about too; they and the plain image take turns",
    )

    view_mix: float = hyperparameter(
        0.0,
        "share of the images of a view whose lower part is another's: people whom only the teacher knows;"
        " without losses of identities",
    )

    # optimisation
    optimizer: Literal["adam", "adamw"] = hyperparameter("adamw", "optimiser")
    lr: float = hyperparameter(1e-3, "peak learning rate")
    weight_decay: float = hyperparameter(0.02, "weight decay (adamw: decoupled)")
    schedule: Literal["constant", "cosine"] = hyperparameter(
        "cosine", "learning-rate schedule after the warm-up"
    )
    warmup_epochs: float = hyperparameter(2.0, "epochs of linear warm-up")
    restart: float = hyperparameter(
        0.4, "peak learning rate of every size of --sizes after the first, as a share of --lr"
    )
    probe_epochs: int = hyperparameter(
        20,
        "passes that fit new heads to the embeddings of --init BUNDLE before training goes on; 0: none",
    )
    freeze: int = hyperparameter(
        0, "stages at the beginning of the backbone that are not trained; the stem is the first"
    )
    grad_clip: float = hyperparameter(5.0, "largest gradient norm; 0 switches clipping off")

    ema: float = hyperparameter(
        0.999, "decay of the moving average of the weights that is validated and kept, warmed up; 0: none"
    )

    # augmentation
    flip: float = hyperparameter(0.5, "probability of a horizontal flip")
    crop: float = hyperparameter(0.06, "random crop after padding by this share of the height")
    erase: float = hyperparameter(0.5, "probability of random erasing")
    jitter: float = hyperparameter(0.2, "strength of brightness, contrast and saturation jitter")
    zoom: float = hyperparameter(
        0.0, "tighter and wider boxes: height and width scaled by up to 1 + this share"
    )
    tint: float = hyperparameter(0.0, "strength of the change of each colour channel, as of another camera")
    grey: float = hyperparameter(
        0.0, "probability of losing the colour of a rectangle or, a third of them, of the image"
    )
    blur: float = hyperparameter(0.0, "probability of half the resolution")
    detail: float = hyperparameter(0.0, "fine detail up to so many octaves stronger, or half as many weaker")
    mixstyle: float = hyperparameter(
        0.0, "share of batches whose early feature maps exchange their statistics (MixStyle)"
    )

    # the run
    seed: int = hyperparameter(0, "seed of everything random")
    keep: Literal["last", "best"] = hyperparameter(
        "last", "which weights become the bundle; best is chosen on the held-out identities"
    )
    validate_every: int = hyperparameter(1, "epochs between validations; 0 only at the end")
    checkpoint_minutes: float = hyperparameter(5.0, "minutes between checkpoints inside an epoch")

    def with_options(self, **changes: Any) -> Self:
        """A copy with these fields changed, checked. Raises UsageError naming the option.

        Another backbone brings its own size along (``BACKBONE_DEFAULTS``) where none is asked for.
        """
        given = {name: value for name, value in changes.items() if value is not None}
        backbone = given.get("backbone", self.backbone)
        usual = BACKBONE_DEFAULTS.get(backbone, {}) if backbone != self.backbone else {}
        config = replace(self, **{**usual, **given})
        config.check()
        return config

    def check(self) -> None:
        """Raise UsageError for a value that cannot work."""
        at_least = {
            "dim": 2, "height": 8, "width": 8, "batch_size": 2, "images_per_identity": 2, "epochs": 1,
            "margin": 0, "triplet_weight": 0, "identity_weight": 0, "label_smoothing": 0, "metric_weight": 0,
            "teacher_weight": 0, "similarity_weight": 0, "weight_decay": 0, "warmup_epochs": 0, "grad_clip": 0,
            "freeze": 0, "restart": 0, "probe_epochs": 0, "flip": 0, "crop": 0, "erase": 0, "jitter": 0, "ema": 0,
            "zoom": 0, "tint": 0, "grey": 0, "blur": 0, "detail": 0, "mixstyle": 0, "teacher_views": 0, "view_mix": 0,
            "instance_mix": 0,
            "validate_every": 0, "checkpoint_minutes": 0, "seed": 0,
        }  # fmt: skip
        at_most = {
            "restart": 1,
            "flip": 1,
            "erase": 1,
            "crop": 0.5,
            "jitter": 0.9,
            "zoom": 1,
            "tint": 0.9,
            "grey": 1,
            "blur": 1,
            "detail": 4,
            "mixstyle": 1,
            "teacher_views": 64,
            "view_mix": 1,
            "instance_mix": 1,
            "label_smoothing": 0.9,
            "dim": 65_536,
            "ema": 0.99999,
        }
        for name, low in at_least.items():
            if not getattr(self, name) >= low:  # also catches NaN
                raise UsageError(f"{_flag(name)}: {getattr(self, name)} is too small, the least is {low}")
        for name, high in at_most.items():
            if not getattr(self, name) <= high:
                raise UsageError(f"{_flag(name)}: {getattr(self, name)} is too large, the most is {high}")
        labelled = [
            name
            for name, weight in (
                ("--triplet-weight", self.triplet_weight),
                ("--identity-weight", self.identity_weight),
                ("--metric-weight", self.metric_weight if self.metric_loss else 0),
            )
            if weight
        ]
        if self.view_mix and labelled:
            raise UsageError(
                f"--view-mix: two people in one have no label, set {' and '.join(labelled)} to 0"
            )
        if not 0 < self.lr < 10:
            raise UsageError(f"--lr: {self.lr} is not a learning rate (0 < lr < 10)")
        if self.batches == "pk" and self.batch_size < 2 * self.images_per_identity:
            raise UsageError(
                f"--batch-size: {self.batch_size} holds fewer than 2 identities of "
                f"{self.images_per_identity} images (--images-per-identity)"
            )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


#: Input size and dimension that belong to a backbone rather than to a recipe.
BACKBONE_DEFAULTS: dict[str, dict[str, int]] = {"simple_cnn": {"height": 100, "width": 100, "dim": 5}}

#: The classic recipe: anchor-positive-negative triplets, plain triplet margin loss, no augmentation.
APN = TrainConfig(
    preset="apn", height=128, width=64, neck="none", batches="apn", batch_size=32, epochs=15, margin=1.0,
    unit_triplets=True, identity_weight=0.0, teacher_weight=0.0, similarity_weight=0.0, optimizer="adam", lr=1e-3,
    weight_decay=0.0, schedule="constant", warmup_epochs=0.0, grad_clip=0.0, ema=0.0, flip=0.0, crop=0.0, erase=0.0,
    jitter=0.0,
)  # fmt: skip

#: The other classic: pairs and the contrastive loss; small with ``--backbone simple_cnn``.
CONTRASTIVE = APN.with_options(
    preset="contrastive", batches="pairs", epochs=30, margin=2.0, unit_triplets=False, schedule="cosine",
    warmup_epochs=1.0,
)  # fmt: skip

#: The modern baseline: P×K batches, batch-hard triplets and identities behind a BNNeck.
REID = TrainConfig()

#: The same for a machine without a GPU: from ImageNet's weights, six epochs at half the size and two at the full one,
#: with augmentation for other cameras than those of the training (docs/recipe.md). So few epochs at the full size would
#: keep too old an average of the weights at 0.999.
REID_CPU = REID.with_options(
    preset="reid-cpu", epochs=8, sizes="128x64:6", warmup_epochs=0.3, lr=4e-4, ema=0.995, similarity_weight=40.0,
    jitter=0.3, tint=0.15, zoom=0.15, grey=0.2, blur=0.15, mixstyle=0.5,
)  # fmt: skip

PRESETS: dict[str, TrainConfig] = {"reid": REID, "reid-cpu": REID_CPU, "apn": APN, "contrastive": CONTRASTIVE}


def preset(name: str) -> TrainConfig:
    """The preset of this name; raises UsageError that lists them."""
    if name not in PRESETS:
        raise UsageError(f"unknown preset {name!r}: use one of {', '.join(PRESETS)}")
    return PRESETS[name]


def option_fields(cls: type[TrainConfig] = TrainConfig) -> list[tuple[str, Any, str]]:
    """(name, default of ``reid``, help) of every field that is an option, in order."""
    return [(f.name, f.default, str(f.metadata["help"])) for f in fields(cls) if f.name != "preset"]
