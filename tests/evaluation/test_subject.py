"""What is evaluated when the user does not say: the newest run, on the identities that it held out."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from siamese_search.datasets.layouts import Dataset
from siamese_search.datasets.records import ImageRecord
from siamese_search.errors import DataError, UsageError
from siamese_search.evaluation.subject import Subject, choose_subject, newest_bundle, seen_warning, select_identities
from siamese_search.model.bundle import META_NAME, Bundle, load_bundle


def copy_run(
    bundle: Bundle, out: Path, *, when: int, heldout: list[str] | None = None, data: str = "", layout: str = "auto"
) -> Path:
    """A finished run in ``out``: the bundle, its held-out identities, and where it learned from."""
    shutil.copytree(bundle.path, out)
    meta = json.loads((out / META_NAME).read_text())
    meta["heldout_identities"] = heldout or []
    (out / META_NAME).write_text(json.dumps(meta))
    os.utime(out / META_NAME, (when, when))
    if data:
        (out / "run.json").write_text(json.dumps({"data": data, "layout": layout}))
    return out


def dataset(root: Path, *identities: str) -> Dataset:
    records = [ImageRecord(f"{name}.jpg", root / f"{name}.jpg", name) for name in identities]
    return Dataset(root, "market1501", "", records)


def test_the_newest_finished_run_is_taken(tiny_bundle: Bundle, tmp_path: Path) -> None:
    copy_run(tiny_bundle, tmp_path / "b", when=100)
    copy_run(tiny_bundle, tmp_path / "a", when=200, data="photos")
    (tmp_path / "unfinished").mkdir()
    broken = copy_run(tiny_bundle, tmp_path / "broken", when=300)
    (broken / META_NAME).write_text("{")
    assert newest_bundle(tmp_path).path == tmp_path / "a"
    subject = choose_subject(None, "", tmp_path)
    assert (subject.bundle.path, subject.data) == (tmp_path / "a", Path("photos"))


def test_a_run_is_measured_in_the_layout_that_it_was_trained_in(tiny_bundle: Bundle, tmp_path: Path) -> None:
    run = copy_run(tiny_bundle, tmp_path / "a", when=1, data=str(tmp_path / "photos"), layout="folders")
    assert choose_subject(None, "", tmp_path).layout == "folders"
    assert choose_subject(tmp_path / "x" / ".." / "photos", str(run)).layout == "folders"
    assert choose_subject(tmp_path / "others", str(run)).layout == "auto"


def test_nothing_to_choose_from(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no finished run"):
        choose_subject(None, "", tmp_path / "runs")
    with pytest.raises(UsageError, match="name the data"):
        choose_subject(None, str(tiny_bundle.path), tmp_path)


def test_data_without_a_model_is_measured_with_the_bundled_one(tmp_path: Path) -> None:
    assert choose_subject("photos", "", tmp_path).bundle.name == "bundled"


@pytest.fixture
def trained(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    run = copy_run(tiny_bundle, tmp_path / "run", when=1, heldout=["b", "c"], data=str(tmp_path / "photos"))
    return load_bundle(run)


def test_on_the_training_data_only_what_was_held_out(trained: Bundle, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    chosen, reason = select_identities(Subject(trained, photos, photos), dataset(photos, "a", "b", "c"), None, None)
    assert chosen == {"b", "c"}
    assert reason == "the 2 identities that training held out"


def test_on_other_data_everybody(trained: Bundle, tmp_path: Path) -> None:
    other = tmp_path / "other"
    chosen, reason = select_identities(
        Subject(trained, other, tmp_path / "photos"), dataset(other, "a", "b", "c", "d"), None, None
    )
    assert chosen is None
    assert "not trained on" in reason


def test_a_bundle_without_its_run_knows_its_data_by_the_identities(trained: Bundle, tmp_path: Path) -> None:
    def chosen(*identities: str) -> frozenset[str] | None:
        subject = Subject(trained, tmp_path, None)
        return select_identities(subject, dataset(tmp_path, *identities), None, None)[0]

    assert chosen("a", "b", "c") == {"b", "c"}
    assert chosen("a", "b") is None
    assert chosen("b", "c") is None  # nothing was trained on here


def test_asked_for(trained: Bundle, tiny_bundle: Bundle, tmp_path: Path) -> None:
    subject = Subject(trained, tmp_path, None)
    people = dataset(tmp_path, "a", "b", "c")
    listed = tmp_path / "ids.txt"
    listed.write_text("a\n")
    assert select_identities(subject, people, None, "all")[0] is None
    assert select_identities(subject, people, None, ["a"])[0] == {"a"}
    assert select_identities(subject, people, None, str(listed))[0] == {"a"}
    with pytest.raises(DataError, match="z"):
        select_identities(subject, people, None, ["a", "z"])
    with pytest.raises(DataError, match="held no identities out"):
        select_identities(Subject(tiny_bundle, tmp_path, None), people, None, "heldout")


def test_identities_may_stand_among_the_queries_only(trained: Bundle, tmp_path: Path) -> None:
    subject = Subject(trained, tmp_path, None)
    chosen, _ = select_identities(subject, dataset(tmp_path, "a", "b"), dataset(tmp_path, "c"), "heldout")
    assert chosen == {"b", "c"}


@pytest.fixture
def of_two(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A run over ``photos`` and ``faces``."""
    run = copy_run(tiny_bundle, tmp_path / "run", when=1, heldout=["faces/a", "photos/b", "photos/c"])
    meta = json.loads((run / META_NAME).read_text())
    meta["training"] = {"sources": [{"name": "photos"}, {"name": "faces"}]}
    (run / META_NAME).write_text(json.dumps(meta))
    places = [str(tmp_path / name) for name in ("photos", "faces")]
    (run / "run.json").write_text(json.dumps({"data": places, "sources": ["photos", "faces"], "layout": "auto"}))
    return run


def test_each_data_set_of_several_knows_its_own(of_two: Path, tmp_path: Path) -> None:
    def chosen(name: str, *identities: str) -> frozenset[str] | None:
        subject = choose_subject(tmp_path / name, str(of_two))
        return select_identities(subject, dataset(tmp_path / name, *identities), None, None)[0]

    assert chosen("photos", "a", "b", "c") == {"b", "c"}
    assert chosen("faces", "a", "b", "c") == {"a"}
    assert chosen("others", "a", "b", "c") is None


def test_without_data_all_that_a_run_over_several_learned_from(of_two: Path, tmp_path: Path) -> None:
    subject = choose_subject(None, str(of_two))
    assert subject.paths == (tmp_path / "photos", tmp_path / "faces")
    joined = dataset(tmp_path, "faces/a", "faces/b", "photos/a", "photos/b", "photos/c")
    assert select_identities(subject, joined, None, None)[0] == {"faces/a", "photos/b", "photos/c"}


def test_a_bundle_over_several_without_its_run_knows_each_by_the_identities(of_two: Path, tmp_path: Path) -> None:
    (of_two / "run.json").unlink()
    bundle = load_bundle(of_two)

    def chosen(*identities: str) -> frozenset[str] | None:
        subject = Subject(bundle, tmp_path, None)
        return select_identities(subject, dataset(tmp_path, *identities), None, None)[0]

    assert chosen("a", "b", "c") == {"b", "c"}
    assert chosen("a", "d") == {"a"}
    assert chosen("x", "y") is None


@pytest.mark.parametrize("saved", ["[]", '{"data": ["a"]}', '{"data": ["a"], "sources": []}', '{"data": 3}'])
def test_a_damaged_run_tells_nothing(of_two: Path, saved: str) -> None:
    (of_two / "run.json").write_text(saved)
    with pytest.raises(UsageError, match="name the data"):
        choose_subject(None, str(of_two))


def test_figures_on_identities_that_the_model_learned_from_come_with_a_warning(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    run = copy_run(tiny_bundle, tmp_path / "run", when=1)
    meta = json.loads((run / META_NAME).read_text())
    meta["training"] = {**meta.get("training", {}), "identity_names": ["a", "b", "c"]}
    (run / META_NAME).write_text(json.dumps(meta))
    subject = Subject(load_bundle(run), tmp_path, None)
    _, reason = select_identities(subject, dataset(tmp_path, "b", "c", "d"), None, None)
    assert reason.startswith("all 3 identities (the model learned from 2 of these names")
    _, reason = select_identities(subject, dataset(tmp_path, "c", "d"), None, None)
    assert reason == "all 2 identities"  # half of them: names may agree by chance
    listed = tmp_path / "ids.txt"
    listed.write_text("b\nc\n")
    people = dataset(tmp_path, "b", "c", "d", "e", "f")
    for wanted in (["b", "c"], listed):  # seldom are these named by chance
        chosen, reason = select_identities(subject, people, None, wanted)
        assert "the model learned from 2 of these names" in reason
        assert "learned from 2" in seen_warning(subject.bundle, people, None, chosen)
    assert seen_warning(subject.bundle, people, None, None) == ""
    assert seen_warning(tiny_bundle, people, None, chosen) == ""
