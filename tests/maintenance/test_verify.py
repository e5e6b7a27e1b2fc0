"""sss verify: every way in which a gallery and its files can differ, with real files."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import numpy as np
import pytest
import qdrant_edge as edge

from siamese_search.curation.duplicates import find_duplicates
from siamese_search.datasets.records import encode_key
from siamese_search.errors import StoreError
from siamese_search.gallery import open_gallery
from siamese_search.gallery.contract import Gallery, ModelRef
from siamese_search.gallery.edge import layout
from siamese_search.io.files import digest_file
from siamese_search.maintenance import verify
from siamese_search.maintenance.verify import verify_gallery

DIM = 8
MODEL = ModelRef("f" * 64, DIM, "tests")


def point_id(i: int) -> str:
    return str(uuid.UUID(int=i))


def put(gallery: Gallery, i: int, path: Path, *, digest: bool = False, **payload: object) -> None:
    row = np.random.default_rng(i).standard_normal(DIM).astype(np.float32)
    known = path.stat()
    fields = {
        "path": encode_key(os.fspath(path)),
        "key": encode_key(path.name),
        "size": known.st_size,
        "mtime_ns": known.st_mtime_ns,
        **({"digest": digest_file(path)} if digest else {}),
        **payload,
    }
    gallery.upsert([point_id(i)], row[None] / np.linalg.norm(row), [fields])


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    out = []
    for i in range(6):
        out.append(tmp_path / "photos" / f"{i}.jpg")
        out[-1].parent.mkdir(exist_ok=True)
        out[-1].write_bytes(bytes([i]) * (100 + i))
    return out


@pytest.fixture
def store(tmp_path: Path, files: list[Path]) -> Path:
    path = tmp_path / "store"
    with open_gallery(path, model=MODEL, create=True, mode="w") as gallery:
        for i, file in enumerate(files):
            put(gallery, i, file, digest=i % 2 == 0)
    return path


def found(store: Path, **options: bool) -> dict[str, tuple[str, str]]:
    """key -> (kind, reason)"""
    with open_gallery(store) as gallery:
        summary = verify_gallery(gallery, **options)
    assert summary.points == 6
    assert summary.wrong == len(summary.problems)
    return {problem.key: (problem.kind, problem.reason) for problem in summary.problems}


def test_a_sound_gallery_has_no_problems(store: Path):
    assert found(store) == found(store, checksum=True) == found(store, files=False) == {}


def test_every_difference_is_named_with_its_reason(store: Path, files: list[Path]):
    files[0].unlink()
    files[1].write_bytes(b"longer than it was" * 10)
    os.utime(files[2], ns=(0, 0))
    files[3].unlink()
    files[3].mkdir()
    times = files[4].stat()
    files[4].write_bytes(bytes([9]) * 104)
    os.utime(files[4], ns=(times.st_atime_ns, times.st_mtime_ns))
    differences = found(store)
    assert differences["0.jpg"] == ("missing", "no such file")
    assert differences["1.jpg"] == ("changed", "180 bytes, was 101")
    assert differences["2.jpg"][0] == "changed"
    assert differences["2.jpg"][1].startswith("modified 1970-01-01")
    assert differences["3.jpg"][0] == "changed"
    assert "4.jpg" not in differences  # the same size and time
    assert "5.jpg" not in differences
    by_content = found(store, checksum=True)
    assert "2.jpg" not in by_content  # only its time is another
    assert by_content["4.jpg"] == ("changed", "its content is another")
    assert {key: by_content[key] for key in ("0.jpg", "1.jpg")} == {key: differences[key] for key in ("0.jpg", "1.jpg")}
    assert found(store, files=False) == {}


def test_points_without_a_digest_are_counted(store: Path):
    with open_gallery(store) as gallery:
        assert verify_gallery(gallery, checksum=True).unchecked == 3
        assert verify_gallery(gallery).unchecked == 0


def test_a_damaged_vector_is_named_with_its_file(store: Path):
    generation = layout.current_generation(store / "galleries" / "default")
    shard = edge.EdgeShard.load(os.fspath(generation / "shard"))
    shard.update(edge.UpdateOperation.update_vectors([edge.PointVectors(point_id(3), [1.0] + [0.0] * 7)]))
    shard.close()
    for options in ({}, {"files": False}):
        (key, (kind, reason)) = next(iter(found(store, **options).items()))
        assert (key, kind) == ("3.jpg", "damaged")
        assert "checksum" in reason


def test_names_of_any_bytes_and_payloads_without_a_path(store: Path, tmp_path: Path):
    strange = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n.jpg"))
    strange.write_bytes(b"x")
    with open_gallery(store, mode="w") as gallery:
        put(gallery, 0, strange)
    assert found(store) == {}
    strange.unlink()
    with open_gallery(store, mode="w") as gallery:
        row = np.eye(1, DIM, dtype=np.float32)
        gallery.upsert([point_id(1)], row, [{"key": "elsewhere"}])
        gallery.upsert([point_id(2)], row, [{"key": "nul", "path": "a%00b"}])
    with open_gallery(store) as gallery:
        problems = {problem.key: problem for problem in verify_gallery(gallery).problems}
    assert problems["elsewhere"].kind == problems["nul"].kind == "unreadable"
    (gone,) = [problem for problem in problems.values() if problem.kind == "missing"]
    assert gone.path == os.fspath(strange)  # what a script can find again


def test_all_are_counted_where_not_all_are_listed(store: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(verify, "MOST_LISTED", 2)
    for file in files:
        file.unlink()
    steps: list[tuple[int, int]] = []
    with open_gallery(store) as gallery:
        summary = verify_gallery(gallery, progress=lambda done, total: steps.append((done, total)))
    assert (summary.missing, len(summary.problems)) == (6, 2)
    assert steps == [(6, 6)]


def shard_of(store: Path) -> Path:
    (generation,) = (store / "galleries" / "default").glob("g-*")
    return generation / layout.SHARD


def test_points_that_the_storage_has_lost_are_missed(store: Path, caplog: pytest.LogCaptureFixture):
    with open_gallery(store) as gallery:
        assert gallery.info().lost == 0
    shard = edge.EdgeShard.load(os.fspath(shard_of(store)))
    shard.update(edge.UpdateOperation.delete_points([point_id(1), point_id(4)]))  # nobody's doing that we know of
    shard.close()
    with open_gallery(store) as gallery:
        query = np.eye(1, DIM, dtype=np.float32)[0]
        assert len(gallery.query(query, 10)) == 4
        assert "2 of its points cannot be found" in caplog.text
        summary = verify_gallery(gallery)
        assert (summary.points, summary.lost, summary.wrong) == (4, 2, 2)
        assert summary.to_json()["lost"] == 2
    with open_gallery(store, mode="w") as gallery:  # what is written next is counted anew
        gallery.delete([point_id(0)])
    with open_gallery(store) as gallery:
        assert (gallery.count(), gallery.info().lost) == (3, 0)


def test_a_killed_writer_leaves_no_false_alarm(store: Path):
    with open_gallery(store, mode="w") as gallery:
        gallery.delete([point_id(0)])
        kept = (shard_of(store).parent / "points.json").read_text()
    (shard_of(store).parent / "points.json").write_text(kept)  # as it was before the writer died
    with open_gallery(store) as gallery:
        assert (gallery.count(), gallery.info().lost) == (5, 0)


def test_points_that_have_lost_their_vectors_are_damaged(store: Path, caplog: pytest.LogCaptureFixture):
    for status in shard_of(store).glob("segments/*/vector_storage/vectors/status.dat"):
        status.unlink()
    with open_gallery(store) as gallery:
        summary = verify_gallery(gallery, files=False)
        assert (summary.points, summary.damaged, summary.lost) == (6, 6, 0)
        assert "6 of its points cannot be found" in caplog.text
        with pytest.raises(StoreError, match="has no vector"):
            find_duplicates(gallery)
