"""Opening, listing, making and rebuilding galleries: from a store's name to a Gallery."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from siamese_search.errors import ModelMismatchError, StoreError, UsageError, printable
from siamese_search.gallery import layout
from siamese_search.gallery.base import Gallery, ModelRef

if TYPE_CHECKING:
    from siamese_search.gallery.embedded import EmbeddedGallery

Store = str | os.PathLike[str]


def open_gallery(
    store: Store,
    name: str = "default",
    *,
    model: ModelRef | None = None,
    create: bool = False,
    mode: Literal["r", "w"] = "r",
    wait: float = 10.0,
) -> Gallery:
    """Open a gallery of a store; use the result as a context manager.

    store: a directory. model: the model in hand; a gallery of another one is refused. create: make store and
    gallery where they do not exist (needs ``model`` and ``mode="w"``). wait: seconds to queue while another
    process has its turn.

    Raises GalleryNotFoundError (naming the galleries that there are), ModelMismatchError (naming both
    fingerprints), StoreBusyError (naming the holder; also from later calls on the gallery), StoreError for
    what is not a store or cannot be written, UsageError for a name that cannot be one.
    """
    path = _directory(store)
    layout.check_name(name)
    if create:
        if model is None or mode != "w":
            raise ValueError('create needs a model and mode "w"')
        _create(path, name, model)
    directory = layout.find_gallery(path, name)
    found = layout.read_header(layout.current_generation(directory)).model
    if model is not None and (model.fingerprint, model.dim) != (found.fingerprint, found.dim):
        raise ModelMismatchError(
            f"gallery {name!r} in {printable(path)} was made by another model: {_label(found)}, not {_label(model)}; "
            "search with that model, or run `sss reindex` to embed the gallery again"
        )
    from siamese_search.gallery.embedded import EmbeddedGallery

    return EmbeddedGallery(path, directory, mode=mode, wait=wait)


def list_galleries(store: Store) -> list[str]:
    """The names of a store's galleries, sorted; empty where there is no store yet. StoreError for anything else."""
    return layout.gallery_names(_directory(store))


@contextmanager
def rebuild_gallery(store: Store, name: str, model: ModelRef, *, wait: float = 10.0) -> Iterator[Gallery]:
    """A new, empty generation of an existing gallery, to be filled: ``sss reindex``.

    Searches go on in the old generation until the block ends; then the new one takes its place in one atomic
    step and the old one is deleted. An exception in the block deletes the new one and changes nothing.
    """
    path = _directory(store)
    directory = layout.find_gallery(path, name)
    fresh = _build_generation(directory, layout.GalleryHeader(name, model))
    try:
        from siamese_search.gallery.embedded import EmbeddedGallery

        with EmbeddedGallery(path, directory, mode="w", wait=wait, generation=fresh) as gallery:
            yield gallery
        _swap(directory, fresh, EmbeddedGallery(path, directory, wait=wait))
    except BaseException:
        if layout.current_generation(directory) != fresh:
            layout.remove_tree(fresh)
        raise


def _swap(directory: Path, fresh: Path, old: EmbeddedGallery) -> None:
    # Under the old generation's lock: whoever holds it finishes first, whoever waits for it looks again.
    with old, old.alone():
        former = layout.current_generation(directory)
        layout.point_to(directory, fresh)
        if former != fresh:
            layout.remove_tree(former)


def _create(store: Path, name: str, model: ModelRef) -> None:
    layout.make_store(store)
    gallery = layout.gallery_directory(store, name)
    if (gallery / "CURRENT").is_file():
        return
    aside = store / "galleries" / f".{name}.{uuid.uuid4().hex[:8]}.part"
    try:
        layout.point_to(aside, _build_generation(aside, layout.GalleryHeader(name, model)))
        layout.publish_gallery(aside, gallery)
    except BaseException:
        layout.remove_tree(aside)
        raise


def _build_generation(parent: Path, header: layout.GalleryHeader) -> Path:
    import qdrant_edge as edge

    from siamese_search.gallery.convert import shard_config, translated

    generation = layout.new_generation(parent, header)
    try:
        with translated(f"making gallery {header.name!r}"):
            config = shard_config(header.model.dim)
            edge.EdgeShard.create(os.fspath(generation / layout.SHARD), config).close()
    except BaseException:
        layout.remove_tree(generation)
        raise
    return generation


def _directory(store: Store) -> Path:
    text = os.fspath(store)
    if not text:
        raise UsageError("the store's name is empty: give a directory")
    if re.match(r"(?i)[a-z][a-z0-9+.-]*://", text):
        raise StoreError(f"{text.split('@')[-1]!r} is a URL: this release keeps galleries in a directory")
    return Path(text).expanduser()


def _label(model: ModelRef) -> str:
    short = f"{model.fingerprint.removeprefix('sha256:')[:12]}, {model.dim}-D"
    return f"{printable(model.name)} ({short})" if model.name else short
