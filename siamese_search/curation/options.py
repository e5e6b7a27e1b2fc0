"""What the care for a gallery is asked for: one request a verb, for every way to ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from siamese_search import options as shared
from siamese_search.options import Request, StrPath, Switch, option
from siamese_search.retrieval.options import cosine


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOptions(Request):
    """See :func:`siamese_search.api.curation.propose_identities`."""

    where: str | Sequence[str] = shared.where()
    labelled: bool = option(False, "", switches=(Switch("all", True, "Cluster images that have an identity too."),))
    neighbours: int = option(
        20, "About as many images as an identity has; fewer where each was seen a few times only.", low=1, metavar="N"
    )
    least: float = option(
        0.25,
        "Least mean k-reciprocal similarity of two clusters that are merged: higher is more clusters.",
        low=0,
        high=1,
        low_open=True,
        metavar="S",
    )
    cosine: float | None = cosine(
        "Least mean cosine of two clusters that are merged.  [default: by calibration]", named="min_score"
    )
    prefix: str = option("new", "New identities are called NAME-0001, NAME-0002, ...", metavar="NAME")
    store: StrPath | None = shared.store()
    gallery: str | None = shared.gallery()
    model: StrPath | None = shared.model()


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelOptions(Request):
    """See :func:`siamese_search.api.curation.label`. columns: of the command line, with commas between them."""

    dry_run: bool = option(False, "Show what would change, and change nothing.")
    undo: StrPath | None = option(
        None, "Write the former values to this new file; `sss label` applies it.", named="undo_file", metavar="FILE.csv"
    )
    columns: str | Sequence[str] = option((), "Apply only these columns.", unsaid=True, metavar="NAME,...")
    store: StrPath | None = shared.store()
    gallery: str | None = shared.gallery()

    def names(self) -> list[str]:
        """The columns to apply; none for all."""
        given = self.columns.split(",") if isinstance(self.columns, str) else self.columns
        return [name.strip() for name in given] if self.columns else []
