"""GalleryService: all that the pages and the API do with a gallery, over one handle that stays open."""

from __future__ import annotations

from siamese_search.api.handle import GalleryHandle
from siamese_search.errors import SiameseSearchError
from siamese_search.web.holdings import Holdings
from siamese_search.web.labelling import Labels
from siamese_search.web.options import Limits, ServeOptions
from siamese_search.web.overview import Overview
from siamese_search.web.reviewing import Review
from siamese_search.web.searching import Searching


class GalleryService:
    """Its parts, each thread-safe, and what becomes of the server itself. Every failure is a SiameseSearchError of one
    line: NotThereError for what does not exist (404), RefusedError for what is not done (409).

    Where they take ``where``, it is filters as on the command line, ``["camera=2", "frame>=100"]``, joined by AND.
    """

    def __init__(self, options: ServeOptions, limits: Limits | None = None) -> None:
        self.options = options
        self.limits = limits or Limits()
        self._handle = GalleryHandle(options.store, options.gallery, options.model, options.threads)
        self.name = self._handle.gallery
        self.trouble: str | None = "starting"
        self.searching = Searching(self._handle, self.limits)
        self.holdings = Holdings(self._handle)
        self.labels = Labels(self._handle, self.limits, options.read_only)
        self.review = Review(self._handle, self.labels)
        self.overview = Overview(self._handle, options)

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
