"""Exports hold what the gallery holds: each format is read back by the program that it is for."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import sys
import zlib

import numpy as np
import pytest
from vectors import units

from siamese_search.curation import export_rows as rows
from siamese_search.curation.export import export_gallery, format_of
from siamese_search.curation.labels import plan_labels
from siamese_search.datasets.records import decode_key, encode_key, point_id
from siamese_search.errors import MissingExtraError, SiameseSearchError, UsageError
from siamese_search.gallery.filters import Condition
from siamese_search.io.csv_cells import read_cell

KEYS = ["a.jpg", "=b.jpg", "-1_c.jpg", "deep/100%25 ä.jpg", encode_key(os.fsdecode(b"caf\xe9.jpg")), "f.jpg"]


@pytest.fixture
def filled(gallery, monkeypatch):
    monkeypatch.setattr(rows, "BATCH", 4)  # more than one batch
    payloads = [
        {"source": "s", "key": key, "path": f"/photos/{key}", "size": 10 * i, "mtime_ns": 2**60 + i,
         "identity": f"{i // 2:04d}", "camera": "1", "night": i % 2 == 0, "sharpness": i / 3, "id": i,
         "a.b/c": "x\ny,\"z\"", "remark": "=cmd|' /C calc'!A0"}
        for i, key in enumerate(KEYS)
    ]  # fmt: skip
    for name in ("identity", "size", "night", "sharpness", "remark"):
        del payloads[5][name]
    gallery.upsert([point_id("s", key) for key in KEYS], units(np.random.default_rng(0), 6), payloads)
    return gallery


def wanted(gallery, where=()):
    """id -> (payload as exported, vector)."""
    found = {}
    for point in gallery.scroll(where, with_vectors=True):
        path = decode_key(point.payload["path"])
        if path.isprintable():  # else it stays as it is stored
            point.payload["path"] = path
        found[point.id] = (point.payload, point.vector)
    return found


def check(gallery, got, where=()):
    """got: [(id, payload, vector)]."""
    there = wanted(gallery, where)
    assert [one for one, _, _ in got] == sorted(there)
    for one, payload, vector in got:
        assert payload == there[one][0]
        assert {k: type(v) for k, v in payload.items()} == {k: type(v) for k, v in there[one][0].items()}
        assert np.asarray(vector, np.float32).tobytes() == there[one][1].tobytes()


def test_jsonl(filled, tmp_path):
    out = tmp_path / "g.jsonl"
    assert export_gallery(filled, out, "jsonl").points == 6
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    check(filled, [(line["id"], line["payload"], line["vector"]) for line in lines])


def test_parquet(filled, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "g.parquet"
    where = [Condition("night", "=", (True,))]
    assert export_gallery(filled, out, "parquet", where).points == 3
    table = pq.read_table(out)
    assert str(table.schema.field("vector").type).startswith("fixed_size_list")
    assert table.schema.metadata[b"model"] == b"f" * 64
    got = []
    for row in table.to_pylist():
        one, vector = row.pop("id"), row.pop("vector")
        row["id"] = row.pop("id_")
        got.append((one, {name: value for name, value in row.items() if value is not None}, vector))
    check(filled, got, where)


def test_npz_without_pickle(filled, tmp_path):
    out = tmp_path / "g.npz"
    assert export_gallery(filled, out, "npz").points == 6
    with np.load(out, allow_pickle=False) as arrays:
        assert arrays["key"].dtype.kind == "U"
        assert arrays["vector"].shape == (6, filled.dim)
        names = [n for n in arrays.files if n not in ("id", "vector") and not n.endswith(".present")]
        got = []
        for i, one in enumerate(arrays["id"]):
            payload = {
                {"id_": "id", "a.b_c": "a.b/c"}.get(name, name): arrays[name][i].item()
                for name in names
                if f"{name}.present" not in arrays.files or arrays[f"{name}.present"][i]
            }
            got.append((str(one), payload, arrays["vector"][i]))
        check(filled, got)
    assert list(tmp_path.iterdir()) == [out]


def test_csv_comes_back_and_runs_no_formula(filled, tmp_path):
    out = tmp_path / "g.csv"
    assert export_gallery(filled, out, "csv").points == 6
    kinds = {"str": str, "int": int, "float": float, "bool": lambda text: text == "true"}
    fields = filled.fields()
    with out.open(encoding="utf-8", newline="") as handle:
        got = []
        for row in csv.DictReader(handle):
            assert not any(cell[:1] in "=+@\t" for cell in row.values() if cell)
            one, vector = row.pop("id"), json.loads(row.pop("vector"))
            row["id"] = row.pop("id_")
            payload = {n: kinds[fields[n]](read_cell(cell)) for n, cell in row.items() if cell}
            got.append((one, payload, vector))
    check(filled, got)


def test_csv_is_what_labels_are_edited_in(filled, tmp_path):
    out = tmp_path / "g.csv"
    export_gallery(filled, out, "csv", vectors=False)
    plan = plan_labels(filled, out)
    assert (plan.problems, plan.changes, plan.unchanged) == ([], [], 6)


def test_fiftyone(filled, tmp_path):
    out = tmp_path / "fo"
    done = export_gallery(filled, out, "fiftyone")
    assert (done.points, done.left_out) == (6, 0)
    assert "version" not in json.loads((out / "metadata.json").read_text())
    samples = json.loads((out / "samples.json").read_text(encoding="utf-8"))["samples"]
    there = wanted(filled)
    for sample, one in zip(samples, sorted(there), strict=True):
        payload, vector = there[one]
        assert sample["filepath"] == payload["path"]
        label = sample.get("identity")
        assert (label and label["label"]) == payload.get("identity")
        assert (sample["a_b_c"], sample["id_"], sample["camera"]) == (payload["a.b/c"], payload["id"], "1")
        packed = zlib.decompress(base64.b64decode(sample["embedding"]["$binary"]["base64"]))
        assert np.load(io.BytesIO(packed), allow_pickle=False).tobytes() == vector.tobytes()
    with pytest.raises(UsageError, match="exists"):
        export_gallery(filled, out, "fiftyone")


@pytest.mark.skipif("SSS_TEST_FIFTYONE" not in os.environ, reason="SSS_TEST_FIFTYONE names no python with fiftyone")
def test_fiftyone_reads_it(filled, tmp_path):
    """By FiftyOne's own importer, in another interpreter; it needs no database to parse samples."""
    import subprocess

    export_gallery(filled, tmp_path / "fo", "fiftyone")
    code = """
import sys, json, numpy as np
from fiftyone.utils.data.importers import FiftyOneDatasetImporter
importer = FiftyOneDatasetImporter(sys.argv[1])
assert importer._is_legacy_format_data()
importer = importer._to_legacy_importer()
importer.setup()
print(json.dumps([[s.filepath, s["identity"].label if s.has_field("identity") and s["identity"] else None,
                   np.asarray(s["embedding"], np.float32).tolist()] for s in importer]))
"""
    done = subprocess.run(
        [os.environ["SSS_TEST_FIFTYONE"], "-c", code, str(tmp_path / "fo")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout.splitlines()[-1])
    there = wanted(filled)
    expected = [[p["path"], p.get("identity"), v.tolist()] for _, (p, v) in sorted(there.items())]
    assert read == expected


@pytest.mark.parametrize("format", ["parquet", "npz", "csv", "jsonl", "fiftyone"])
def test_an_empty_gallery_and_no_vectors(gallery, tmp_path, format):
    if format == "parquet":
        pytest.importorskip("pyarrow")
    out = tmp_path / f"empty.{format}"
    assert export_gallery(gallery, out, format, vectors=False).points == 0
    assert out.exists()
    if format == "npz":
        assert np.load(out)["id"].shape == (0,)


def test_nothing_half_written_has_the_name(filled, tmp_path, monkeypatch):
    out = tmp_path / "g.csv"
    out.write_text("before")
    left = sorted(tmp_path.iterdir())

    def broken(*args, **kwargs):
        yield from ()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("siamese_search.curation.export.batches", broken)
    for format, name in (("csv", "g.csv"), ("npz", "g.npz"), ("jsonl", "g.jsonl"), ("fiftyone", "fo")):
        with pytest.raises(SiameseSearchError, match="No space left"):
            export_gallery(filled, tmp_path / name, format)
    assert out.read_text() == "before"
    assert sorted(tmp_path.iterdir()) == left


def test_the_format_is_what_the_name_says(tmp_path):
    assert format_of(tmp_path / "a.CSV", None) == "csv"
    assert format_of(tmp_path / "a.csv", "jsonl") == "jsonl"
    with pytest.raises(UsageError, match=r"\.parquet, \.npz"):
        format_of(tmp_path / "a.txt", None)


def test_parquet_without_pyarrow_says_what_to_install(filled, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"\[analysis\]"):
        export_gallery(filled, tmp_path / "g.parquet", "parquet")


@pytest.mark.parametrize("format", ["csv", "fiftyone"])
def test_an_output_that_cannot_be_written_is_told_before_anything_is_read(filled, tmp_path, monkeypatch, format):
    monkeypatch.setattr(type(filled), "scroll", None)
    (tmp_path / "file").write_text("kept")
    with pytest.raises(SiameseSearchError, match="Not a directory"):
        export_gallery(filled, tmp_path / "file" / "out", format)
    assert (tmp_path / "file").read_text() == "kept"
