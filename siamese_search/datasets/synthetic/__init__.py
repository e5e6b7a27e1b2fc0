"""Procedural pedestrians: who they are (people), how they look (figure), where (scenes), through what (cameras).

What the demo set is asked for: one request, for every way to ask.
"""

from __future__ import annotations

from dataclasses import dataclass

from siamese_search.options import Request, option


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions(Request):
    """See :func:`siamese_search.datasets.demo.generate_demo`, which checks the numbers."""

    identities: int = option(24, "People to draw.", metavar="N")
    cameras: int = option(4, "Cameras that see them.", metavar="N")
    images_per_camera: int = option(2, "Images of each, per camera.", metavar="N")
    distractors: int = option(24, "Images of people who are no answer.", metavar="N")
    seed: int = option(0, "Same seed, same images.", metavar="N")
    junk: int = 0
    size: tuple[int, int] = (128, 64)
