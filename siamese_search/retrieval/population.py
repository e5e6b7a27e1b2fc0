"""How many identities a gallery holds: what is known of a match before any score is.

The query's identity is taken to be in the gallery as likely as not, and if it is, to be any of the n identities there
with the same chance. Each image is then the query's with a prior of 1/(2n).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from siamese_search.gallery.contract import Gallery
from siamese_search.gallery.filters import Condition
from siamese_search.retrieval.grouping import is_somebody

#: How likely it is, before any score is known, that the query's identity is in the gallery.
IN_GALLERY = 0.5
#: Up to so many images the identities are counted; in more they are estimated, in a twentieth of a second.
_COUNTED = 20_000
_SAMPLE = 256


@dataclass(frozen=True, slots=True)
class Population:
    """What a query is ranked against. identities: an image without one counts as one; at most ``images``."""

    images: int
    identities: int


def population(gallery: Gallery, where: Sequence[Condition] = ()) -> Population:
    """The images and identities that meet the conditions. Identities are counted up to 20,000 images.

    Beyond that they are estimated: an image whose identity has n images stands for 1/n identities, and the 256 images
    with the lowest point ids are as good as drawn at random, for ids are hashes.
    """
    images = gallery.count(where)
    if images == 0 or "identity" not in gallery.fields():
        return Population(images, images)
    if images <= _COUNTED:
        counts = gallery.facet("identity", where, limit=_COUNTED)
        somebody = [identity for identity in counts if is_somebody(identity)]
        return Population(images, images - sum(counts[one] for one in somebody) + len(somebody))
    sample = [
        point.identity
        for point in islice(gallery.scroll(where, fields=("identity",), batch=_SAMPLE), _SAMPLE)
    ]
    named = tuple(sorted({str(identity) for identity in sample if is_somebody(identity)}))
    counts = (
        gallery.facet("identity", [*where, Condition("identity", "=", named)], limit=_SAMPLE) if named else {}
    )
    shares = [1 / counts.get(identity, 1) for identity in sample]
    return Population(images, max(1, round(images * sum(shares) / max(1, len(shares)))))
