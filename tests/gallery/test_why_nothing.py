"""What is said where a filter leaves nothing: which condition, and what there is instead."""

from __future__ import annotations

import uuid

import numpy as np
import pytest

from siamese_search.gallery import open_gallery
from siamese_search.gallery.checks import why_nothing
from siamese_search.gallery.contract import ModelRef
from siamese_search.gallery.filters import parse_where
from siamese_search.gallery.times import bind_to


@pytest.fixture
def told(scratch):
    """Six points of cameras 1, 2 and 10 in rooms, whose frames are 0 to 5."""
    payloads = [
        {"camera": camera, "room": room, "frame": frame, "size": frame, **({"late": True} if frame > 4 else {})}
        for frame, (camera, room) in enumerate([("1", "a"), ("2", "a"), ("10", "b")] * 2)
    ]
    vectors = np.eye(6, 8, dtype=np.float32)
    with open_gallery(scratch / "store", model=ModelRef("f" * 64, 8), create=True, mode="w") as gallery:
        gallery.upsert([str(uuid.UUID(int=i + 1)) for i in range(6)], vectors, payloads)

        def ask(*where: str) -> str:
            raw = parse_where(where)
            return why_nothing(gallery, raw, bind_to(gallery, raw))

        yield ask


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (["camera=99"], "no image has camera=99; there are 1, 2, 10"),
        (["camera=1", "camera=99"], "no image has camera=99; there are 1, 2, 10"),
        (["frame>9"], "no image has frame>9; there are 0, 1, 2, 3, 4, 5"),
        (["late=no"], "no image has late=no; there is true"),
        (["camera!=1,2,10"], "no image has camera!=1,2,10"),
        (["camera!=*"], "every image has camera"),
        (["size=77"], "no image has size=77"),
        (["camera=1", "room=b"], "no image has camera=1 and room=b at the same time"),
        (["camera=1", "room=a"], ""),
    ],
)
def test_the_condition_is_named_and_what_there_is(told, where, expected):
    assert told(*where) == expected


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("camera!=01", ["--where camera!=01 leaves nothing out: no image has it; there are 1, 2, 10"]),
        ("camera!=1,01", []),
        ("frame!=9", ["--where frame!=9 leaves nothing out: no image has it; there are 0, 1, 2, 3, 4, 5"]),
        ("late!=*", []),
    ],
)
def test_what_leaves_nothing_out_is_told(told, caplog, where, expected):
    told(where)
    assert [record.getMessage() for record in caplog.records] == expected
