"""What an evaluation is asked for: one request, for every way to ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from siamese_search import options as shared
from siamese_search.options import Request, StrPath, Switch, option

if TYPE_CHECKING:
    from siamese_search.model.embedder import Device
    from siamese_search.vectors.k_reciprocal import KReciprocal


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions(Request):
    """See :func:`siamese_search.api.evaluation.evaluate`. What is ``None`` comes from the settings.

    false_match_rate: what the report's verification threshold is for.
    """

    model: StrPath | None = option(None, "Model to measure; 'bundled' and 'fast' come along.", metavar="BUNDLE")
    queries: StrPath | None = option(None, "Images to ask for; without it every image of DATA is asked.", metavar="DIR")
    identities: StrPath | Sequence[str] | None = option(
        None,
        "heldout, all, or a file of identities.  [default: heldout where DATA is the training data]",
        metavar="WHICH",
        switches=(Switch("all", "all", "The same as --identities all."),),
    )
    use_cameras: bool = option(
        True, "", switches=(Switch("no_cameras", False, "Count matches from the query's own camera too."),)
    )
    copies: bool = option(False, "Count an image's byte copies as images of their own: a query then finds its copy.")
    flip: bool = option(False, "Embed each image together with its mirror image.")
    rerank: bool | KReciprocal = option(False, "Also give the figures after k-reciprocal re-ranking.")
    quantise: Sequence[str] = option(
        (),
        "Also measure what searching in 8, 4 or 1 bits a number loses; can be repeated.",
        choices=("int8", "int4", "binary"),
        many=True,
    )
    calibrate: bool = option(
        False, "Keep thresholds and probabilities in the gallery: searches then say match or no match."
    )
    store: StrPath | None = shared.store()
    gallery: str | None = shared.gallery()
    depth: int | None = option(
        None,
        "Ranks per query that count: rank-1 and mAP@N of the first N.  [default: all]",
        kind=int,
        low=1,
        metavar="N",
    )
    layout: str = shared.layout()
    pattern: str | None = shared.pattern()
    batch_size: int | None = shared.batch_size()
    threads: int | None = shared.threads()
    device: Device = shared.embedding_device()
    false_match_rate: float = 1e-2

    @property
    def reranking(self) -> KReciprocal | None:
        """How to re-rank, where that is asked for."""
        from siamese_search.vectors.k_reciprocal import KReciprocal

        return (KReciprocal() if self.rerank is True else self.rerank) or None
