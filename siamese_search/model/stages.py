"""The parts of a timm backbone in order: the stem, then its stages."""

from __future__ import annotations

from torch import nn

from siamese_search.errors import UsageError


def stages(backbone: nn.Module) -> list[nn.Module]:
    """What follows the stem, in order; empty for a backbone without ``blocks`` or ``layer1`` …"""
    blocks = getattr(backbone, "blocks", None)
    if isinstance(blocks, nn.Sequential):
        return list(blocks)
    return [
        layer for i in range(1, 5) if isinstance(layer := getattr(backbone, f"layer{i}", None), nn.Module)
    ]


def first_parts(backbone: nn.Module, count: int, option: str) -> list[nn.Module]:
    """The modules of the first ``count`` parts, the stem among them.

    option: what asked for them. Raises UsageError for a backbone with fewer parts.
    """
    found = stages(backbone)
    if count > len(found):
        raise UsageError(f"{option}: {count} is too many, this backbone has a stem and {len(found)} stages")
    names = [name for name, _ in backbone.named_children()]
    before = names[: names.index("blocks" if "blocks" in names else "layer1")]
    stem = [module for name in before for module in backbone.get_submodule(name).modules()]
    return stem + [module for stage in found[: count - 1] for module in stage.modules()]
