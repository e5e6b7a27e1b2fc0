"""What a search is asked for, and a timeline: one request each, for every way to ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from siamese_search import options as shared
from siamese_search.options import Request, StrPath, option

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


#: Candidates where nobody asks for another number: on held-out people of Market-1501 more gains little.
DEFAULT_CANDIDATES = 200
#: More would take minutes, and memory by the square.
MOST_CANDIDATES = 10_000


def fmr() -> Any:
    return option(
        None,
        "Count as matches what passes at this false match rate.  [default: what is likelier right than wrong]",
        kind=float,
        low=0,
        high=1,
        low_open=True,
        metavar="X",
    )


def cosine(help: str, **how: Any) -> Any:
    return option(None, help, kind=float, low=-1, high=1, metavar="S", **how)


def prior() -> Any:
    return option(
        None,
        "Probability that two images show the same identity, before their score is known."
        "  [default: 1 in twice the identities of the gallery; 0.01 without one]",
        kind=float,
        low=1e-12,
        high=1 - 1e-6,
        metavar="P",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions(Request):
    """See :func:`siamese_search.api.retrieval.search`. What is ``None`` comes from the settings."""

    k: int = option(10, "Results per query.", flags=("-k", "--top"), metavar="N")
    together: bool = option(False, "All queries show one target: one answer, by mean similarity.")
    unlike: StrPath | Sequence[StrPath | NDArray[np.uint8]] = option(
        (), "Away from what this shows; may be repeated.", flags=("--not", "--unlike"), many=True, metavar="IMAGE"
    )
    like: str | Sequence[str] = option((), "Search for others like this item of the gallery.", many=True, metavar="KEY")
    flip: bool = option(False, "Embed each query together with its mirror image.")
    rerank: bool = option(False, "Re-rank the nearest images by their k-reciprocal neighbours.")
    candidates: int = option(
        DEFAULT_CANDIDATES,
        f"Images that --rerank re-ranks.  [default: {DEFAULT_CANDIDATES}]",
        low=1,
        high=MOST_CANDIDATES,
        refusal=f"re-ranking takes 1 to {MOST_CANDIDATES:,} candidates, not {{}}",
        metavar="N",
        unsaid=True,
    )
    where: str | Sequence[str] = shared.where()
    group_by: Literal["identity"] | None = option(
        None,
        "One result per identity, its best image.",
        choices=("identity",),
        refusal="results can be grouped by 'identity' only, not by {!r}",
    )
    exclude_self: bool = option(False, "Leave out the query image itself, if it is in the gallery.")
    min_score: float | None = cosine(
        "Least cosine similarity to show.", refusal="the minimum score is a cosine similarity from -1 to 1, not {}"
    )
    fmr: float | None = fmr()
    prior: float | None = prior()
    store: StrPath | None = shared.store()
    gallery: str | None = shared.gallery()
    model: StrPath | None = shared.model()
    threads: int | None = shared.threads()


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareOptions(Request):
    """See :func:`siamese_search.api.retrieval.compare`. What is ``None`` comes from the settings."""

    fmr: float | None = fmr()
    threshold: float | None = cosine("Least cosine similarity of the same identity, instead of the calibrated one.")
    prior: float | None = prior()
    store: StrPath | None = shared.store()
    gallery: str | None = shared.gallery()
    model: StrPath | None = shared.model()
    threads: int | None = shared.threads()


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineOptions(SearchOptions):
    """A search for all sightings of whoever is nearest. k: ``None`` for the usual number."""

    k: int | None = None  # type: ignore[assignment]  # a search always says how many
    time_field: str | None = option(
        None,
        "Field that --timeline orders by.  [default: the first of time, timestamp, datetime, date, frame]",
        metavar="FIELD",
    )
    group_by: None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MapOptions(Request):
    """See :func:`siamese_search.api.retrieval.map_gallery`."""

    method: str | None = option(
        None,
        "How vectors become places.  [default: tsne if scikit-learn is installed, else pca]",
        choices=("pca", "tsne", "umap"),
    )
    where: str | Sequence[str] = shared.where()
    limit: int = option(
        2000,
        "At most so many images, drawn at random where there are more.",
        low=1,
        refusal="the limit is {}; ask for at least 1 image",
        metavar="N",
    )
    color: str = option("identity", "What the colours stand for.", flags=("--color", "--colour"), metavar="FIELD")
    seed: int = option(0, "Of the sample and of the layout.", low=0, high=2**31 - 1, metavar="N")
    store: StrPath | None = shared.store()
    gallery: str | None = shared.gallery()
