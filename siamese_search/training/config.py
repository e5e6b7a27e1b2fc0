"""Presets: every hyperparameter of a run in a frozen dataclass; each field is an option. And the stages of a training.

Training small first and finishing large (progressive resizing) is one schedule (Touvron et al., "Fixing the train-test
resolution discrepancy", 2019): most is learned at half the size, at a quarter of the cost.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from siamese_search.errors import UsageError, amount, printable


def hyperparameter(default: Any, text: str, low: float | None = None, high: float | None = None) -> Any:
    """A field that is an option, with its help and its bounds, both of them allowed."""
    return field(default=default, metadata={"help": text, "within": (low, high)})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One training run. The defaults are the ``reid`` preset."""

    preset: str = hyperparameter("reid", "name of the recipe these values come from")

    # network
    backbone: str = hyperparameter("efficientnet_b0", "any timm model name, or simple_cnn (then 100×100, 5-D)")
    dim: int = hyperparameter(512, "embedding dimension", 2, 65_536)
    height: int = hyperparameter(256, "input height in pixels", 8)
    width: int = hyperparameter(128, "input width in pixels", 8)
    enlarge: int = hyperparameter(
        1, "times that the network enlarges its input: 2 sees 128x64 at 256x128, for images of no finer detail", 1, 8
    )
    pool: Literal["avg", "gem"] = hyperparameter("avg", "pooling: average or generalised mean")
    neck: Literal["none", "bn"] = hyperparameter("bn", "batch-norm neck before the identity classifier")
    last_stride: Literal[1, 2] = hyperparameter(
        2, "stride of the last down-sampling; 1 doubles the final map and the cost"
    )
    instance_mix: float = hyperparameter(
        0.0,
        "share of each image's own statistics in the normalisations of the stem and the first stage;"
        " for other cameras; 0 keeps what the initial weights have",
        0,
        1,
    )
    instance_mix_later: float = hyperparameter(
        0.0, "the same share in the last normalisation of each later block", 0, 1
    )

    # batches
    batches: Literal["pk", "apn", "pairs"] = hyperparameter(
        "pk", "P×K identities, anchor-positive-negative triplets, or pairs with the contrastive loss"
    )
    batch_size: int = hyperparameter(64, "images per P×K batch, or triplets, or pairs", 2)
    images_per_identity: int = hyperparameter(4, "K of P×K", 2)
    epochs: int = hyperparameter(60, "passes over the training images", 1)
    sizes: str = hyperparameter(
        "", "smaller sizes to begin at, with their epochs, as in 128x64:20+192x96:2; the other epochs are at full size"
    )

    # losses
    margin: float = hyperparameter(0.3, "margin of the triplet or contrastive loss, in Euclidean distance", 0)
    soft_margin: bool = hyperparameter(False, "softplus instead of a hinge in the batch-hard triplet loss")
    unit_triplets: bool = hyperparameter(False, "triplet or pair distances between L2-normalised embeddings")
    triplet_weight: float = hyperparameter(1.0, "weight of the triplet or contrastive loss", 0)
    identity_weight: float = hyperparameter(1.0, "weight of the identity classification loss; 0 switches it off", 0)
    label_smoothing: float = hyperparameter(0.1, "label smoothing of the identity loss", 0, 0.9)
    metric_loss: str = hyperparameter(
        "", "more losses, by their names in pytorch-metric-learning: MultiSimilarityLoss+CircleLoss"
    )
    metric_weight: float = hyperparameter(1.0, "weight of the losses of --metric-loss", 0)
    teacher_weight: float = hyperparameter(10.0, "weight of the cosine regression onto the teacher's embedding", 0)
    similarity_weight: float = hyperparameter(10.0, "weight of matching the teacher's in-batch similarity matrix", 0)
    teacher_views: int = hyperparameter(
        0,
        "augmented views of each image that the teacher is asked about too; they and the plain image take turns",
        0,
        64,
    )
    view_mix: float = hyperparameter(
        0.0,
        "share of the images of a view whose lower part is another's: people whom only the teacher knows;"
        " without losses of identities",
        0,
        1,
    )

    # optimisation
    optimizer: Literal["adam", "adamw"] = hyperparameter("adamw", "optimiser")
    lr: float = hyperparameter(1e-3, "peak learning rate")
    weight_decay: float = hyperparameter(0.02, "weight decay (adamw: decoupled)", 0)
    schedule: Literal["constant", "cosine"] = hyperparameter("cosine", "learning-rate schedule after the warm-up")
    warmup_epochs: float = hyperparameter(2.0, "epochs of linear warm-up", 0)
    restart: float = hyperparameter(
        0.4, "peak learning rate of every size of --sizes after the first, as a share of --lr", 0, 1
    )
    probe_epochs: int = hyperparameter(
        20, "passes that fit new heads to the embeddings of --init BUNDLE before training goes on; 0: none", 0
    )
    freeze: int = hyperparameter(
        0, "stages at the beginning of the backbone that are not trained; the stem is the first", 0
    )
    grad_clip: float = hyperparameter(5.0, "largest gradient norm; 0 switches clipping off", 0)
    ema: float = hyperparameter(
        0.999, "decay of the moving average of the weights that is validated and kept, warmed up; 0: none", 0, 0.99999
    )

    # augmentation
    flip: float = hyperparameter(0.5, "probability of a horizontal flip", 0, 1)
    crop: float = hyperparameter(0.06, "random crop after padding by this share of the height", 0, 0.5)
    erase: float = hyperparameter(0.5, "probability of random erasing", 0, 1)
    jitter: float = hyperparameter(0.2, "strength of brightness, contrast and saturation jitter", 0, 0.9)
    zoom: float = hyperparameter(0.0, "tighter and wider boxes: height and width scaled by up to 1 + this share", 0, 1)
    tint: float = hyperparameter(0.0, "strength of the change of each colour channel, as of another camera", 0, 0.9)
    grey: float = hyperparameter(
        0.0, "probability of losing the colour of a rectangle or, a third of them, of the image", 0, 1
    )
    blur: float = hyperparameter(0.0, "probability of half the resolution", 0, 1)
    detail: float = hyperparameter(0.0, "fine detail up to so many octaves stronger, or half as many weaker", 0, 4)
    mixstyle: float = hyperparameter(
        0.0, "share of batches whose early feature maps exchange their statistics (MixStyle)", 0, 1
    )

    # the run
    seed: int = hyperparameter(0, "seed of everything random", 0)
    keep: Literal["last", "best"] = hyperparameter(
        "last", "which weights become the bundle; best is chosen on the held-out identities"
    )
    validate_every: int = hyperparameter(1, "epochs between validations; 0 only at the end", 0)
    checkpoint_minutes: float = hyperparameter(5.0, "minutes between checkpoints inside an epoch", 0)

    def with_options(self, **changes: Any) -> Self:
        """A copy with these fields changed, checked. Raises UsageError naming the option.

        Another backbone brings its own size along (``BACKBONE_DEFAULTS``) where none is asked for.
        """
        given = {name: value for name, value in changes.items() if value is not None}
        backbone = given.get("backbone", self.backbone)
        usual = BACKBONE_DEFAULTS.get(str(backbone), {}) if backbone != self.backbone else {}
        config = replace(self, **{**usual, **given})
        config.check()
        return config

    def check(self) -> None:
        """Raise UsageError for a value that cannot work."""
        kinds = get_type_hints(type(self))
        for one in fields(self):
            low, high = one.metadata["within"]
            value, kind = getattr(self, one.name), kinds[one.name]
            value_of(one.name, kind, [value] if isinstance(value, str) and kind in (int, float, bool) else value)
            if low is not None and not value >= low:  # also catches NaN
                raise UsageError(f"{flag(one.name)}: {value} is too small, the least is {low}")
            if high is not None and not value <= high:
                raise UsageError(f"{flag(one.name)}: {value} is too large, the most is {high}")
        weights = ("triplet_weight", "identity_weight", *(["metric_weight"] if self.metric_loss else []))
        labelled = [flag(name) for name in weights if getattr(self, name)]
        if self.view_mix and labelled:
            raise UsageError(f"--view-mix: two people in one have no label, set {' and '.join(labelled)} to 0")
        if not 0 < self.lr < 10:
            raise UsageError(f"--lr: {self.lr} is not a learning rate (0 < lr < 10)")
        if self.batches == "pk" and self.batch_size < 2 * self.images_per_identity:
            raise UsageError(
                f"--batch-size: {self.batch_size} holds fewer than 2 identities of "
                f"{self.images_per_identity} images (--images-per-identity)"
            )


def flag(name: str) -> str:
    """The option of a field: ``batch_size`` → ``--batch-size``."""
    return "--" + name.replace("_", "-")


#: How a text option that is empty by default is written among others: ``--metric-loss none,CircleLoss``.
NOTHING = "none"
_NOUNS: dict[type, str] = {int: "a whole number", float: "a number", str: "a name", bool: "true or false"}
_WORDS = {**dict.fromkeys(("true", "yes", "on", "1"), True), **dict.fromkeys(("false", "no", "off", "0"), False)}


def value_of(name: str, kind: Any, item: object) -> Any:
    """``item`` as the field's type. A bool is no number, and a number is a text only if it was typed as one."""
    shown = printable(str(item).strip())
    if get_origin(kind) is Literal:
        if (choices := {str(choice): choice for choice in get_args(kind)}) and shown in choices:
            return choices[shown]
        raise UsageError(f"{flag(name)}: {shown[:80]!r} is none of {', '.join(choices)}")
    if kind is str and isinstance(item, str):
        if shown in ("", NOTHING) and getattr(TrainConfig(), name) == "":
            return ""
        if shown:
            return shown
    if kind is bool and shown.lower() in _WORDS:
        return _WORDS[shown.lower()]
    if kind in (int, float) and not isinstance(item, bool):
        with suppress(ValueError, OverflowError):  # text that is no number, or more digits than a float can hold
            number: float = kind(shown)
            if math.isfinite(number) and (kind is float or abs(number) < 2**63):
                return number
    raise UsageError(f"{flag(name)}: {shown[:80]!r} is not {_NOUNS[kind]}")


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


_STAGE = re.compile(r"(\d{1,4})x(\d{1,4}):(\d{1,4})")

#: Epochs of linear warm-up at the beginning of every stage but the first: only the pixels are new.
RESTART_WARMUP = 0.1


@dataclass(frozen=True, slots=True)
class Stage:
    """The epochs ``first`` … ``last``-1 of a run, at one input size; ``lr`` is the peak of its learning rate."""

    height: int
    width: int
    first: int
    last: int
    lr: float
    warmup: float  # in epochs

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    def learning_rate(self, epoch: float, schedule: str) -> float:
        """At a fractional epoch of the run: linear warm-up, then constant or half a cosine to zero."""
        length, done = self.last - self.first, epoch - self.first
        warmup = min(self.warmup, length / 2)
        if done < warmup:
            return self.lr * (0.01 + 0.99 * done / warmup)
        if schedule == "constant":
            return self.lr
        share = (done - warmup) / max(length - warmup, 1e-9)
        return self.lr * 0.5 * (1.0 + math.cos(math.pi * min(share, 1.0)))


def stages(config: TrainConfig) -> list[Stage]:
    """The stages of a run in order; one, unless ``config.sizes`` names smaller sizes to begin at.

    Raises UsageError where ``sizes`` cannot be read or leaves no epoch for the full size.
    """
    if config.sizes and config.backbone in BACKBONE_DEFAULTS:
        raise UsageError(f"--sizes: {config.backbone} is made for one size, leave it out")

    def stage(height: int, width: int, first: int, last: int) -> Stage:
        again = (config.lr * config.restart, RESTART_WARMUP)
        return Stage(height, width, first, last, *(again if first else (config.lr, config.warmup_epochs)))

    found: list[Stage] = []
    first = 0
    for text in filter(None, (part.strip() for part in re.split("[+,]", config.sizes))):
        match = _STAGE.fullmatch(text)
        if not match:
            raise UsageError(f"--sizes: {text!r} is not HEIGHTxWIDTH:EPOCHS, as in 128x64:20+192x96:2")
        height, width, epochs = (int(number) for number in match.groups())
        if height < 8 or width < 8 or epochs < 1:
            raise UsageError(f"--sizes: {text!r}: at least 8x8 pixels and 1 epoch")
        found.append(stage(height, width, first, first + epochs))
        first += epochs
    if first >= config.epochs:
        raise UsageError(
            f"--sizes: {amount(first, 'epoch')} at smaller sizes leave none of --epochs {config.epochs} "
            f"for {config.height}x{config.width}"
        )
    return [*found, stage(config.height, config.width, first, config.epochs)]


def stage_at(config: TrainConfig, epoch: float) -> Stage:
    """The stage that epoch ``epoch`` (0 …, may be fractional) is in; past the end, the last."""
    found = stages(config)
    return next((stage for stage in found if epoch < stage.last), found[-1])


def kind_of(init: str) -> str:
    """What ``--init`` names: ``imagenet``, ``none`` or ``bundled`` itself, a ``file`` of tensors, or a ``bundle``."""
    if init in ("imagenet", "none", "bundled"):
        return init
    tensors = Path(init).suffix.lower() in (".safetensors", ".pth", ".pt") and not Path(init).is_dir()
    return "file" if tensors else "bundle"


def network_of(init: str) -> dict[str, Any]:
    """What the bundle that ``--init`` names says of its network; nothing where it names none. Raises BundleError."""
    from siamese_search.model.bundle import bundle_of

    return dict(bundle_of(init).meta.get("network", {})) if kind_of(init) in ("bundled", "bundle") else {}


#: What means something with labels alone; in an adaptation the clusters and the memory decide.
_UNUSED = frozenset({
    "preset", "batches", "sizes", "margin", "soft_margin", "unit_triplets", "triplet_weight", "identity_weight",
    "label_smoothing", "metric_loss", "metric_weight", "teacher_weight", "similarity_weight", "teacher_views",
    "restart", "probe_epochs", "keep", "validate_every",
})  # fmt: skip

#: What the network is: where nothing else is asked for, as the model that is adapted.
SPEC = (
    "backbone", "dim", "height", "width", "pool", "neck", "last_stride", "instance_mix", "instance_mix_later",
    "enlarge",
)  # fmt: skip


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
    settle: float = hyperparameter(
        0.97,
        "agreement with the last epoch's clusters (adjusted Rand index) that ends it, twice running; 1: never",
        0,
        1,
    )

    def check(self) -> None:
        TrainConfig.check(replace(self, epochs=1) if self.epochs == 0 else self)


#: Not cosine to the end for its own sake: clusters settle as the learning rate falls, and then the run stops.
ADAPT = AdaptConfig(
    preset="adapt", epochs=20, triplet_weight=0.0, identity_weight=0.0, warmup_epochs=1.0, lr=2e-4, ema=0.99, freeze=3,
    validate_every=0,
)  # fmt: skip


def adapt_fields() -> list[str]:
    """The fields that are options of ``sss adapt``, its own first."""
    names = (one.name for one in fields(AdaptConfig) if one.name not in _UNUSED)
    return sorted(names, key=lambda name: name in TrainConfig.__slots__)


def adapt_config(init: str, **hyperparameters: Any) -> AdaptConfig:
    """The configuration for these weights: what is not given is that of the bundle. Raises BundleError, UsageError."""
    own = {name: value for name, value in network_of(init).items() if name in SPEC}
    given = {name: value for name, value in hyperparameters.items() if value is not None}
    if "height" in given or "width" in given:
        own.pop("enlarge", None)  # a size that is asked for is that of the network
    return ADAPT.with_options(**{**own, **given})
