"""Evaluation protocols: which images are queries, which are the gallery, and what each rule leaves out.

``all_vs_all``  one set: every image of a named identity is a query against all the other images.
``market``      two sets, as in Market-1501: the queries are ranked against a separate gallery.

Both follow the same rules. Images without an identity are left out (nobody can say whether they match).
Junk (``-1``) leaves the ranking, distractors (``0000``) stay in it as negatives and are no queries. With the
same-camera rule, gallery images of the query's identity *and* camera leave its ranking: near-duplicate
frames would make any model look good. Without it ("no cameras") only the query itself leaves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siamese_search.datasets.records import DISTRACTOR_IDENTITY, JUNK_IDENTITY, ImageRecord
from siamese_search.errors import DataError
from siamese_search.evaluation.labels import Labels

ALL_VS_ALL = "all_vs_all"
MARKET = "market"


@dataclass(frozen=True, slots=True)
class ExclusionCounts:
    """What each rule did. The first three count images, the next two pairs, the others queries, the last again images.

    ``same_camera`` counts (query, gallery image) pairs that would have been matches but share the camera;
    ``itself`` counts queries that were found in the gallery. A query without a match left is invalid, either
    because it has none at all (``no_match``) or because all share its camera (``same_camera_only``). ``copied`` queries
    have a copy, the same bytes under the same identity, among the others; ``copies`` of images were left out for that.
    """

    unlabelled: int
    junk: int
    distractors: int
    same_camera: int
    itself: int
    no_match: int
    same_camera_only: int
    copied: int = 0
    copies: int = 0


@dataclass(frozen=True)
class Protocol(Labels):
    """Queries and gallery as chosen.

    ``query_rows`` int64 [q] and ``gallery_rows`` int64 [g] index the records given (for ``all_vs_all`` both
    index the one list). Their labels as numbers are those of :class:`Labels`.
    ``use_cameras`` is whether the same-camera rule has any effect: asked for, and cameras are known.
    """

    name: str
    use_cameras: bool
    queries: list[ImageRecord]
    gallery: list[ImageRecord]
    query_rows: NDArray[np.int64]
    gallery_rows: NDArray[np.int64]
    excluded: ExclusionCounts

    @property
    def query_ids(self) -> list[str]:
        return [record.identity or "" for record in self.queries]

    @property
    def gallery_ids(self) -> list[str]:
        return [record.identity or "" for record in self.gallery]

    @property
    def query_cameras(self) -> list[str | None] | None:
        """Cameras of the queries, or ``None`` where the same-camera rule is off."""
        return [record.camera for record in self.queries] if self.use_cameras else None

    @property
    def gallery_cameras(self) -> list[str | None] | None:
        """Cameras of the gallery images, or ``None`` where the same-camera rule is off."""
        return [record.camera for record in self.gallery] if self.use_cameras else None

    def explain(self) -> list[str]:
        """What was left out and by which rule, one line for people each; empty if nothing was."""
        counts = self.excluded
        rule = "the same-camera rule"
        lines = [
            (counts.unlabelled, "images without an identity left out: nobody can say what matches them"),
            (counts.junk, "junk images (identity -1) left out of every ranking"),
            (counts.distractors, "distractor images (identity 0000) ranked, always as negatives"),
            (counts.itself, "queries left out of their own ranking"),
            (counts.same_camera, f"matches left out by {rule}: same identity and camera as the query"),
            (counts.no_match, "queries invalid: no other image of their identity"),
            (counts.same_camera_only, f"queries invalid: {rule} took every match (--no-cameras keeps them)"),
            (
                counts.copied,
                "queries have a copy (the same bytes) among the others, "
                + ("left out (--copies keeps it)" if counts.copies else "which counts as a right answer"),
            ),
        ]
        return [f"{count:,} {text}" for count, text in lines if count]

    def require_valid_query(self) -> None:
        """Raise DataError, saying what to do, where no query has a match that it could find."""
        counts, total = self.excluded, len(self.queries)
        copies = (
            f"; {counts.copies} copies of the same bytes are left out (--copies keeps them)"
            if counts.copies
            else ""
        )
        if total == 0:
            raise DataError("nothing to evaluate: no image of a named identity (junk and distractors aside)")
        if counts.no_match + counts.same_camera_only < total:
            return
        if counts.same_camera_only == 0:
            raise DataError(
                f"nothing to evaluate: none of the {total} queries has another image of its identity to find{copies}"
            )
        who = "every query" if counts.no_match == 0 else "every query that had a match"
        raise DataError(f"{who} lost its matches to the same-camera rule: use --no-cameras{copies}")


def all_vs_all(records: Sequence[ImageRecord], *, use_cameras: bool = True) -> Protocol:
    """One set of images: each one of a named identity is a query against all the others."""
    gallery_rows, left_out = _rankable(records)
    gallery = [records[row] for row in gallery_rows]
    places = [place for place, record in enumerate(gallery) if record.identity != DISTRACTOR_IDENTITY]
    same_image = np.array(places, dtype=np.int64)
    return _protocol(
        ALL_VS_ALL,
        use_cameras,
        [gallery[place] for place in places],
        gallery,
        gallery_rows[same_image],
        gallery_rows,
        same_image,
        left_out,
    )


def market(
    queries: Sequence[ImageRecord],
    gallery: Sequence[ImageRecord],
    *,
    use_cameras: bool = True,
    same: Callable[[ImageRecord], object] | None = None,
) -> Protocol:
    """Two sets: queries against a gallery. A query whose file is in the gallery too does not find itself.

    same: what equal images have in common. By default files are compared as files: a link, or another spelling of the
    path, does not make a second image.
    """
    same = same or _file
    query_rows, query_left_out = _rankable(queries)
    gallery_rows, gallery_left_out = _rankable(gallery)
    asked_rows = np.array(
        [row for row in query_rows if queries[row].identity != DISTRACTOR_IDENTITY], dtype=np.int64
    )
    asked = [queries[row] for row in asked_rows]
    ranked = [gallery[row] for row in gallery_rows]
    places = {same(record): place for place, record in enumerate(ranked)}
    same_image = np.array([places.get(same(record), -1) for record in asked], dtype=np.int64)
    return _protocol(
        MARKET,
        use_cameras,
        asked,
        ranked,
        asked_rows,
        gallery_rows,
        same_image,
        query_left_out + gallery_left_out,
    )


def _file(record: ImageRecord) -> tuple[int, int] | Path:
    """What makes a file the same file: device and inode, or its path where it is not on this machine."""
    try:
        status = record.path.stat()
    except (OSError, ValueError):
        return record.path
    return status.st_dev, status.st_ino


def _rankable(records: Sequence[ImageRecord]) -> tuple[NDArray[np.int64], Counter[str]]:
    """Rows of the images that may stand in a ranking, and how many others there are of each kind."""
    kinds = Counter[str]()
    rows: list[int] = []
    for row, record in enumerate(records):
        if record.identity is None:
            kinds["unlabelled"] += 1
        elif record.identity == JUNK_IDENTITY:
            kinds["junk"] += 1
        else:
            rows.append(row)
    return np.array(rows, dtype=np.int64), kinds


def _protocol(
    name: str,
    use_cameras: bool,
    queries: list[ImageRecord],
    gallery: list[ImageRecord],
    query_rows: NDArray[np.int64],
    gallery_rows: NDArray[np.int64],
    same_image: NDArray[np.int64],
    left_out: Counter[str],
) -> Protocol:
    known = any(r.camera is not None for r in queries) and any(r.camera is not None for r in gallery)
    effective = use_cameras and known
    by_identity = Counter(record.identity for record in gallery)
    by_camera = Counter((record.identity, record.camera) for record in gallery if record.camera is not None)
    same_camera = no_match = same_camera_only = 0
    for query, own in zip(queries, same_image.tolist()):
        itself = own >= 0 and gallery[own].identity == query.identity
        matches = by_identity[query.identity] - itself
        lost = 0
        if effective and query.camera is not None:
            lost = by_camera[query.identity, query.camera]
            lost -= itself and gallery[own].camera == query.camera
        same_camera += lost
        no_match += matches == 0
        same_camera_only += matches > 0 and matches == lost
    counts = ExclusionCounts(
        unlabelled=left_out["unlabelled"],
        junk=left_out["junk"],
        distractors=by_identity[DISTRACTOR_IDENTITY],
        same_camera=same_camera,
        itself=int((same_image >= 0).sum()),
        no_match=no_match,
        same_camera_only=same_camera_only,
    )
    labels = Labels.of(
        [record.identity or "" for record in queries],
        [record.identity or "" for record in gallery],
        [record.camera for record in queries] if effective else None,
        [record.camera for record in gallery] if effective else None,
        same_image=same_image,
    )
    return Protocol(
        **vars(labels),
        name=name,
        use_cameras=effective,
        queries=queries,
        gallery=gallery,
        query_rows=query_rows,
        gallery_rows=gallery_rows,
        excluded=counts,
    )
