"""GalleryService: all that the pages and the API do with a gallery, over one handle that stays open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from siamese_search.api.handle import GalleryHandle
from siamese_search.api.maintenance import galleries
from siamese_search.errors import NotThereError, SiameseSearchError, printable
from siamese_search.web.answers import (
    Cluster,
    Crop,
    Edit,
    Facet,
    GalleryFacts,
    IdentitySummary,
    IdentityView,
    Picture,
    Question,
    ReviewQueue,
    Sighting,
    Upload,
)
from siamese_search.web.identities import Identities
from siamese_search.web.labelling import Labels
from siamese_search.web.options import Limits, ServeOptions
from siamese_search.web.overview import Overview
from siamese_search.web.reviewing import Review
from siamese_search.web.searching import Searching

if TYPE_CHECKING:
    from siamese_search.retrieval.options import SearchOptions
    from siamese_search.retrieval.results import QueryResult


class GalleryService:
    """Thread-safe. Every failure is a SiameseSearchError of one line: NotThereError for what does not exist (404),
    RefusedError for what is not done (409).

    where: filters as on the command line, ``["camera=2", "frame>=100"]``; several are joined by AND.
    """

    def __init__(self, options: ServeOptions, limits: Limits | None = None) -> None:
        self.options = options
        self.limits = limits or Limits()
        self._handle = GalleryHandle(options.store, options.gallery, options.model, options.threads)
        self.name = self._handle.gallery
        self.trouble: str | None = "starting"
        self._searching = Searching(self._handle, self.limits)
        self._identities = Identities(self._handle)
        self._labels = Labels(self._handle, self.limits, options.read_only)
        self._review = Review(self._handle, self._labels)
        self._overview = Overview(self._handle, options)

    # search

    def search(self, question: Question, options: SearchOptions) -> list[QueryResult]:
        """Answers as of ``sss search``; each result has the point's ``id``.

        options: k, where, group_by, exclude_self, min_score, fmr, rerank, candidates, flip and together count.
        """
        return self._searching.search(question, options)

    def keep(self, uploads: Sequence[Upload], crop: Crop | None = None) -> list[str]:
        """Embed images and keep vector and a small picture in memory (the last 1,000): one token each, for a URL.

        crop: of the first image. ``Question(kept=tokens)`` searches for them; a token that has gone is NotThereError.
        """
        return self._searching.keep(uploads, crop)

    def kept_picture(self, token: str) -> Picture:
        """The picture of a token of :meth:`keep`, at most 512 pixels in each direction, uncropped."""
        return self._searching.kept(token).picture

    def kept_crop(self, token: str) -> Crop | None:
        """The crop that a token was kept with."""
        return self._searching.kept(token).crop

    def recrop(self, token: str, crop: Crop | None) -> str:
        """A new token for another part of a kept image."""
        return self._searching.recrop(token, crop)

    def facets(self, where: Sequence[str] = (), *, values: int = 20) -> list[Facet]:
        """The fields to narrow by, identity and camera first; counts under ``where``."""
        return self._identities.facets(where, values)

    # identities

    def identities(
        self, text: str = "", *, where: Sequence[str] = (), start: int = 0, limit: int = 60
    ) -> tuple[list[IdentitySummary], int]:
        """A page of the identities whose name contains ``text``, most images first, and how many there are."""
        return self._identities.identities(text, where, start, limit)

    def identity(self, name: str, *, limit: int = 500, suggestions: int = 5) -> IdentityView:
        """One identity. suggestions: at most so many others that are likely the same."""
        return self._identities.identity(name, limit, suggestions)

    def sighting(self, point: str) -> Sighting:
        """One image of the gallery by its point id."""
        found = self.sightings([point])
        if not found:
            raise NotThereError(f"there is no image {printable(point)[:80]!r} in the gallery (any more)")
        return found[0]

    def sightings(self, points: Sequence[str]) -> list[Sighting]:
        """Several, in order; those that are not there are left out."""
        return self._identities.sightings(points)

    # images

    def picture(self, point: str, *, size: int = 512) -> Picture:
        """The image of a point, encoded anew, at most ``size`` (16 to 2048) pixels in each direction."""
        return self._identities.picture(point, size)

    # labels: each is refused with RefusedError where the server is read-only

    def rename(self, name: str, new: str) -> Edit:
        """Give an identity another name that nobody has yet."""
        return self._labels.rename(name, new)

    def merge(self, names: Sequence[str], into: str) -> Edit:
        """Give all images of ``names`` the identity ``into``, which exists."""
        return self._labels.merge(names, into)

    def split(self, points: Sequence[str], new: str = "") -> Edit:
        """Give these images of one identity a new one; "" makes a name (``new-0001`` and so on)."""
        return self._labels.split(points, new)

    def assign(self, points: Sequence[str], values: dict[str, Any]) -> Edit:
        """Set labels (identity, camera, any metadata) of images; ``None`` takes one away."""
        return self._labels.assign(points, values)

    def undo(self, token: str) -> Edit:
        """Take an edit back. RefusedError where somebody has changed the same labels since."""
        return self._labels.undo(token)

    def edits(self) -> list[Edit]:
        """The edits of this server, the last one first (at most 200)."""
        return self._labels.edits()

    # review

    def review(self, *, where: Sequence[str] = (), limit: int = 20) -> ReviewQueue:
        """Images without identity, the least certain first."""
        return self._review.queue(where, limit)

    def review_yes(self, point: str, candidate: str) -> Edit:
        """The image shows whom the image ``candidate`` (a point id) shows. Where neither is known: a new identity."""
        return self._review.yes(point, candidate)

    def review_no(self, point: str, candidate: str) -> Edit:
        """It does not: the next candidate is asked about. Kept until the server ends; can be undone like any edit."""
        return self._review.no(point, candidate)

    def review_new(self, point: str) -> Edit:
        """The image shows somebody new."""
        return self._review.new(point)

    def review_skip(self, point: str) -> Edit:
        """Not now: the image comes last."""
        return self._review.skip(point)

    def clusters(
        self, *, where: Sequence[str] = (), labelled: bool = False, least: float | None = None
    ) -> list[Cluster]:
        """Proposed identities, as of ``sss cluster`` (kept until the gallery changes)."""
        return self._overview.clusters(where, labelled, least)

    # the whole gallery

    def gallery_map(
        self,
        *,
        color: str = "identity",
        method: str | None = None,
        where: Sequence[str] = (),
        limit: int = 2000,
    ) -> dict[str, Any]:
        """The JSON of ``sss plot``; each point also has ``id``, ``color`` (``#rrggbb``) and ``entry``, its place in
        ``legend``: ``[{"label", "color", "count"}]``, the most frequent ``first``, or -1. Where colours stand for
        numbers there are ``scale`` (low, high) and ``stops``. x, y: 0 to 1.
        """
        return self._overview.gallery_map(color, method, where, limit)

    def info(self) -> GalleryFacts:
        """Counts, model, calibration, storage, failures, evaluation."""
        return self._overview.info()

    def galleries(self) -> dict[str, Any]:
        """What the store holds: ``galleries`` of ``sss info --json``."""
        return galleries(store=self._handle.store)

    # the server itself

    def warm(self) -> None:
        """Open the gallery and load the network."""
        try:
            self._handle.reading(lambda gallery, _embedder, _bundle: gallery.count())
            self.trouble = None
        except SiameseSearchError as error:
            self.trouble = str(error)

    def ready(self) -> str | None:
        """Why there is no answer yet; ``None`` when there is one."""
        if self.trouble is not None:
            self.warm()
        return self.trouble

    def close(self) -> None:
        """Release gallery and network."""
        self._handle.close()
