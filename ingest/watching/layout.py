"""RootLayout: which layout a watched root has, as far as its images tell; more of them may tell otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ingest.watching.locate import Locator
from siamese_search.datasets.layouts import Survey, survey
from siamese_search.datasets.walk import walk_images
from siamese_search.errors import DataError, printable

#: (level, event, message): ``level`` is info or warning, ``event`` a word for programs.
Say = Callable[[Literal["info", "warning"], str, str], None]


@dataclass(frozen=True, slots=True)
class RootOptions:
    """layout, source: as for an ingest. others: directories of the other roots that share ``source``.
    settle: seconds. rescan: seconds between full scans, 0 for never. poll: read again instead of events."""

    layout: str = "auto"
    source: str | None = None
    others: Sequence[str] = ()
    settle: float = 0.5
    rescan: float = 3600.0
    poll: bool = False
    follow_links: bool = False
    images_root: Path | None = None


class RootLayout:
    """Surveys one root, and says what layout it found."""

    def __init__(self, path: Path, options: RootOptions, say: Say) -> None:
        self._path, self._options, self._say = path, options, say
        #: Whether nobody has asked for a layout, so that other images may make it another one.
        self.may_change = options.layout == "auto" and path.is_dir()

    def has_images(self) -> bool:
        links = self._options.follow_links
        found = walk_images(self._path, follow_links=links, inside=not links, skipped=lambda *_: None)
        return next(found, None) is not None

    def survey(self) -> Locator:
        """What a survey finds there now. Raises DataError, as :func:`~siamese_search.datasets.layouts.survey`."""
        return self._locator(self._surveyed())

    def reconsidered(self, locator: Locator) -> Locator | None:
        """A locator for another layout than this one's, where the images that are there now have another."""
        try:
            found = self._surveyed()
        except DataError:  # no images are left, or it cannot be read: the layout stays what it was
            return None
        same = found.detection.layout == locator.survey.detection.layout
        return None if same else self._locator(found)

    def _surveyed(self) -> Survey:
        options = self._options
        return survey(
            self._path,
            options.layout,
            images_root=options.images_root,
            follow_links=options.follow_links,
            lenient=True,
        )

    def _locator(self, found: Survey) -> Locator:
        layout, reason = found.detection.layout, found.detection.reason
        self._say("info", "layout", f"{printable(self._path)}: layout {layout}: {reason}")
        return Locator(found, self._options.source, self._options.others)
