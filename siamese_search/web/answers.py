"""What the service answers: plain values that both the pages and the API show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from siamese_search.datasets.records import MetadataValue


@dataclass(frozen=True, slots=True)
class Upload:
    """One uploaded image: its bytes as they came, undecoded, and its name, for people."""

    data: bytes
    name: str = "image"


@dataclass(frozen=True, slots=True)
class Crop:
    """A part of an image, as shares of its upright width and height: 0 ≤ left < right ≤ 1, and so down."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class Facet:
    """One field to narrow by.

    kind: ``str``, ``int``, ``float`` or ``bool``. values: the most frequent with their counts. distinct: how many
    values there are, at most one more than are counted. low, high: of numbers and times (``None`` for others).
    time: whether the text of the field is times; ``low`` and ``high`` are ISO 8601 then. absent: images without it.
    nobody: values that are identities of many.
    """

    field: str
    kind: str
    values: tuple[tuple[MetadataValue, int], ...]
    distinct: int
    low: MetadataValue | None = None
    high: MetadataValue | None = None
    time: bool = False
    absent: int = 0
    nobody: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sighting:
    """One image of the gallery. when: its time, for people; similarity: mean cosine to the identity's other images."""

    id: str
    key: str
    source: str
    path: str
    identity: str | None
    camera: str | None
    metadata: dict[str, MetadataValue]
    when: str | None = None
    similarity: float | None = None
    labelled: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IdentitySummary:
    """One line of the list of identities. shown: point id of the image to show for it."""

    name: str
    images: int
    cameras: tuple[str, ...]
    shown: str


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Another identity that is likely the same. score: highest mean similarity of one of its images to the images of
    this one; probability: as in a search, ``None`` without calibration.
    """

    name: str
    images: int
    shown: str
    score: float
    probability: float | None


@dataclass(frozen=True, slots=True)
class IdentityView:
    """All sightings of an identity, in the order of time (``time_field``) or of key where there is none.

    best: point id of the image nearest to all the others. cameras: sightings per camera, ``None`` for unknown.
    total: all its images; ``sightings`` are at most so many as were asked for.
    """

    name: str
    total: int
    best: str
    sightings: tuple[Sighting, ...]
    cameras: tuple[tuple[str | None, int], ...]
    time_field: str | None
    suggestions: tuple[Suggestion, ...] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """Whom an image in review may show. identity: ``None`` where the nearest image has none either."""

    point: str
    identity: str | None
    camera: str | None
    score: float
    probability: float | None


@dataclass(frozen=True, slots=True)
class ReviewItem:
    """One image to decide about: is it ``candidates[0]``? The others are next in line.

    uncertainty: |p − ½| of the first, or of an uncalibrated model the margin between the first two scores.
    """

    point: str
    key: str
    camera: str | None
    identity: str | None
    candidates: tuple[Candidate, ...]
    uncertainty: float


@dataclass(frozen=True, slots=True)
class ReviewQueue:
    """The least certain first. remaining: all that wait; unlabelled: images without identity in the gallery."""

    items: tuple[ReviewItem, ...]
    remaining: int
    unlabelled: int
    calibrated: bool


@dataclass(frozen=True, slots=True)
class Cluster:
    """Images that look like one identity, as in ``sss cluster``. proposed: "" for a conflict."""

    number: int
    status: Literal["new", "known", "conflict", "single"]
    proposed: str
    images: tuple[tuple[str, str | None, float | None], ...]  # point id, existing identity, confidence


@dataclass(frozen=True, slots=True)
class Edit:
    """A change of labels that was made. undo: the token that takes it back; ``None`` where nothing changed."""

    what: str  # for people: "merged 0002 into 0001"
    changed: int
    undo: str | None
    when: str  # ISO 8601, UTC
    undone: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """An image encoded anew, as a JPEG, without what else was in its file."""

    data: bytes
    tag: str  # changes with the content


@dataclass(frozen=True, slots=True)
class Question:
    """What a search is for: any mixture. Several fuse where the options say ``together``.

    uploads, crop: images; the crop is of the first. points: ids of the gallery's own images; keys: their keys.
    vectors: unit vectors of the gallery's model. kept: tokens of :meth:`Searching.keep`, which stand for uploads
    in a URL. away_uploads, away_points: what the results shall not resemble.
    """

    uploads: tuple[Upload, ...] = ()
    crop: Crop | None = None
    points: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    vectors: tuple[tuple[float, ...], ...] = ()
    kept: tuple[str, ...] = ()
    away_uploads: tuple[Upload, ...] = ()
    away_points: tuple[str, ...] = ()
    away_kept: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GalleryFacts:
    """What the page of the gallery shows.

    facts: one entry of ``galleries`` of ``sss info --json``; model: its ``model``. calibration: as in ``sss evaluate
    --json``, ``None`` for none. failures: of the last ingest, ``{"path", "reason"}`` (at most 1,000) and how many.
    evaluation: the JSON of ``sss evaluate``; both ``None`` where nobody said where they are.
    """

    facts: dict[str, Any]
    model: dict[str, Any]
    calibration: dict[str, Any] | None
    failures: tuple[dict[str, str], ...] | None = None
    failures_total: int | None = None
    evaluation: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
