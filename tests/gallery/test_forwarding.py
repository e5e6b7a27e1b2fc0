"""A gallery around another gives its answers, every call within what it is to happen in."""

from __future__ import annotations

import uuid
from contextlib import contextmanager

import numpy as np
import pytest
from fakes import MemoryGallery

from siamese_search.gallery.contract import Gallery
from siamese_search.gallery.engine import Forwarding, serial
from siamese_search.gallery.filters import Condition

IDS = [str(uuid.UUID(int=number)) for number in range(1, 5)]
RED = [Condition("colour", "=", ("red",))]

CALLS = {
    "set_payload": lambda g: g.set_payload(IDS[:1], [{"colour": "blue"}]),
    "delete": lambda g: g.delete(IDS[3:]),
    "query_batch": lambda g: [
        [(hit.id, hit.score, hit.payload) for hit in hits]
        for hits in g.query_batch(np.eye(2, g.dim, dtype=np.float32), 3, RED, exact=True, with_vectors=False)
    ],
    "query_ids": lambda g: g.query_ids(np.eye(2, g.dim, dtype=np.float32), 3, RED),
    "retrieve": lambda g: [(point.id, point.payload) for point in g.retrieve(IDS, with_vectors=True)],
    "scroll": lambda g: [(point.id, point.payload) for point in g.scroll(RED, fields=("colour",))],
    "count": lambda g: g.count(RED),
    "facet": lambda g: g.facet("colour", [], 5),
    "fields": lambda g: g.fields(),
    "narrow": lambda g: g.narrow("colour", "int"),
    "flush": lambda g: g.flush(),
    "optimise": lambda g: g.optimise(index=None),
    "info": lambda g: g.info(),
    "write_mark": lambda g: g.write_mark(),
    "notes": lambda g: g.notes(),
    "annotate": lambda g: g.annotate({"calibration": None}),
    "close": lambda g: g.close(),
}


def filled(gallery: Gallery) -> Gallery:
    colours = ["red", "red", "blue", "red"]
    gallery.upsert(IDS, np.eye(4, gallery.dim, dtype=np.float32), [{"colour": colour} for colour in colours])
    return gallery


def watched_by(seen: list[str], inside: Gallery) -> Gallery:
    @contextmanager
    def around(call):
        seen.append(call)
        yield

    return Forwarding(inside, around)


def result_of(call, gallery):
    try:
        return call(gallery)
    except NotImplementedError:
        return NotImplementedError


@pytest.mark.parametrize("name", CALLS)
def test_each_call_gives_what_the_gallery_inside_gives(name):
    seen: list[str] = []
    plain, watched, alone = filled(MemoryGallery()), watched_by(seen, MemoryGallery()), serial(MemoryGallery())
    filled(watched)
    filled(alone)
    expected = result_of(CALLS[name], plain)
    assert result_of(CALLS[name], watched) == expected
    assert result_of(CALLS[name], alone) == expected
    assert seen == ["upsert", name]


def test_nothing_of_the_contract_is_answered_by_the_wrapper_itself():
    own = {"query", "dim", "__enter__", "__exit__"}  # made of the others
    public = {name for name in vars(Gallery) if not name.startswith("_") or name in own}
    attributes = {name for name in public if not callable(getattr(Gallery, name))}
    assert public - own - attributes == {"upsert", *CALLS} <= set(vars(Forwarding))
    inside = MemoryGallery("people")
    inside.shared = True
    outside = serial(inside)
    assert [getattr(outside, one) for one in ("name", "store", "shared", "model", "storage", "dim")] == [
        getattr(inside, one) for one in ("name", "store", "shared", "model", "storage", "dim")
    ]
