"""Roots that lie in one another: an image in both has two keys, and so two points."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from siamese_search.datasets.layouts import Survey
from siamese_search.errors import printable
from siamese_search.gallery.contract import Gallery

_SOURCES = 10_000


def overlaps(roots: Sequence[Survey], gallery: Gallery) -> Iterator[str]:
    """A sentence for each source of the gallery that holds a root's directory, or lies in it.

    For roots whose source is their own directory. Sources are compared as text, for a directory may have gone.
    """
    if "source" not in gallery.fields():
        return
    sources = [str(source) for source in gallery.facet("source", limit=_SOURCES)]
    for root in roots:
        if hasattr(root, "url"):
            continue
        here = root.source
        for there in sources:
            inner, outer = (here, there) if len(here) > len(there) else (there, here)
            if here != there and inner.startswith(os.path.join(outer, "")):  # noqa: PTH118 - keys, not paths
                yield (
                    f"{printable(here)}: the gallery also has images of {printable(there)}, and one of the two lies in"
                    " the other: an image in both stands there twice (ingest one of them, always the same)"
                )
