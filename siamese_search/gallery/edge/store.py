"""The embedded store: a directory of galleries, each with its generations (see layout.py for the files).

Who may change what:

- The pointers to the current and the previous generation change only under the lock of the current one
  (``shard.lock``): its user's call ends first, and its writers notice before they write again.
- The building generation changes only under the gallery's ``build.lock``, which its builder holds while it is open.
- Where both are held, the second is taken without waiting, so that two processes cannot wait for each other.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

import qdrant_edge as edge

from siamese_search.errors import GalleryNotFoundError, StoreBusyError, StoreError, printable
from siamese_search.gallery.contract import Gallery, Generations, ModelRef, Settle, Store
from siamese_search.gallery.edge import layout
from siamese_search.gallery.edge.convert import shard_config, translated
from siamese_search.gallery.edge.footprint import check_room
from siamese_search.gallery.edge.gallery import EmbeddedGallery
from siamese_search.gallery.edge.locks import Turnstile
from siamese_search.gallery.storage import Storage
from siamese_search.io.files import expanded
from siamese_search.model.bundle import PACKAGED

_WAIT = 10.0


class EmbeddedStore(Store):
    """A directory, which need not exist yet. Holds nothing open itself, so closing it closes nothing."""

    def __init__(self, location: str | os.PathLike[str]) -> None:
        self.path = expanded(location)
        self.location = os.fspath(self.path)

    def names(self) -> list[str]:
        return layout.gallery_names(self.path)

    def _create(self, name: str, model: ModelRef, storage: Storage, wait: float) -> None:  # noqa: ARG002 - for nobody
        gallery = layout.gallery_directory(self.path, name)
        layout.make_store(self.path)
        if (gallery / "CURRENT").is_file():
            return
        layout.check_pointer(gallery)
        layout.remove_dropped(gallery.parent)
        aside = gallery.with_name(f".{name}.{uuid.uuid4().hex[:8]}.part")
        try:
            layout.point_to(aside, _build_generation(aside, layout.GalleryHeader(name, model, storage)))
            layout.publish_gallery(aside, gallery)
        except BaseException:
            layout.remove_tree(aside)
            raise

    def _opened(self, name: str, model: ModelRef | None, mode: Literal["r", "w"], wait: float) -> EmbeddedGallery:
        while True:
            generation = layout.current_generation(layout.find_gallery(self.path, name))
            try:
                header = layout.read_header(generation)
                found = header.model
                if model is not None:
                    model.check(found, self.what(name))
                gallery = EmbeddedGallery(self.path, generation, mode=mode, wait=wait)
                if mode == "w" and model is not None and not PACKAGED.keys() & {model.name, found.name}:
                    # Is it remembered in a place where it is no longer, and here is another place?
                    gone = not (found.name and Path(found.name).is_dir())
                    if gone and model.name not in ("", found.name):
                        layout.write_header(generation, replace(header, model=model))
                return gallery
            except StoreError:
                if generation.is_dir():
                    raise
                # Replaced and deleted since we looked: look again.

    def is_current(self, gallery: Gallery) -> bool:
        assert isinstance(gallery, EmbeddedGallery)
        with suppress(GalleryNotFoundError):  # opening it says what there is
            return layout.current_generation(gallery.generation.parent) == gallery.generation
        return False

    def generations(self, name: str) -> Generations:
        directory = layout.find_gallery(self.path, name)
        while True:
            current, previous = layout.generation_pointers(directory)
            others = (previous, layout.building_generation(directory))
            try:
                models = [None if path is None else layout.read_header(path).model for path in others]
                return Generations(layout.read_header(current).model, *models)
            except StoreError:
                if all(path is None or path.is_dir() for path in (current, *others)):
                    raise
                # Deleted since we looked: look again.

    def build(self, name: str, model: ModelRef, *, storage: Storage | None = None, wait: float = _WAIT) -> Gallery:
        with ExitStack() as undo:
            directory = undo.enter_context(self._builder(name, wait))
            if storage is None:
                current = layout.read_header(layout.current_generation(directory))
                storage = self.default_storage(current.storage)
            fresh = layout.building_generation(directory)
            header = None
            with suppress(StoreError):  # not sound as far as its header goes
                header = None if fresh is None else layout.read_header(fresh)
            if header is None or not header.model.same_as(model) or header.storage != storage:
                fresh = None
                layout.mark_building(directory, None)
            self._sweep(directory, name)
            if fresh is None:
                fresh = _build_generation(directory, layout.GalleryHeader(name, model, storage))
                layout.mark_building(directory, fresh)
            gallery = EmbeddedGallery(
                self.path, fresh, mode="w", wait=wait, building=True, on_close=lambda: right.close()
            )
            right = undo.pop_all()  # it stays with the gallery, until that is closed
            return gallery

    def publish(self, name: str, settle: Settle | None = None, *, wait: float = _WAIT) -> None:
        directory = layout.find_gallery(self.path, name)
        fresh = layout.building_generation(directory)
        if fresh is None:
            raise StoreError(f"nothing is being built for {self.what(name)}: there is nothing to publish")
        layout.read_header(fresh)
        with self._alone(name, wait) as current:
            if settle is not None:
                settle(current)
            with self._builder(name, wait=0):
                if layout.building_generation(directory) != fresh:
                    raise StoreError(f"another process has begun to re-index {self.what(name)}: run it again")
                layout.point_to(directory, fresh, layout.current_generation(directory))
                layout.mark_building(directory, None)
        # The older previous one, if there was one. What somebody still reads, the next builder deletes.
        with suppress(StoreBusyError, GalleryNotFoundError), self._builder(name, wait=0):
            self._sweep(directory, name)

    def rollback(self, name: str) -> ModelRef:
        with self._turn(name, _WAIT) as directory:
            current, previous = layout.generation_pointers(directory)
            if previous is None:
                raise StoreError(f"{self.what(name)} has no former generation to go back to")
            model = layout.read_header(previous).model
            layout.check_own(previous)
            layout.finish_swap(previous)
            if not (previous / layout.SHARD).is_dir():
                raise StoreError(f"{printable(previous)} is damaged: it holds no vectors; nothing was changed")
            layout.point_to(directory, previous, current)
        return model

    def drop_old(self, name: str) -> int:
        with self._builder(name, wait=_WAIT) as directory:
            with self._turn(name, _WAIT):
                current, previous = layout.generation_pointers(directory)
                former = [previous, layout.building_generation(directory)]
                layout.mark_building(directory, None)
                layout.point_to(directory, current)
            self._sweep(directory, name, wait=_WAIT)
        return sum(generation is not None for generation in former)

    def drop(self, name: str) -> None:
        with self._builder(name, wait=_WAIT) as directory, ExitStack() as turns:
            # All there are, whatever the pointers say: a damaged gallery can be dropped too.
            for generation in sorted(directory.glob("g-*")):
                if not generation.is_symlink():
                    turns.enter_context(_held(generation, self.what(name), _WAIT))
            layout.set_aside(directory)
        layout.remove_dropped(directory.parent)

    @contextmanager
    def _alone(self, name: str, wait: float) -> Iterator[EmbeddedGallery]:
        """The current generation, open for reading, held against everybody for the whole block."""
        while True:
            with self._opened(name, None, "r", wait) as current, current.alone():
                # Somebody may have published or rolled back between our look and our lock.
                if layout.current_generation(current.generation.parent) == current.generation:
                    yield current
                    return

    @contextmanager
    def _turn(self, name: str, wait: float) -> Iterator[Path]:
        """The gallery's directory, its current generation held as in :meth:`_alone`, but unread: it may be damaged."""
        while True:
            directory = layout.find_gallery(self.path, name)
            current = layout.current_generation(directory)
            with _held(current, self.what(name), wait) as held:
                if held and layout.current_generation(directory) == current:
                    yield directory
                    return

    @contextmanager
    def _builder(self, name: str, wait: float) -> Iterator[Path]:
        """The gallery's directory, with the right to change what is being built."""
        while True:
            directory = layout.find_gallery(self.path, name)
            lock = Turnstile(directory, f"re-indexing {self.what(name)}", "build.lock")
            try:
                lock.acquire(wait)
            except FileNotFoundError:  # dropped since we looked
                continue
            try:
                if lock.in_place():
                    yield directory
                    return
            finally:
                lock.release()

    def _sweep(self, directory: Path, name: str, wait: float | None = None) -> None:
        """Delete the generations that no pointer names. Call it with the builder's right.

        wait: seconds for readers of each to end their call (StoreBusyError then); None leaves such for next time.
        """
        for stray in layout.stray_generations(directory):
            try:
                with _held(stray, f"the former generation of {self.what(name)}", wait or 0.0) as held:
                    if held:
                        layout.set_aside(stray)
            except StoreBusyError:
                if wait is not None:
                    raise
        layout.remove_dropped(directory)


@contextmanager
def _held(generation: Path, what: str, wait: float) -> Iterator[bool]:
    """Hold a generation's lock; False where the generation has gone."""
    lock = Turnstile(generation, what)
    try:
        with suppress(FileNotFoundError):
            lock.acquire(wait)
        yield generation.is_dir()
    finally:
        lock.release()


def _build_generation(parent: Path, header: layout.GalleryHeader) -> Path:
    generation = layout.new_generation(parent, header)
    try:
        check_room(generation, f"gallery {header.name!r}")
        with translated(f"making gallery {header.name!r}"):
            config = shard_config(header.model.dim, header.storage)
            edge.EdgeShard.create(os.fspath(generation / layout.SHARD), config).close()
    except BaseException:
        layout.remove_tree(generation)
        raise
    return generation
