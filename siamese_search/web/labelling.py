"""Changes of labels, each of which can be taken back."""

from __future__ import annotations

import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from siamese_search.api.handle import GalleryHandle
from siamese_search.curation.identities import last_number
from siamese_search.curation.label_table import label_value
from siamese_search.curation.labels import Change, change_of, write_changes
from siamese_search.errors import NotThereError, RefusedError, UsageError, amount, printable
from siamese_search.gallery.contract import Gallery, StoredPoint
from siamese_search.gallery.filters import Condition
from siamese_search.gallery.payload import read_labelled
from siamese_search.web.answers import Edit
from siamese_search.web.options import Limits
from siamese_search.web.searching import images_of, point_of

_log = logging.getLogger(__name__)
#: Edits that can be taken back.
_MOST = 200
#: What new identities are called: ``new-0001``, as by ``sss cluster``.
_PREFIX = "new"


#: The points to change, their new labels, and what that is, for people.
Wanted = tuple[Sequence["StoredPoint"], Mapping[str, Any], str]


@dataclass(slots=True)
class _Entry:
    edit: Edit
    changes: Sequence[Change] = ()
    forget: Callable[[], None] | None = None  # of an edit that changes nothing in the gallery


class Labels:
    """Each change is refused with RefusedError where the server is read-only."""

    def __init__(self, handle: GalleryHandle, limits: Limits, read_only: bool) -> None:
        self._handle, self._limits, self._read_only = handle, limits, read_only
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._lock = threading.RLock()

    def rename(self, name: str, new: str) -> Edit:
        """Give an identity another name that nobody has yet."""

        def change(gallery: Gallery) -> Wanted:
            points = _whole(gallery, [name])
            wanted = self._free(gallery, new, ": merge the two instead")
            return points, {"identity": wanted}, f"renamed {name} to {wanted}"

        return self._edit(change)

    def merge(self, names: Sequence[str], into: str) -> Edit:
        """Give all images of ``names`` the identity ``into``, which exists."""
        others = [name for name in dict.fromkeys(names) if name != into]

        def change(gallery: Gallery) -> Wanted:
            _whole(gallery, [into], look=True)
            if not others:
                raise UsageError("name at least one other identity to merge")
            return _whole(gallery, others), {"identity": into}, f"merged {', '.join(others[:5])} into {into}"

        return self._edit(change)

    def split(self, points: Sequence[str], new: str = "") -> Edit:
        """Give these images of one identity a new one; "" makes a name (``new-0001`` and so on)."""

        def change(gallery: Gallery) -> Wanted:
            found = self.found(gallery, points)
            before = {one.identity for one in found}
            if len(before) != 1 or None in before:
                raise UsageError("a split takes images of one identity; these have several, or none")
            (name,) = before
            if images_of(gallery, str(name)) == len(found):
                raise UsageError(f"these are all images of {printable(str(name))!r}: rename it instead")
            wanted = self._new(gallery, new)
            return found, {"identity": wanted}, f"split {amount(len(found), 'image')} of {name} off as {wanted}"

        return self._edit(change)

    def assign(self, points: Sequence[str], values: Mapping[str, Any]) -> Edit:
        """Set labels (identity, camera, any metadata) of images; ``None`` takes one away."""
        if not values or len(values) > 50:
            raise UsageError("give 1 to 50 labels to set")

        def change(gallery: Gallery) -> Wanted:
            found, fields = self.found(gallery, points), gallery.fields()
            wanted = {
                name: label_value(name, self._text(one) if isinstance(one, str) else one, fields)
                for name, one in values.items()
            }
            said = ", ".join(f"{name} {'taken away' if one is None else one}" for name, one in wanted.items())
            count = f"{len(found)} image{'s' * (len(found) != 1)}"
            return found, wanted, f"set {said} of {count}"

        return self._edit(change)

    def same(self, point: str, other: str) -> Edit:
        """Both show one identity: that of ``other``, else that of ``point``, else a new one."""

        def change(gallery: Gallery) -> Wanted:
            found = self.found(gallery, [point, other])
            if len(found) != 2:
                raise UsageError("an image is always the same as itself; name another one")
            first, second = found
            name = second.identity or first.identity or self._new(gallery, "")
            both = found if second.identity is None else [first]
            return both, {"identity": name}, f"{first.key} is {name}"

        return self._edit(change)

    def new(self, point: str) -> Edit:
        """The image shows somebody new."""

        def change(gallery: Gallery) -> Wanted:
            found = self.found(gallery, [point])
            name = self._new(gallery, "")
            return found, {"identity": name}, f"{found[0].key} is {name}"

        return self._edit(change)

    def remember(self, what: str, forget: Callable[[], None]) -> Edit:
        """An edit of this server's memory only."""
        self._may()
        return self._keep(_Entry(Edit(what, 0, secrets.token_urlsafe(12), _now()), forget=forget))

    def undo(self, token: str) -> Edit:
        """Take an edit back. RefusedError where somebody has changed the same labels since."""
        self._may()
        with self._lock:
            entry = self._entries.get(token)
            if entry is None:
                raise NotThereError("there is no such edit to take back; only the latest of this server's are kept")
            if entry.edit.undone:
                raise RefusedError("this edit was taken back already")
            if entry.forget is not None:
                entry.forget()
            else:
                self._handle.writing(lambda gallery: _take_back(gallery, entry.changes))
            entry.edit = replace(entry.edit, undone=True)
            _log.info("took back: %s", printable(entry.edit.what))
            return Edit(f"took back: {entry.edit.what}", entry.edit.changed, None, _now())

    def edits(self) -> list[Edit]:
        """The edits of this server, the last one first (at most 200)."""
        with self._lock:
            return [entry.edit for entry in reversed(self._entries.values())]

    def _edit(self, change: Callable[[Gallery], Wanted]) -> Edit:
        self._may()

        def write(gallery: Gallery) -> tuple[list[Change], str]:
            points, values, what = change(gallery)
            changes = [found for point in points if (found := change_of(point, values)) is not None]
            write_changes(gallery, changes)
            return changes, what

        with self._lock:
            changes, what = self._handle.writing(write)
            token = secrets.token_urlsafe(12) if changes else None
            edit = Edit(what, len(changes), token, _now())
            if token is None:
                return edit
            _log.info("%s: %d images", printable(what), len(changes))
            return self._keep(_Entry(edit, changes))

    def _keep(self, entry: _Entry) -> Edit:
        assert entry.edit.undo is not None
        with self._lock:
            self._entries[entry.edit.undo] = entry
            while len(self._entries) > _MOST:
                self._entries.popitem(last=False)
        return entry.edit

    def _may(self) -> None:
        if self._read_only:
            raise RefusedError("this server is read-only: start it without --read-only to change labels")

    def _text(self, text: str) -> str:
        if len(text) > self._limits.text:
            raise UsageError(f"a label has at most {self._limits.text:,} characters")
        return text

    def found(self, gallery: Gallery, points: Sequence[str]) -> list[StoredPoint]:
        """The points of these ids, each once. Raises NotThereError where one is missing."""
        if not 1 <= len(points) <= self._limits.points:
            raise UsageError(f"name 1 to {self._limits.points:,} images")
        ids = list(dict.fromkeys(point_of(point) for point in points))
        found = [one for one in gallery.retrieve(ids) if one is not None]
        if len(found) != len(ids):
            raise NotThereError(f"{len(ids) - len(found)} of these images are not in the gallery (any more)")
        return found

    def _new(self, gallery: Gallery, name: str) -> str:
        """A name that nobody has."""
        if not name.strip():
            number = last_number(gallery, _PREFIX) if "identity" in gallery.fields() else 0
            return f"{_PREFIX}-{number + 1:04d}"
        return self._free(gallery, name, "; choose another name")

    def _free(self, gallery: Gallery, name: str, advice: str) -> str:
        wanted: str = label_value("identity", self._text(name), gallery.fields())
        if images_of(gallery, wanted):
            raise RefusedError(f"somebody is called {printable(wanted)!r} already{advice}")
        return wanted


def _whole(gallery: Gallery, names: Sequence[str], *, look: bool = False) -> list[StoredPoint]:
    """All points of these identities; ``look``: only whether there are any."""
    for name in names:
        if not images_of(gallery, name):
            raise NotThereError(f"nobody in the gallery is called {printable(name)[:80]!r}")
    return [] if look else list(gallery.scroll([Condition("identity", "=", tuple(names))]))


def _take_back(gallery: Gallery, changes: Sequence[Change]) -> None:
    """Write the former values, unless somebody has changed the same since."""
    points = gallery.retrieve([change.id for change in changes])
    back = []
    for change, point in zip(changes, points, strict=True):
        if point is None:
            continue  # deleted since: nothing is left to take back
        now = {name: point.payload.get(name) for name in change.after}
        if now != change.after:
            raise RefusedError(f"{printable(change.key)} was labelled again since: take that back first")
        named = set(read_labelled(point.payload))
        added = set(change.labelled[1]) - set(change.labelled[0])
        back.append(replace(change, before=change.after, after=change.before, labelled=(
            change.labelled[1], tuple(sorted(named - added))
        )))  # fmt: skip
    write_changes(gallery, back)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
