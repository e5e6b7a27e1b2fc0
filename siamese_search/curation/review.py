"""The review of proposed identities: a CSV to edit and apply with ``sss label``."""

from __future__ import annotations

from pathlib import Path

from siamese_search.curation.identities import Proposals
from siamese_search.curation.label_table import PROPOSED
from siamese_search.errors import SiameseSearchError, printable
from siamese_search.io.csv_cells import CsvWriter, write_cell
from siamese_search.io.files import atomic_path

HEADER = (
    "path", "key", "source", PROPOSED, "confidence", "cluster size", "existing identity", "cluster", "note",
)  # fmt: skip
_NOTES = {
    "conflict": "conflict: its images have different identities",
    "single": "single",
    "known": "",
    "new": "",
}


def write_review(proposals: Proposals, out: Path) -> None:
    """One row per image, in the order of the proposals. Raises SiameseSearchError where it cannot be written."""
    try:
        with atomic_path(out) as aside, aside.open("w", encoding="utf-8", newline="") as handle:
            writer = CsvWriter(handle)
            writer.writerow(HEADER)
            for one in proposals.images:
                confidence = "" if one.confidence is None else f"{one.confidence:.4f}"
                place = map(write_cell, (one.path or None, one.key, one.source, one.proposed or None))
                existing = write_cell(one.existing)
                writer.writerow([*place, confidence, one.size, existing, one.cluster, _NOTES[one.status]])
    except OSError as error:
        raise SiameseSearchError(f"{printable(out)}: cannot be written: {error.strerror or error}") from None
