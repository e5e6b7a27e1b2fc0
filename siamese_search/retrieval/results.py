"""SearchResult and QueryResult: the answer to a query, and its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from siamese_search.datasets.records import MetadataValue


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One ranked image of the gallery.

    rank: from 1. score: cosine similarity in [-1, 1], higher is closer. match: whether the score reaches the
    model's calibrated threshold; probability: that it is the same identity, where same and different are equally
    likely beforehand; both ``None`` while the model has no calibration. sightings, cameras: only when grouped by
    identity: how many images of this identity the gallery holds under the same filter (the query itself not
    counted when it is excluded), and the cameras that saw them.
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

    def to_json(self) -> dict[str, Any]:
        """The JSON contract of ``sss search``.

        ``probability`` only from a calibrated model, ``sightings`` and ``cameras`` only when grouped.
        """
        answer: dict[str, Any] = {
            "rank": self.rank,
            "score": round(self.score, 6),
            "identity": self.identity,
            "camera": self.camera,
            "path": json_path(self.path),
            "key": self.key,
            "metadata": dict(self.metadata),
            "match": self.match,
        }
        if self.probability is not None:
            answer["probability"] = round(self.probability, 6)
        if self.sightings is not None:
            answer["sightings"] = self.sightings
            answer["cameras"] = list(self.cameras)
        return answer


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the matches of one answer were judged.

    false_match_rate: asked for, per comparison. threshold: the score that it takes. compared: images that the query
    was ranked against. any_false_match: the chance that at least one of them would reach the threshold although
    nobody there is the query's identity.
    """

    false_match_rate: float
    threshold: float
    compared: int
    any_false_match: float

    def to_json(self) -> dict[str, Any]:
        return {
            "false_match_rate": self.false_match_rate,
            "threshold": round(self.threshold, 6),
            "compared": self.compared,
            "any_false_match": round(self.any_false_match, 6),
        }


@dataclass(frozen=True, slots=True)
class QueryResult:
    """The answer to one query image: ranked results, or the reason why there are none.

    query: the path as given, or ``image 3`` for an array. path: ``None`` for an array.
    identity: the query's own identity where the gallery knows that very file, else ``None``.
    error: why the query could not be read, else ``None`` (no results is not an error).
    verdict: how ``match`` was decided, ``None`` while the model has no calibration. pairwise: whether scores are
    similarities of images, or means of such; no calibration knows about others.
    """

    query: str
    results: tuple[SearchResult, ...] = ()
    path: Path | None = None
    identity: str | None = None
    error: str | None = None
    verdict: Verdict | None = None
    pairwise: bool = True

    @property
    def in_gallery(self) -> bool | None:
        """Whether any result shown is a match; ``None`` while the model has no calibration."""
        if self.verdict is None:
            return None
        return any(result.match for result in self.results)

    def to_json(self) -> dict[str, Any]:
        """``{"query", "results"}``; ``error`` is added for a query that could not be read, ``in_gallery`` and
        ``verdict`` by a calibrated model.
        """
        answer: dict[str, Any] = {
            "query": json_path(self.query),
            "results": [result.to_json() for result in self.results],
        }
        if self.verdict is not None:
            answer["in_gallery"] = self.in_gallery
            answer["verdict"] = self.verdict.to_json()
        if self.error is not None:
            answer["error"] = self.error
        return answer


def json_path(path: str | Path) -> str:
    """A path as text that any JSON writer can encode: bytes that are not UTF-8 become ``\\xNN``."""
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
