"""Identities for a person to review: clusters of a gallery's images, named, with how sure each place is.

The review is a CSV, to edit and to apply with ``sss label``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from siamese_search.curation.export_rows import real_path
from siamese_search.curation.label_table import PROPOSED
from siamese_search.curation.options import ClusterOptions
from siamese_search.errors import UsageError, amount
from siamese_search.gallery.checks import vector_of
from siamese_search.gallery.contract import Gallery
from siamese_search.gallery.filters import Where
from siamese_search.io.csv_cells import CsvWriter, write_cell
from siamese_search.io.files import atomic_path, writing
from siamese_search.model.calibration import Calibration
from siamese_search.options import request
from siamese_search.vectors.clustering import cluster

if TYPE_CHECKING:
    from pandas import DataFrame

#: Images that are clustered at once: every one is compared with every other, and a person is to look at the result.
MOST_IMAGES = 20_000
#: False match rate whose threshold the mean cosine of two clusters must reach to be merged.
FALSE_MATCH_RATE = 0.01

#: The columns of a review.
_HEADER = (
    "path", "key", "source", PROPOSED, "confidence", "cluster size", "existing identity", "cluster", "note",
)  # fmt: skip
_NOTES = {"conflict": "conflict: its images have different identities", "single": "single"}

Status = Literal["conflict", "known", "new", "single"]
#: The order of a review.
_ORDER: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True, slots=True)
class Proposal:
    """One image. path: "" where the gallery does not know it. proposed: "" for a conflict and for a single image.

    confidence: the probability that it shows the same identity as the others of its cluster, by its mean similarity to
    them; without a calibration that mean itself, 0 to 1; None for a single one.
    """

    id: str
    path: str
    key: str
    source: str
    camera: str | None
    existing: str | None
    cluster: int = 0
    size: int = 1
    proposed: str = ""
    status: Status = "single"
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Proposals:
    """All images, in the order of a review: conflicts, then clusters with a known identity, then new ones, each the
    largest first and in a cluster the surest image first; single images last. cosine: least mean similarity of a
    merge, None without calibration.
    """

    images: tuple[Proposal, ...]
    neighbours: int
    least: float
    cosine: float | None

    def count(self, status: Status) -> int:
        """Clusters of this status."""
        return len({one.cluster for one in self.images if one.status == status})

    def to_frame(self) -> DataFrame:
        """A row per image, in the order of the review, with the fields of :class:`Proposal`. A pandas DataFrame."""
        from pandas import DataFrame

        return DataFrame([asdict(one) for one in self.images], columns=list(Proposal.__slots__))


@request(ClusterOptions)
def propose(
    gallery: Gallery,
    where: Where = (),
    *,
    calibration: Calibration | None = None,
    options: ClusterOptions,
    progress: Callable[[str], None] = lambda _stage: None,
) -> Proposals:
    """Cluster the images that meet the conditions and have no identity; with ``labelled`` also those that have one.

    A cluster in which all labelled images agree takes their identity; where they do not, it is a conflict and proposes
    nothing. New ones are numbered by size, after those that the gallery has already. Market-1501's junk and distractors
    count as images without identity. Deterministic. Raises UsageError for more than MOST_IMAGES images.
    """
    neighbours, least, cosine = options.neighbours, options.least, options.cosine
    progress("reading")
    meant = (point for point in gallery.scroll(where, with_vectors=True) if options.labelled or not point.is_somebody)
    points = list(islice(meant, MOST_IMAGES + 1))
    if len(points) > MOST_IMAGES:
        raise UsageError(
            f"{amount(gallery.count(where), 'image')} are more than the {MOST_IMAGES:,} that can be clustered at once"
            ' (and that a person would review): take a part of them, such as --where camera=1 or --where "frame<5000"'
        )
    if cosine is None and calibration is not None:
        cosine = calibration.threshold(FALSE_MATCH_RATE)
    if not points:
        return Proposals((), neighbours, least, cosine)
    vectors = np.stack([vector_of(gallery, point) for point in points])
    progress("clustering")
    labels = cluster(vectors, neighbours=neighbours, least=least, cosine=cosine)
    number = last_number(gallery, options.prefix) if "identity" in gallery.fields() else 0
    alone = [
        Proposal(one.id, real_path(str(one.payload.get("path", ""))), one.key, one.source, one.camera, one.identity)
        for one in points
    ]
    names = [one.identity if one.is_somebody else None for one in points]
    images = arranged(alone, names, vectors, labels, calibration=calibration, prefix=options.prefix, number=number)
    return Proposals(images, neighbours, least, cosine)


def arranged(
    alone: Sequence[Proposal],
    names: Sequence[str | None],
    vectors: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    calibration: Calibration | None = None,
    prefix: str = "new",
    number: int = 0,
) -> tuple[Proposal, ...]:
    """The images of clusters in the order of a review, in their own where they are as sure.

    alone: each by itself. names: whom it shows, where that is known. labels: the cluster of each, [n]. number: of the
    last identity that has the prefix.
    """
    means = mean_similarity(vectors, labels)
    members: dict[int, list[int]] = {}
    for row, label in enumerate(labels.tolist()):
        members.setdefault(label, []).append(row)
    known = {label: sorted({name for row in rows if (name := names[row])}) for label, rows in members.items()}
    statuses = {label: status_of(len(rows), known[label]) for label, rows in members.items()}
    order = sorted(members, key=lambda label: (_ORDER.index(statuses[label]), -len(members[label]), label))
    images: list[Proposal] = []
    for place, label in enumerate(order, 1):
        rows, status = members[label], statuses[label]
        number += status == "new"
        proposed = known[label][0] if status == "known" else f"{prefix}-{number:04d}" if status == "new" else ""
        for row in sorted(rows, key=lambda row: (-means[row], row)):
            mean = float(means[row])
            sure = None
            if status != "single":
                sure = min(1.0, max(0.0, mean)) if calibration is None else calibration.probability(mean)
            own = replace(alone[row], cluster=place, size=len(rows), proposed=proposed, status=status, confidence=sure)
            images.append(own)
    return tuple(images)


def status_of(size: int, names: Collection[str]) -> Status:
    """The status of a cluster of so many images, whose known identities are ``names``."""
    return "single" if size == 1 else "conflict" if len(names) > 1 else "known" if names else "new"


def mean_similarity(vectors: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of each image to the others of its cluster, [n]; 1 for a single one."""
    sizes = np.bincount(labels)
    sums = np.zeros((len(sizes), vectors.shape[1]))
    np.add.at(sums, labels, vectors)
    others = np.maximum(sizes[labels] - 1, 1)
    own = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    mean = (np.einsum("ij,ij->i", vectors, sums[labels]) - own) / others
    return np.where(sizes[labels] == 1, 1.0, mean)


def last_number(gallery: Gallery, prefix: str) -> int:
    """The highest number of an identity that an earlier run has named."""
    pattern = re.compile(re.escape(prefix) + r"-([0-9]{1,9})")
    found = (pattern.fullmatch(str(name)) for name in gallery.facet("identity", limit=2**31 - 1))
    return max((int(match[1]) for match in found if match), default=0)


def write_review(proposals: Proposals, out: Path) -> None:
    """One row per image, in the order of the proposals. Raises SiameseSearchError where it cannot be written."""
    with writing(out), atomic_path(out) as aside, aside.open("w", encoding="utf-8", newline="") as handle:
        writer = CsvWriter(handle)
        writer.writerow(_HEADER)
        for one in proposals.images:
            confidence = "" if one.confidence is None else f"{one.confidence:.4f}"
            place = map(write_cell, (one.path or None, one.key, one.source, one.proposed or None))
            existing = write_cell(one.existing)
            writer.writerow([*place, confidence, one.size, existing, one.cluster, _NOTES.get(one.status, "")])
