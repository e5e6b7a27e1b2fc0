"""Searches for uploads, images of the gallery and vectors; and uploads that are kept, so that a URL names them."""

from __future__ import annotations

import hashlib
import io
import secrets
import threading
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from siamese_search.api.handle import GalleryHandle
from siamese_search.errors import NotThereError, StoreError, UsageError, printable
from siamese_search.gallery.contract import Gallery
from siamese_search.gallery.filters import Condition, parse_where
from siamese_search.gallery.times import bind_to
from siamese_search.io.images import decode_image, resized
from siamese_search.model.bundle import Bundle
from siamese_search.model.embedder import Embedder, FlipEmbedder, LookingEmbedder, centred
from siamese_search.retrieval.judging import check_fmr, mark
from siamese_search.retrieval.options import SearchOptions
from siamese_search.retrieval.query import Probe, SameImage, fuse, item_probe, point_probe, push_away
from siamese_search.retrieval.results import QueryResult
from siamese_search.retrieval.searcher import Searcher
from siamese_search.web.answers import Crop, Picture, Question, Upload
from siamese_search.web.options import Limits

Pixels = NDArray[np.uint8]
_Images = list[tuple[str, Pixels]]

#: Uploads that are kept, and what their pictures may take together.
_KEPT = 1000
_KEPT_BYTES = 64 << 20
#: Pixels in each direction of the picture that is kept, from which another part can be cut.
_SHOWN = 1024
#: Pixels in each direction up to which an image is decoded before a part is cut out.
_DECODED = 4096


def encoded(pixels: Pixels) -> Picture:
    """An image as a JPEG that holds nothing but its pixels."""
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, format="JPEG", quality=85)
    return Picture(held.getvalue(), hashlib.blake2b(held.getvalue(), digest_size=8).hexdigest())


def cropped(pixels: Pixels, crop: Crop | None) -> Pixels:
    """The part of an image, uint8 [h, w, 3]. Raises UsageError for a box that is none."""
    if crop is None:
        return pixels
    if not (0 <= crop.left < crop.right <= 1 and 0 <= crop.top < crop.bottom <= 1):  # nor NaN
        raise UsageError("a crop is left, top, right and bottom from 0 to 1, left of right and top above bottom")
    height, width = pixels.shape[:2]
    left, top = int(crop.left * width), int(crop.top * height)
    right, bottom = max(int(np.ceil(crop.right * width)), left + 1), max(int(np.ceil(crop.bottom * height)), top + 1)
    return np.ascontiguousarray(pixels[top:bottom, left:right])


@dataclass(frozen=True, slots=True)
class Kept:
    """An upload that is kept. picture: at most 1,024 pixels in each direction, uncropped."""

    name: str
    pixels: Pixels  # as the network takes them
    picture: Picture
    crop: Crop | None
    whole: Pixels | None = None  # of the upload itself: the picture has lost a little


class Searching:
    """Everything that embeds."""

    def __init__(self, handle: GalleryHandle, limits: Limits) -> None:
        self._handle, self._limits = handle, limits
        #: The network of the last search; a gallery that is indexed anew may have another.
        self._embedder: Embedder | None = None
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._lock = threading.Lock()

    def search(self, question: Question, options: SearchOptions) -> list[QueryResult]:
        """Answers as of ``sss search``; each result has the point's ``id``. options: k, where, group_by, exclude_self,
        min_score, fmr, rerank, candidates, flip and together count."""
        self._check(question, options.k)
        raw = parse_where(options.where)

        made: dict[Embedder, tuple[list[Probe], list[Probe]]] = {}

        def embedded(embedder: Embedder) -> tuple[list[Probe], list[Probe]]:
            """What to search for, and what to search away from."""
            if embedder not in made:
                wanted = self._probes(embedder, question.uploads, question.kept, options.flip, question.crop)
                away = self._probes(embedder, question.away_uploads, question.away_kept, options.flip)
                made[embedder] = wanted, away
            return made[embedder]

        if self._embedder is not None:
            embedded(self._embedder)  # before the turn: others search meanwhile

        def answer(gallery: Gallery, embedder: Embedder, bundle: Bundle) -> list[QueryResult]:
            judge = self._handle.judge(gallery, bundle, options)
            check_fmr(judge, options.fmr, printable(bundle.name))
            bound = bind_to(gallery, raw)
            searcher = Searcher(gallery, embedder)
            self._embedder = embedder
            wanted, away = embedded(embedder)
            count = gallery.count()
            if count == 0:
                raise StoreError(f"gallery {gallery.name!r} is empty; fill it with: sss ingest DIR")
            asked = wanted + self._of_points(gallery, question.points)
            asked += [item_probe(gallery, key) for key in question.keys]
            asked += [self._of_vector(gallery, number, one) for number, one in enumerate(question.vectors, 1)]
            apart = [one.vector for one in away + self._of_points(gallery, question.away_points)]
            if apart or (options.together and len(asked) > 1):
                # What a hit scores is no longer its similarity to one image.
                own = SameImage(None, any_score=True)
                asked = [replace(one, judge=own) if isinstance(one.judge, SameImage) else one for one in asked]
            if options.together:
                asked = [fuse(asked)]
            if apart:
                asked = [push_away(one, np.stack(apart)) for one in asked]
            found = list(searcher.answers(asked, options.k, bound, options))
            against = gallery.count(bound) if bound else count
            return mark(found, judge, options.fmr, against)

        return self._handle.reading(answer)

    def keep(self, uploads: Sequence[Upload], crop: Crop | None = None) -> list[str]:
        """Decode images and keep them in memory (the last 1,000): one token each, for ``Question(kept=tokens)`` and
        URLs. crop: of the first image."""
        self._check(Question(uploads=tuple(uploads)), 1)
        whole = [self._decode(one, (_SHOWN, _SHOWN), fit=True) for one in uploads]
        ready = self._decoded(uploads, crop, self._size_now())
        tokens = []
        for (name, pixels), shown in zip(ready, whole, strict=True):
            tokens.append(self._add(Kept(name, pixels, encoded(shown), crop, pixels if crop is None else None)))
            crop = None
        return tokens

    def kept(self, token: str) -> Kept:
        """What a token stands for."""
        with self._lock:
            found = self._kept.get(token)
            if found is not None:
                self._kept.move_to_end(token)
        if found is None:
            raise NotThereError("this query image is no longer kept: search with it again")
        return found

    def recrop(self, token: str, crop: Crop | None) -> str:
        """A new token for another part of a kept image."""
        held = self.kept(token)
        if crop is None and held.whole is not None:
            return self._add(replace(held, pixels=held.whole, crop=None))
        pixels = resized(cropped(decode_image(held.picture.data), crop), self._size_now())
        return self._add(replace(held, pixels=pixels, crop=crop))

    def _add(self, one: Kept) -> str:
        token = secrets.token_urlsafe(12)
        with self._lock:
            self._kept[token] = one
            while len(self._kept) > _KEPT or (
                len(self._kept) > 1 and sum(len(each.picture.data) for each in self._kept.values()) > _KEPT_BYTES
            ):
                self._kept.popitem(last=False)
        return token

    def _check(self, question: Question, k: int) -> None:
        most = self._limits
        asked = (question.uploads, question.points, question.keys, question.vectors, question.kept)
        if not any(asked):
            raise UsageError("nothing to search for; give at least one image, point, key or vector")
        apart = (question.away_uploads, question.away_points, question.away_kept)
        if sum(map(len, asked)) > most.images or sum(map(len, apart)) > most.images:
            raise UsageError(f"one search takes at most {most.images} images; give fewer")
        if not 1 <= k <= most.k:
            raise UsageError(f"k is {k}; ask for 1 to {most.k} results")

    def _size_now(self) -> tuple[int, int]:
        return self._handle.reading(lambda _, embedder, __: embedder.input_size)

    def _decode(self, one: Upload, size: tuple[int, int], *, fit: bool = False) -> Pixels:
        return decode_image(one.data, size, name=printable(one.name)[:200], fit=fit, max_pixels=self._limits.pixels)

    def _decoded(self, uploads: Sequence[Upload], crop: Crop | None, size: tuple[int, int]) -> _Images:
        """Names, and pixels as the network takes them: those of a whole image are what a search by file gets."""
        found = []
        for one in uploads:
            if crop is None:
                pixels = self._decode(one, size)
            else:
                pixels = resized(cropped(self._decode(one, (_DECODED, _DECODED), fit=True), crop), size)
            crop = None  # it is of the first
            found.append((printable(one.name)[:200], pixels))
        return found

    def _probes(
        self, embedder: Embedder, uploads: Sequence[Upload], kept: Sequence[str], flip: bool, crop: Crop | None = None
    ) -> list[Probe]:
        """As :meth:`Searcher.probes`, of uploads and of those that are kept. crop: of the first."""
        size = embedder.input_size
        images = self._decoded(uploads, crop, size)
        images += [(one.name, resized(one.pixels, size)) for one in map(self.kept, kept)]
        if not images:
            return []
        looking = LookingEmbedder(FlipEmbedder(embedder) if flip else embedder)
        vectors = centred(looking, looking.embed(np.stack([one for _, one in images])))
        return [
            Probe(name, None, vector, SameImage(None), looks=looks[None])
            for (name, _), vector, looks in zip(images, vectors, looking.seen, strict=True)
        ]

    def _of_points(self, gallery: Gallery, points: Sequence[str]) -> list[Probe]:
        found = []
        ids = list(map(point_of, points))
        for asked, point in zip(points, gallery.retrieve(ids, with_vectors=True) if ids else [], strict=True):
            if point is None:
                raise NotThereError(f"there is no image {printable(asked)!r} in the gallery (any more)")
            found.append(point_probe(gallery, point))
        return found

    def _of_vector(self, gallery: Gallery, number: int, values: Sequence[float]) -> Probe:
        vector = np.asarray(values, np.float64)
        with np.errstate(over="ignore"):  # infinite then, and refused
            length = float(np.linalg.norm(vector))
        if vector.shape != (gallery.dim,) or not np.isfinite(length) or length < 1e-6:
            raise UsageError(f"vector {number} is not {gallery.dim} finite numbers, not all of them 0")
        return Probe(f"vector {number}", None, (vector / length).astype(np.float32), SameImage(None))


def point_of(text: str) -> str:
    """A point id as the store has it. Raises NotThereError for what is none."""
    try:
        return str(uuid.UUID(text))
    except (ValueError, AttributeError):
        raise NotThereError(f"{printable(text)[:80]!r} is not the id of an image") from None


def images_of(gallery: Gallery, identity: str) -> int:
    """How many images an identity has; 0 where there is nobody by that name."""
    return gallery.count([Condition("identity", "=", (identity,))]) if "identity" in gallery.fields() else 0


def images_of_known(gallery: Gallery, identity: str) -> int:
    """As :func:`images_of`; NotThereError where there is nobody."""
    if count := images_of(gallery, identity):
        return count
    raise NotThereError(f"nobody in the gallery is called {printable(identity)[:80]!r}")


def mark_of(gallery: Gallery) -> tuple[object, ...]:
    """What changes with the gallery; the last is ``None`` where nobody can say."""
    return gallery.model.fingerprint, gallery.count(), gallery.write_mark()
