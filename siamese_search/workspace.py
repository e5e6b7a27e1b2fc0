"""A gallery and the model that belongs to it, opened together, for the functions of :mod:`siamese_search.api`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from siamese_search import errors
from siamese_search.datasets.walk import walk_images
from siamese_search.errors import DataError, GalleryNotFoundError, ModelMismatchError, UsageError, printable
from siamese_search.gallery import open_gallery, open_store
from siamese_search.gallery.contract import Gallery, ModelRef, Store
from siamese_search.io.location import protocol_of
from siamese_search.io.resources import Closing
from siamese_search.model.bundle import PACKAGED, Bundle, OfBundle, load_bundle
from siamese_search.model.embedder import Device, Embedder, Started, begin, load_embedder
from siamese_search.options import StrPath as StrPath
from siamese_search.settings import Settings, load_settings

#: A query that is one image.
OneImage = Path | NDArray[np.uint8] | bytes | Image.Image
Query = StrPath | OneImage | Sequence[StrPath | OneImage]
Notify = Callable[[str], None]


class LazyEmbedder(OfBundle):
    """An embedder that is loaded by its first image: an ingest with nothing new should not pay for it."""

    def __init__(self, bundle: Bundle, device: Device, threads: int) -> None:
        super().__init__(bundle)
        self._options = (bundle, device, threads)
        self._embedder: Embedder | None = None

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._loaded().embed(images)

    def begin(self, images: NDArray[np.uint8]) -> Started:
        """As :func:`siamese_search.model.embedder.begin`."""
        return begin(self._loaded(), images)

    def _loaded(self) -> Embedder:
        if self._embedder is None:
            self._embedder = load(*self._options)
        return self._embedder


def load(bundle: Bundle, device: Device, threads: int) -> Embedder:
    """The bundle's network, ready to run. threads: 0 takes all."""
    return load_embedder(bundle, device=device, threads=threads)


def model_of(gallery: ModelRef) -> Bundle:
    """The bundle on this machine that made a gallery: where the gallery remembers it, or one of the package.

    Raises ModelMismatchError naming both fingerprints where none is it.
    """
    for name in dict.fromkeys((gallery.name or "bundled", *PACKAGED)):
        try:
            bundle = load_bundle(PACKAGED.get(name, name))  # whatever is called so in this directory
        except errors.BundleError:
            continue
        if bundle.fingerprint == gallery.fingerprint:
            return bundle
    lost = gallery.name not in PACKAGED and not Path(gallery.name).is_dir()
    origin = f" ({printable(gallery.name)}{', which is no longer there' * lost})" if gallery.name else ""
    raise ModelMismatchError(
        f"the gallery was made by model {gallery.fingerprint[:12]}{origin}, and the bundled model is"
        f" {load_bundle().fingerprint[:12]}; name its bundle with --model (an ingest remembers where it is),"
        " or embed the images again with `sss reindex`"
    )


class Reader(Closing):
    """A gallery with the embedder for its queries and its bundle: ``model``, or the gallery's own model if that is "".

    Opened by the first :meth:`now` and kept open; opened anew once another generation has become current, with the
    network that is loaded where that one is of the same model. Not thread-safe.
    """

    def __init__(self, store: str, name: str, model: StrPath, threads: int) -> None:
        self._place, self._model, self._threads = (store, name), model, threads
        self._store: Store | None = None
        self._gallery: Gallery | None = None
        self._loaded: tuple[Bundle, Embedder] | None = None

    def now(self) -> tuple[Gallery, Embedder, Bundle]:
        """The current generation, its embedder and its bundle."""
        if self._gallery is not None and self._store is not None and not self._store.is_current(self._gallery):
            self.release()
        if self._gallery is None or self._loaded is None:
            self._open()
        assert self._gallery is not None
        assert self._loaded is not None
        bundle, embedder = self._loaded
        return self._gallery, embedder, bundle

    def release(self) -> None:
        """Close the gallery; the network stays loaded."""
        gallery, self._gallery = self._gallery, None
        if gallery is not None:
            gallery.close()

    def close(self) -> None:
        """Close everything; :meth:`now` opens it again."""
        self.release()
        store, self._store, self._loaded = self._store, None, None
        if store is not None:
            store.close()

    def _open(self) -> None:
        location, name = self._place
        named = load_bundle(os.fspath(self._model)) if self._model else None
        self._store = self._store or open_store(location)
        self._gallery = self._store.open(name, model=None if named is None else reference(named))
        try:
            if self._loaded is None or self._loaded[0].fingerprint != self._gallery.model.fingerprint:
                bundle = named or model_of(self._gallery.model)
                # Side by side with the vectors: each takes about as long, and a cold search mostly waits for the two.
                with ThreadPoolExecutor(1, thread_name_prefix="sss-model") as pool:
                    loading = pool.submit(load, bundle, "cpu", self._threads)
                    # Opening read the header only; the first call, here a count, loads the vectors.
                    self._gallery.count()
                    self._loaded = bundle, loading.result()
        except BaseException:
            self.release()
            raise


@contextmanager
def open_to_write(
    store: StrPath | None,
    gallery: str | None,
    model: StrPath | None,
    *,
    storage: str | None = None,
    quantise: str | None = None,
) -> Iterator[tuple[Gallery, Bundle]]:
    """The gallery, made if need be, with the model that is named, else its own, else the bundled one.

    storage, quantise: how one that is made keeps its vectors; UsageError for one that keeps them otherwise.
    """
    settings = load_settings()
    place, name = place_of(settings, store, gallery)
    named = settings.model if model is None else os.fspath(model)

    def open_() -> tuple[Gallery, Bundle]:
        if named:
            bundle = load_bundle(named)
        else:
            try:
                with open_gallery(place, name) as existing:
                    bundle = model_of(existing.model)
            except GalleryNotFoundError:
                bundle = load_bundle(None)
        opener = open_store(place)
        wanted = opener.default_storage().changed(storage, quantise)
        found = opener.open(name, model=reference(bundle), create=True, mode="w", storage=wanted)
        if found.storage.changed(storage, quantise) != found.storage:
            has = found.storage
            found.close()
            raise UsageError(
                f"gallery {name!r} in {printable(place)} keeps its vectors as {has}: leave the option out, or change"
                " them all with: sss reindex --keep-vectors"
                + (f" --storage {storage}" if storage else "")
                + (f" --quantise {quantise}" if quantise else "")
            )
        return found, bundle

    try:
        found = open_()
    except ModelMismatchError:
        if named:
            raise
        found = open_()  # re-indexed between our two looks
    with found[0]:
        yield found


def reference(bundle: Bundle) -> ModelRef:
    """What a gallery remembers of a bundle."""
    return ModelRef(bundle.fingerprint, bundle.dim, bundle.name)


def place_of(settings: Settings, store: StrPath | None, gallery: str | None) -> tuple[str, str]:
    """(store, gallery name): as given, else as the settings say."""
    place = settings.store if store is None else path_text(store, "a store")
    return place, settings.gallery if gallery is None else gallery


@contextmanager
def store_in_use(store: StrPath | None, gallery: str | None) -> Iterator[tuple[Store, str]]:
    """The store, open, and the gallery's name: as given, else as the settings say."""
    place, name = place_of(load_settings(), store, gallery)
    with open_store(place) as opened:
        yield opened, name


def bundle_in_use(model: StrPath | None) -> Bundle:
    """The bundle: as given, else as the settings say, else the bundled one."""
    return load_bundle((load_settings().model if model is None else path_text(model, "a model")) or None)


def threads_in_use(threads: int | None) -> int:
    """CPU threads: as given, else as the settings say."""
    return load_settings().threads if threads is None else threads


def path_text(given: StrPath, what: str) -> str:
    """A path as text. Raises UsageError for what is none: bytes, a list, an image."""
    if isinstance(given, bytes) or not isinstance(given, str | os.PathLike):
        several = "; give several as arguments of their own" if isinstance(given, list | tuple) else ""
        raise UsageError(f"{what} is named by a path, not by {_article(given)}{several}")
    return os.fspath(given)


def _article(given: object) -> str:
    name = type(given).__name__
    return f"an {name}" if name[0].lower() in "aeiou" else f"a {name}"


def root_of(directory: StrPath) -> Path | str:
    """A root to ingest: a path, or a URL as it is, which a ``Path`` cannot hold."""
    text = path_text(directory, "what is ingested")
    return Path(text) if protocol_of(text) is None else text


def query_images(query: Query, *, alone: bool = True) -> list[OneImage]:
    """A query as images: of a list each; a directory stands for those in it, without any, not ``alone``, for itself."""
    if isinstance(query, bytes | np.ndarray | Image.Image):
        return [query]
    if isinstance(query, list | tuple):
        return [image for one in query for image in query_images(one, alone=alone)]
    if not isinstance(query, str | os.PathLike):
        raise UsageError(
            f"a query is a path, an image of Pillow's, an RGB array, uint8 [H, W, 3], or the bytes of an image's file,"
            f" not {_article(query)}"
        )
    if query == "":
        raise UsageError("a query's path is empty")
    path = Path(query)
    if not path.is_dir():
        return [path]
    images: list[OneImage] = [path / relative for relative in walk_images(path)]
    if not images and alone:
        raise DataError(f"{printable(path)}: no images in it to search for; check the path")
    return images or [path]
