"""A directory store: values by hand, and galleries that are really made."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siamese_search.gallery import open_gallery
from siamese_search.gallery.contract import ModelRef
from siamese_search.gallery.storage import QUANTISATIONS, VECTORS, Storage
from siamese_search.planning.figures import embedded_size, indexed_bytes

#: File systems round up, and an engine may change; benchmarks/plan.py is stricter.
TOLERANCE = 0.15


def made(store: Path, points: int, dim: int, storage: Storage) -> tuple[int, int]:
    """(bytes on disk, bytes that a search reads) of a gallery with the payloads of an ingest."""
    rng = np.random.default_rng(0)
    with open_gallery(store, model=ModelRef("0" * 64, dim, "x"), create=True, mode="w", storage=storage) as gallery:
        for start in range(0, points, 1000):
            rows = rng.standard_normal((1000, dim), dtype=np.float32)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            payloads = [
                {
                    "identity": f"{number // 20:06d}",
                    "camera": str(number % 6 + 1),
                    "source": "/data/gallery",
                    "key": f"{number // 20:06d}/{number:08d}.jpg",
                    "path": f"/data/gallery/{number // 20:06d}/{number:08d}.jpg",
                    "size": 2000 + number % 5000,
                    "mtime_ns": 1_700_000_000_000_000_000 + number,
                }
                for number in range(start, start + 1000)
            ]
            gallery.upsert([str(uuid.UUID(bytes=rng.bytes(16))) for _ in payloads], rows, payloads)
        gallery.flush()
        info = gallery.info()
        return info.size_bytes, info.resident_bytes


@pytest.mark.parametrize(
    ("points", "storage"),
    [(2000, Storage()), (5000, Storage("float16", "int4")), (5000, Storage("float16", "int8"))],
    ids=str,
)
def test_the_plan_is_what_a_gallery_takes(points: int, storage: Storage, tmp_path: Path) -> None:
    disk, resident = made(tmp_path / "store", points, 512, storage)
    size = embedded_size(points, 512, storage)
    assert not size.optimised
    assert size.disk == pytest.approx(disk, rel=TOLERANCE)
    assert size.resident == pytest.approx(resident, rel=TOLERANCE)


def test_by_hand() -> None:
    """10,000 × 512 in float16 with an int4 copy, as ingested."""
    size = embedded_size(10_000, 512, Storage("float16", "int4"), payload_bytes=190, optimised=False)
    assert size.vectors == 10_240_000
    assert size.quantised == 2_640_000  # 512 ÷ 2 + 8
    assert size.graph == 0
    assert size.payloads == 2_720_000  # two blocks of 128, and 16
    assert size.payload_indexes == 980_000
    assert size.ids == 290_000
    assert size.log == 17_260_000  # 512 × 3 + 190
    assert size.disk == 10_240_000 + 2_640_000 + 2_720_000 + 980_000 + 290_000 + 17_260_000 + 200_000
    assert size.resident == 2_640_000 + 980_000 + 290_000


def test_the_log_stops_growing() -> None:
    """Of 2,750 bytes a point: all of it in one segment of 2^25; later the last full one, and what is in the next."""
    sizes = [embedded_size(images, 512, Storage()).log for images in (10_000, 24_000, 30_000)]
    assert sizes == [27_500_000, 66_000_000, 82_500_000 - 2**25]
    for images in (10**5, 10**7, 10**9 + 7):
        assert 2**25 <= embedded_size(images, 512, Storage()).log < 2**26


def test_what_optimise_would_do() -> None:
    assert not embedded_size(19_999, 512, Storage()).optimised
    assert embedded_size(20_000, 512, Storage()).optimised
    assert not embedded_size(399_999, 512, Storage()).indexed
    assert embedded_size(400_000, 512, Storage()).indexed
    assert not embedded_size(10**6, 512, Storage("float16", "int4")).indexed
    assert embedded_size(1000, 512, Storage(), indexed=True).optimised  # a graph needs that


def test_metadata_are_indexed_names_are_not() -> None:
    assert indexed_bytes(190) == 56  # identity, camera, source
    assert indexed_bytes(1134) == 1000
    assert indexed_bytes(60) == 15


@given(
    st.integers(min_value=1, max_value=10**10),
    st.integers(min_value=1, max_value=4096),
    st.sampled_from(VECTORS),
    st.sampled_from(QUANTISATIONS),
)
def test_every_part_counts(images: int, dim: int, vectors: str, quantisation: str) -> None:
    size = embedded_size(images, dim, Storage(vectors, quantisation))
    assert size.disk > size.resident > 0
    assert size.vectors == images * dim * (4 if vectors == "float32" else 2)
    assert (size.quantised > 0) == (quantisation != "none")
    more = embedded_size(
        2 * images, dim, Storage(vectors, quantisation), optimised=size.optimised, indexed=size.indexed
    )
    assert more.vectors == 2 * size.vectors
    assert more.resident > size.resident
