"""Changes of labels, each of which can be taken back."""

from __future__ import annotations

import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from siamese_search.api.handle import GalleryHandle
from siamese_search.curation.identities import last_number
from siamese_search.curation.label_table import label_value
from siamese_search.curation.labels import Change, change_of, write_changes
from siamese_search.datasets.records import label_text
from siamese_search.errors import NotThereError, RefusedError, UsageError, amount, printable
from siamese_search.gallery.contract import Gallery, StoredPoint
from siamese_search.gallery.filters import Condition
from siamese_search.gallery.payload import read_labelled
from siamese_search.web.answers import Edit
from siamese_search.web.options import Limits
from siamese_search.web.searching import images_of, images_of_known, point_of

_log = logging.getLogger(__name__)
#: Edits that can be taken back.
_MOST = 200
#: What new identities are called: ``new-0001``, as by ``sss cluster``.
_PREFIX = "new"

P = ParamSpec("P")
#: The points to change, their new labels, and what that is, for people.
Wanted = tuple[Sequence[StoredPoint], Mapping[str, Any], str]


def _edit(change: Callable[Concatenate[Labels, Gallery, P], Wanted]) -> Callable[Concatenate[Labels, P], Edit]:
    """A method that says what to change in the gallery, as one that changes it."""

    @wraps(change)
    def edit(self: Labels, /, *args: P.args, **keywords: P.kwargs) -> Edit:
        return self.make(lambda gallery: change(self, gallery, *args, **keywords))

    return edit


class Labels:
    """Each change is refused with RefusedError where the server is read-only."""

    def __init__(self, handle: GalleryHandle, limits: Limits, read_only: bool) -> None:
        self._handle, self._limits, self._read_only = handle, limits, read_only
        #: By token: the edit, and what takes it back.
        self._edits: OrderedDict[str, tuple[Edit, Callable[[], None]]] = OrderedDict()
        self._lock = threading.RLock()

    @_edit
    def rename(self, gallery: Gallery, name: str, new: str) -> Wanted:
        """Give an identity another name that nobody has yet."""
        points = _whole(gallery, [name := label_text(name)])
        wanted = self._free(gallery, new, ": merge the two instead")
        return points, {"identity": wanted}, f"renamed {name} to {wanted}"

    @_edit
    def merge(self, gallery: Gallery, names: Sequence[str], into: str) -> Wanted:
        """Give all images of ``names`` the identity ``into``, which exists."""
        into, *others = dict.fromkeys(map(label_text, (into, *names)))
        images_of_known(gallery, into)
        if not others:
            raise UsageError("name at least one other identity to merge")
        return _whole(gallery, others), {"identity": into}, f"merged {', '.join(others[:5])} into {into}"

    @_edit
    def split(self, gallery: Gallery, points: Sequence[str], new: str = "") -> Wanted:
        """Give these images of one identity a new one; "" makes a name (``new-0001`` and so on)."""
        found = self.found(gallery, points)
        before = {one.identity for one in found}
        if len(before) != 1 or None in before:
            raise UsageError("a split takes images of one identity; these have several, or none")
        (name,) = before
        if images_of(gallery, str(name)) == len(found):
            raise UsageError(f"these are all images of {printable(str(name))!r}: rename it instead")
        wanted = self._new(gallery, new)
        return found, {"identity": wanted}, f"split {amount(len(found), 'image')} of {name} off as {wanted}"

    @_edit
    def assign(self, gallery: Gallery, points: Sequence[str], values: Mapping[str, Any]) -> Wanted:
        """Set labels (identity, camera, any metadata) of images; ``None`` takes one away."""
        if not values or len(values) > 50:
            raise UsageError("give 1 to 50 labels to set")
        found, fields = self.found(gallery, points), gallery.fields()
        wanted = {
            name: label_value(name, self._text(one) if isinstance(one, str) else one, fields)
            for name, one in values.items()
        }
        said = ", ".join(f"{name} {'taken away' if one is None else one}" for name, one in wanted.items())
        return found, wanted, f"set {said} of {len(found)} image{'s' * (len(found) != 1)}"

    @_edit
    def same(self, gallery: Gallery, point: str, other: str) -> Wanted:
        """Both show one identity: that of ``other``, else that of ``point``, else a new one."""
        found = self.found(gallery, [point, other])
        if len(found) != 2:
            raise UsageError("an image is always the same as itself; name another one")
        first, second = found
        name = second.identity or first.identity or self._new(gallery)
        return found if second.identity is None else [first], {"identity": name}, f"{first.key} is {name}"

    @_edit
    def new(self, gallery: Gallery, point: str) -> Wanted:
        """The image shows somebody new."""
        found, name = self.found(gallery, [point]), self._new(gallery)
        return found, {"identity": name}, f"{found[0].key} is {name}"

    def remember(self, what: str, forget: Callable[[], None]) -> Edit:
        """An edit of this server's memory only."""
        self._may()
        return self._keep(what, 0, forget)

    def undo(self, token: str) -> Edit:
        """Take an edit back. RefusedError where somebody has changed the same labels since."""
        self._may()
        with self._lock:
            if token not in self._edits:
                raise NotThereError("there is no such edit to take back; only the latest of this server's are kept")
            edit, take_back = self._edits[token]
            if edit.undone:
                raise RefusedError("this edit was taken back already")
            take_back()
            self._edits[token] = replace(edit, undone=True), take_back
            _log.info("took back: %s", printable(edit.what))
            return Edit(f"took back: {edit.what}", edit.changed, None, _now())

    def edits(self) -> list[Edit]:
        """The edits of this server, the last one first (at most 200)."""
        with self._lock:
            return [edit for edit, _ in reversed(self._edits.values())]

    def make(self, change: Callable[[Gallery], Wanted]) -> Edit:
        """Make a change and keep it; one that changes nothing is no edit to take back."""
        self._may()

        def write(gallery: Gallery) -> tuple[list[Change], str]:
            points, values, what = change(gallery)
            changes = [found for point in points if (found := change_of(point, values)) is not None]
            write_changes(gallery, changes)
            return changes, what

        with self._lock:
            changes, what = self._handle.writing(write)
            if not changes:
                return Edit(what, 0, None, _now())
            _log.info("%s: %d images", printable(what), len(changes))
            return self._keep(
                what, len(changes), lambda: self._handle.writing(lambda gallery: _take_back(gallery, changes))
            )

    def _keep(self, what: str, changed: int, take_back: Callable[[], None]) -> Edit:
        token = secrets.token_urlsafe(12)
        edit = Edit(what, changed, token, _now())
        with self._lock:
            self._edits[token] = edit, take_back
            while len(self._edits) > _MOST:
                self._edits.popitem(last=False)
        return edit

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

    def _new(self, gallery: Gallery, name: str = "") -> str:
        """A name that nobody has."""
        if name.strip():
            return self._free(gallery, name, "; choose another name")
        number = last_number(gallery, _PREFIX) if "identity" in gallery.fields() else 0
        return f"{_PREFIX}-{number + 1:04d}"

    def _free(self, gallery: Gallery, name: str, advice: str) -> str:
        wanted: str = label_value("identity", self._text(name), gallery.fields())
        if images_of(gallery, wanted):
            raise RefusedError(f"somebody is called {printable(wanted)!r} already{advice}")
        return wanted


def _whole(gallery: Gallery, names: Sequence[str]) -> list[StoredPoint]:
    """All points of these identities."""
    for name in names:
        images_of_known(gallery, name)
    return list(gallery.scroll([Condition("identity", "=", tuple(names))]))


def _take_back(gallery: Gallery, changes: Sequence[Change]) -> None:
    """Write the former values, unless somebody has changed the same since."""
    back = []
    for change, point in zip(changes, gallery.retrieve([change.id for change in changes]), strict=True):
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
