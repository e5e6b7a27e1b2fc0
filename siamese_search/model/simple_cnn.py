"""``simple_cnn``: the small classic network for grey faces and signatures, as a backbone.

Three blocks of reflection padding, 3×3 convolution (4, 8, 8 channels), ReLU and batch norm at full resolution, then
fully connected layers 500-500. The first of these sees every pixel, so the weights belong to one input size: at 100×100
it holds 40 million of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from siamese_search.errors import UsageError

NAME = "simple_cnn"

#: Pixels go in as 0–1, with no statistics of any data set taken off.
MEAN, STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

#: Beyond this many weights the first fully connected layer is surely a mistake.
_MAX_WEIGHTS = 250_000_000

_HIDDEN = 500


class SimpleCNN(nn.Module):
    """[N, 3, H, W] → [N, 500]. Raises UsageError where the input size makes it absurdly large."""

    num_features = _HIDDEN
    grey: Tensor

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        weights = 8 * height * width * _HIDDEN
        if weights > _MAX_WEIGHTS:
            raise UsageError(
                f"--backbone {NAME}: {height}×{width} would need {weights / 1e6:.0f} million weights in one layer; "
                "choose a smaller --height and --width (100×100 is usual) or another backbone"
            )
        # ITU-R 601 luma, as Pillow converts to mode L. No state: it is the same in every network.
        luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
        self.register_buffer("grey", luma, persistent=False)
        self.blocks = nn.Sequential(*_block(1, 4), *_block(4, 8), *_block(8, 8))
        self.head = nn.Sequential(
            nn.Linear(8 * height * width, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, _HIDDEN), nn.ReLU()
        )

    def forward_features(self, images: Tensor) -> Tensor:
        grey = (images * self.grey).sum(1, keepdim=True)
        features: Tensor = self.head(self.blocks(grey).flatten(1))
        return features


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.ReflectionPad2d(1), nn.Conv2d(inputs, outputs, 3), nn.ReLU(), nn.BatchNorm2d(outputs)]
