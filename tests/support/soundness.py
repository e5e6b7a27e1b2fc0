"""Every vector of a gallery against its checksum: what tests ask after a crash, a race or a conversion."""

from __future__ import annotations

from typing import NamedTuple

from siamese_search.gallery.checks import is_sound
from siamese_search.gallery.contract import Gallery


class Soundness(NamedTuple):
    """``points`` were read; ``damaged`` are the ids whose vector is not the one that was stored."""

    points: int
    damaged: tuple[str, ...]


def verify_vectors(gallery: Gallery) -> Soundness:
    """Read every point and compare its vector with its checksum."""
    points = list(gallery.scroll(with_vectors=True, fields=["crc"]))
    return Soundness(len(points), tuple(one.id for one in points if not is_sound(one, gallery.dim)))
