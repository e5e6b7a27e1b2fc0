"""SearchResult and QueryResult: the answer to a query, and its JSON.

A path in the JSON of any command is the path itself, not what is printed of it; bytes that are not UTF-8 are
``\\udcXX``, as in ``os.fsdecode``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siamese_search.datasets.records import MetadataValue
from siamese_search.model.calibration import Figures

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One ranked image of the gallery.

    rank: from 1. score: cosine similarity in [-1, 1], higher is closer. match: whether the score reaches the threshold
    of the answer's :class:`Verdict`; probability: that it is the same identity, given its score and the size of the
    gallery (:mod:`siamese_search.retrieval.judging` says how); both ``None`` while the model has no calibration.
    sightings, cameras: only when grouped by identity: how many images of this identity the gallery holds under the
    same filter (the query itself not counted when it is excluded), and the cameras that saw them. reranked: the
    re-ranked similarity in [0, 1] that ranks were given by, good for nothing but the order of this answer; ``None``
    without re-ranking and behind its candidates. itself: whether this is the query's own image or a copy of it.
    when: in a timeline, its time for people; not part of the JSON, where the sighting has it.
    """

    rank: int
    score: float
    identity: str | None
    camera: str | None
    path: Path
    key: str
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    match: bool | None = None
    probability: float | None = None
    id: str = ""
    source: str = ""
    sightings: int | None = None
    cameras: tuple[str, ...] = ()
    reranked: float | None = None
    itself: bool = False
    when: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The JSON contract of ``sss search``.

        ``probability`` only from a calibrated model, ``sightings`` and ``cameras`` only when grouped, ``reranked`` only
        of what was re-ranked.
        """
        answer: dict[str, Any] = {
            "rank": self.rank,
            "score": round(self.score, 6),
            "identity": self.identity,
            "camera": self.camera,
            "path": str(self.path),
            "key": self.key,
            "metadata": dict(self.metadata),
            "match": self.match,
        }
        numbers = {"probability": self.probability, "reranked": self.reranked}
        answer |= {name: round(number, 6) for name, number in numbers.items() if number is not None}
        return answer | ({} if self.sightings is None else {"sightings": self.sightings, "cameras": list(self.cameras)})


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the matches of one answer were judged.

    threshold: the score from which on a result is a match. asked: the false match rate that it was asked to have;
    ``None`` where the threshold is the score at which same and different are equally likely. false_match_rate: the
    one asked for, else that of the threshold as measured, per comparison. compared: images that the query was ranked
    against. any_false_match: the chance that at least one of them would reach the threshold although nobody there is
    the query's identity. identities: how many the gallery holds under the same filters (an image without one counts
    as one; estimated in large galleries). prior: the probability of each image before its score is known.
    strictest: the threshold is the highest that the calibration has measured, because even odds lie beyond it.
    expected_false_matches: how many of the images compared would reach it on average although none is the query's.
    calibration: whose it is, the gallery's or its model's.
    """

    false_match_rate: float
    threshold: float
    compared: int
    any_false_match: float
    expected_false_matches: float
    identities: int
    prior: float
    asked: float | None = None
    strictest: bool = False
    calibration: str = "model"

    @property
    def reachable(self) -> bool:
        """Whether any score is a match: among very many identities no similarity of two images may suffice."""
        return self.threshold <= 1.0

    def to_json(self) -> dict[str, Any]:
        return {
            "false_match_rate": _digits(self.false_match_rate),
            "threshold": round(self.threshold, 6) if self.reachable else None,
            "compared": self.compared,
            "any_false_match": _digits(self.any_false_match),
            "expected_false_matches": _digits(self.expected_false_matches),
            "identities": self.identities,
            "prior": _digits(self.prior),
            "calibration": self.calibration,
        }


def _digits(value: float) -> float:
    """Six significant digits: rates and priors may be far below a millionth."""
    return float(f"{value:.6g}")


@dataclass(frozen=True, slots=True)
class QueryResult:
    """The answer to one query image: ranked results, or the reason why there are none.

    query: the path as given, or ``image 3`` for an array. path: ``None`` for an array. identity: the query's own
    identity where the gallery knows that very file, else ``None``. error: why the query could not be read, else
    ``None`` (no results is not an error). verdict: how ``match`` was decided, ``None`` where no calibration is known to
    hold; no_verdict: then the reason, empty where there is no calibration at all. pairwise: whether scores are
    similarities of images, or means of such; no calibration knows about others. best_score: the highest in the ranking,
    shown or not. candidates: how many images were to be re-ranked, ``None`` without re-ranking. from_gallery: whether
    the query is an image of the gallery that looks for others, so that nobody may say that it is not there. looks: of
    its images, float32 [m, 26].
    """

    query: str
    results: tuple[SearchResult, ...] = ()
    path: Path | None = None
    identity: str | None = None
    error: str | None = None
    verdict: Verdict | None = None
    pairwise: bool = True
    best_score: float | None = None
    candidates: int | None = None
    no_verdict: str = ""
    from_gallery: bool = False
    looks: Figures | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        found = ", ".join(f"{hit.identity or '?'} {hit.score:.4f}" for hit in self.results)
        return f"<answer to {self.query}: {self.error or found or 'no results'}>"

    @property
    def in_gallery(self) -> bool | None:
        """Whether there is a match, among the results or, re-ranked out of them, with the highest score of all.

        ``None`` while the model has no calibration.
        """
        if self.verdict is None:
            return None
        best = self.best_score is not None and self.best_score >= self.verdict.threshold
        return best or any(result.match for result in self.results)

    def to_json(self) -> dict[str, Any]:
        """``{"query", "results"}``; ``error`` is added for a query that could not be read, ``in_gallery`` and
        ``verdict`` by a calibrated model, or ``no_verdict`` with the reason, ``candidates`` by re-ranking.
        """
        answer: dict[str, Any] = {"query": str(self.query), "results": [result.to_json() for result in self.results]}
        more = {
            "candidates": self.candidates,
            "in_gallery": self.in_gallery,
            "verdict": None if self.verdict is None else self.verdict.to_json(),
            "no_verdict": self.no_verdict or None,
            "error": self.error,
        }
        return answer | {name: value for name, value in more.items() if value is not None}

    def to_frame(self) -> DataFrame:
        """A row per result: the query, what its JSON has, and the metadata as ``metadata.FIELD``, of pandas."""
        from pandas import json_normalize

        frame = json_normalize([result.to_json() for result in self.results])
        frame.insert(0, "query", self.query)
        return frame
