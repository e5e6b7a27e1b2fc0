"""Labels from a CSV: rows are checked, applied, taken back, and outlive the next ingest."""

from __future__ import annotations

import csv
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vectors import units

from siamese_search.curation import labels
from siamese_search.curation.labels import check_plan, plan_labels, write_changes, write_undo
from siamese_search.datasets.records import encode_key, point_id
from siamese_search.errors import DataError, UsageError
from siamese_search.gallery.payload import read_labelled
from siamese_search.io.csv_cells import write_cell

NO_LIST = "line 2: 'formerly set by hand' holds no list"
NAMES = ["a.jpg", "b.jpg", "-1_c.jpg", "=x.jpg", "deep/100%25 ä.jpg"]


@pytest.fixture
def filled(gallery):
    payloads = [
        {"source": "s", "key": key, "path": f"/photos/{key}", "size": i, "mtime_ns": 5,
         "identity": f"{i:04d}", "camera": "1", "frame": i, "night": i % 2 == 0}
        for i, key in enumerate(NAMES)
    ]  # fmt: skip
    del payloads[1]["identity"]
    gallery.upsert([point_id("s", key) for key in NAMES], units(np.random.default_rng(0), 5), payloads)
    return gallery


def table(tmp_path: Path, text: str, name: str = "review.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def state(gallery):
    return {p.payload["key"]: p.payload for p in gallery.scroll()}


def apply(gallery, path, **how):
    plan = plan_labels(gallery, path, **how)
    check_plan(plan)
    write_changes(gallery, plan.changes)
    return plan


def test_labels_by_key_and_source_by_key_and_by_path(filled, tmp_path):
    before = state(filled)
    apply(filled, table(tmp_path, "source,key,identity,weather\ns,a.jpg,ann,sun\ns,'=x.jpg,=1+1,\n"))
    apply(filled, table(tmp_path, "key,frame,night\n-1_c.jpg,77,no\n".replace("no", "false")))
    apply(filled, table(tmp_path, "path,camera,identity\n/photos/deep/100% ä.jpg,7,<none>\n"))
    after = state(filled)
    assert (after["a.jpg"]["identity"], after["a.jpg"]["weather"]) == ("ann", "sun")
    assert (after["=x.jpg"]["identity"], after["=x.jpg"].get("weather")) == ("=1+1", None)
    assert (after["-1_c.jpg"]["frame"], after["-1_c.jpg"]["night"]) == (77, False)
    assert (after["deep/100%25 ä.jpg"]["camera"], after["deep/100%25 ä.jpg"].get("identity")) == ("7", None)
    assert after["b.jpg"] == before["b.jpg"]
    assert read_labelled(after["a.jpg"]) == ("identity", "weather")
    assert read_labelled(after["deep/100%25 ä.jpg"]) == ("camera", "identity")
    # Only what was named has changed, and no vector.
    for key, payload in after.items():
        same = {"source", "key", "path", "size", "mtime_ns", "crc"}
        assert {k: payload[k] for k in same} == {k: before[key][k] for k in same}


def test_a_second_time_changes_nothing_and_what_is_so_already_is_not_claimed(filled, tmp_path):
    path = table(tmp_path, "source,key,identity,camera\ns,a.jpg,ann,1\ns,a.jpg,ann,1\n")
    plan = apply(filled, path)
    assert (plan.rows, len(plan.changes), plan.unchanged) == (2, 1, 0)
    assert read_labelled(state(filled)["a.jpg"]) == ("identity",)  # the camera was 1 before
    again = plan_labels(filled, path)
    assert (again.changes, again.unchanged) == ([], 1)


@pytest.mark.parametrize(
    ("text", "reasons"),
    [
        ("key,source,identity\nzz.jpg,s,ann\n", ["line 2: no image with the key 'zz.jpg' of source 's'"]),
        ("key,source,identity\na.jpg,t,ann\n", ["line 2: no image with the key 'a.jpg' of source 't'"]),
        ("path,identity\n/nowhere.jpg,ann\n", ["line 2: no image '/nowhere.jpg'"]),
        ("key,path,identity\n,,ann\n", ["line 2: it names no image"]),
        ("key,identity\na.jpg,ann\nb.jpg,bob\na.jpg,eve\n", ["line 4: another label for the image of line 2"]),
        ("key,frame\na.jpg,many\nb.jpg,2.5\n", ["line 2: 'many' is not a whole", "line 3: '2.5' is not a whole"]),
        ("key,night\na.jpg,2\n", ["line 2: '2' is not true or false"]),
        ("key,size,identity\na.jpg,7,an\x1b[31mn\n", ["line 2: the identity 'an\\x1b[31mn' holds control"]),
        ("key,frame\na.jpg,99999999999999999999999\n", ["line 2: '99999999999999999999999' is not a whole"]),
        ("key,identity,formerly set by hand\na.jpg,ann,7\n", [NO_LIST]),
        ('key,identity,formerly set by hand\na.jpg,ann,"[""crc""]"\n', [NO_LIST]),
    ],
)
def test_rows_that_cannot_be_applied_keep_all_the_others_out(filled, tmp_path, text, reasons):
    before = state(filled)
    path = table(tmp_path, text)
    plan = plan_labels(filled, path)
    assert len(plan.problems) == len(reasons)
    for problem, reason in zip(plan.problems, reasons):
        assert problem.startswith(reason)
    with pytest.raises(DataError, match="nothing was changed"):
        apply(filled, path)
    assert state(filled) == before


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("identity,camera\nann,1\n", "no column names the images"),
        ("key,source\na.jpg,s\n", "no column of labels"),
        ("key,size,crc\na.jpg,1,2\n", "no column of labels"),
        ("key,identity\n", "no rows"),
        ("key,identity,proposed identity\na,b,c\n", "both say who it is"),
        ('key,"a""b"\na.jpg,1\n', "cannot name a field"),
    ],
)
def test_a_file_that_is_no_table_of_labels(filled, tmp_path, text, reason):
    with pytest.raises(DataError, match=reason):
        plan_labels(filled, table(tmp_path, text))


def test_what_data_frames_write_is_no_label(filled, tmp_path):
    """nan is nobody, and 1.0 in a column with gaps is 1; but what we wrote ourselves is taken to the letter."""
    rows = "a.jpg,nan,3.0,nan\nb.jpg,bob,nan,2.5\n-1_c.jpg,None,2,3.0\n"
    plan = plan_labels(filled, table(tmp_path, "key,identity,camera,weight\n" + rows))
    assert not plan.problems
    assert [dict(change.after) for change in plan.changes] == [
        {"camera": "3"},
        {"identity": "bob", "weight": 2.5},
        {"camera": "2", "weight": 3.0},
    ]
    assert any("nan in 'identity' taken as nothing" in note for note in plan.notes)
    exact = plan_labels(filled, table(tmp_path, "source,key,path,identity,camera\ns,a.jpg,,nan,1.0\n"))
    assert [dict(change.after) for change in exact.changes] == [{"identity": "nan", "camera": "1.0"}]


def test_labels_that_excel_saved_are_read_as_a_table_is(filled, tmp_path):
    latin = tmp_path / "latin.csv"
    latin.write_bytes(b"key, identity\na.jpg, M\xfcller\n")
    plan = plan_labels(filled, latin)
    assert (plan.problems, [change.after["identity"] for change in plan.changes]) == ([], ["M\u00fcller"])
    assert "bytes that are not UTF-8 read as Windows-1252" in plan.notes


def test_a_review_of_clusters_and_the_choice_of_columns(filled, tmp_path):
    text = "path,key,source,proposed identity,confidence,cluster size,existing identity,weather\n"
    text += "/x,a.jpg,s,new-1,0.9,2,0000,sun\n/x,b.jpg,s,new-1,0.8,2,,rain\n"
    plan = plan_labels(filled, table(tmp_path, text))
    assert plan.columns == ("identity", "weather")
    apply(filled, table(tmp_path, text), columns=["identity"])
    after = state(filled)
    assert [after[key]["identity"] for key in ("a.jpg", "b.jpg")] == ["new-1", "new-1"]
    assert not any("weather" in payload or "confidence" in payload for payload in after.values())
    with pytest.raises(DataError, match=r"'wether'.*identity, weather"):
        plan_labels(filled, table(tmp_path, text), ["wether"])


def test_zeros_that_a_spreadsheet_took_away_are_noticed(filled, tmp_path):
    plan = plan_labels(filled, table(tmp_path, "key,identity\nb.jpg,2\n"))
    assert plan.problems == []
    assert any("knows 0002" in note for note in plan.notes)
    assert plan_labels(filled, table(tmp_path, "key,identity\nb.jpg,0002\n")).notes == []


def test_a_key_that_two_sources_have_needs_its_source(filled, tmp_path):
    filled.upsert(
        [point_id("t", "a.jpg")],
        units(np.random.default_rng(1), 1),
        [{"source": "t", "key": "a.jpg", "path": "/photos/a.jpg", "size": 1, "mtime_ns": 1}],
    )
    (problem,) = plan_labels(filled, table(tmp_path, "key,identity\na.jpg,ann\n")).problems
    assert "2 images" in problem
    (problem,) = plan_labels(filled, table(tmp_path, "path,identity\n/photos/a.jpg,ann\n")).problems
    assert "2 times" in problem


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(["<none>", "'", "=1", " x"])


@settings(max_examples=5, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_undo_takes_everything_back(open_care, tmp_path, data):
    """Whatever was stored and whatever is set: after the undo, payloads are what they were, to the type."""
    values = {
        "identity": st.sampled_from(["ann", "0001", "-1", "bob's"]),
        "remark": TEXT,
        "frame": st.integers(-(2**63), 2**63 - 1),
        # Of few digits: the embedded engine's reader of decimals may be off in the last place of seventeen.
        "sharpness": st.integers(-(10**9), 10**9).map(lambda thousandths: thousandths / 1000),
        "night": st.booleans(),
    }
    payload = st.fixed_dictionaries({}, optional=values)
    with open_care() as gallery:
        ids = [point_id("s", key) for key in NAMES]
        stored = [data.draw(payload) for _ in NAMES]
        full = {"key": "types", "identity": "x", "remark": "y", "frame": 1, "sharpness": 0.5, "night": True}
        places = [{"source": "s", "key": key, "path": f"/photos/{key}"} for key in NAMES]
        vectors = units(np.random.default_rng(0), 6)
        gallery.upsert([*ids, point_id("s", "types")], vectors, [*map(dict.__or__, places, stored), full])
        before = state(gallery)
        review, undo = tmp_path / "review.csv", tmp_path / "undo.csv"
        undo.unlink(missing_ok=True)
        with review.open("w", encoding="utf-8", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(["source", "key", *values])
            for key in NAMES:
                new = data.draw(payload)
                cells = [write_cell(new[name], none="<none>") if name in new else "" for name in values]
                writer.writerow(["s", write_cell(key), *cells])
        plan = plan_labels(gallery, review)
        check_plan(plan)
        write_undo(plan, undo)
        write_changes(gallery, plan.changes)
        assert (state(gallery) != before) == bool(plan.changes)
        if plan.changes:
            apply(gallery, undo)
        assert state(gallery) == before
        assert repr(state(gallery)) == repr(before) or len(plan.changes) > 0


def test_an_undo_file_is_never_overwritten(filled, tmp_path):
    plan = plan_labels(filled, table(tmp_path, "key,identity\na.jpg,ann\n"))
    write_undo(plan, tmp_path / "undo.csv")
    with pytest.raises(UsageError, match="another undo file"):
        write_undo(plan, tmp_path / "undo.csv")


def test_an_interrupted_run_goes_on(gallery, tmp_path, monkeypatch):
    monkeypatch.setattr(labels, "_BATCH", 10)
    count = 25
    keys = [f"{i:05d}.jpg" for i in range(count)]
    vectors = np.tile(units(np.random.default_rng(0), 1), (count, 1))
    gallery.upsert([point_id("s", key) for key in keys], vectors, [{"source": "s", "key": key} for key in keys])
    path = table(tmp_path, "source,key,identity\n" + "".join(f"s,{key},ann\n" for key in keys))
    stop = threading.Event()
    seen = []

    def progress(done, total):
        seen.append((done, total))
        stop.set()

    with pytest.raises(KeyboardInterrupt):
        write_changes(gallery, plan_labels(gallery, path).changes, progress=progress, stop=stop)
    assert seen == [(10, 25)]
    plan = apply(gallery, path)
    assert (len(plan.changes), plan.unchanged) == (15, 10)
    assert {p.payload["identity"] for p in gallery.scroll()} == {"ann"}


def test_names_that_are_not_utf8_are_found_by_key(gallery, tmp_path):
    key = encode_key(os.fsdecode(b"caf\xe9.jpg"))
    place = {"source": "s", "key": key, "path": f"/photos/{key}"}
    gallery.upsert([point_id("s", key)], units(np.random.default_rng(0), 1), [place])
    apply(gallery, table(tmp_path, f"source,key,identity\ns,{key},ann\n"))
    assert state(gallery)[key]["identity"] == "ann"
    (tmp_path / "b.csv").write_bytes(b"path,identity\n/photos/caf\xe9.jpg,bob\n")
    apply(gallery, tmp_path / "b.csv")
    assert state(gallery)[key]["identity"] == "bob"
