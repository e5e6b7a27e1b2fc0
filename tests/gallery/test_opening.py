"""Opening galleries: the names, the refusals, the generations."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from siamese_search.errors import GalleryNotFoundError, ModelMismatchError, StoreError, UsageError
from siamese_search.gallery import open_gallery, open_store
from siamese_search.gallery.contract import ModelRef
from siamese_search.gallery.edge import layout
from siamese_search.gallery.storage import Storage

MODEL = ModelRef("a1b2c3d4e5f6" + "0" * 52, 4, "bundled")
OTHER = ModelRef("999888777666" + "0" * 52, 4)
IDS = [f"00000000-0000-0000-0000-{i:012d}" for i in range(4)]
ROWS = np.eye(4, dtype=np.float32)


@pytest.fixture
def store(scratch: Path) -> Path:
    path = scratch / "store"
    make(path)
    return path


def make(store: Path, name: str = "default", model: ModelRef = MODEL, n: int = 4) -> None:
    with open_gallery(store, name, model=model, create=True, mode="w") as gallery:
        gallery.upsert(IDS[:n], ROWS[:n], [{"size": i} for i in range(n)])


def one_line(caught: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_galleries_are_listed_by_name(store: Path, scratch: Path):
    make(store, "zoo")
    make(store, "cars.2")
    (store / "galleries" / ".cars.0123.part").mkdir()
    assert open_store(store).names() == ["cars.2", "default", "zoo"]
    assert open_store(os.fspath(store)).names() == open_store(store).names()
    assert open_store(scratch / "nowhere").names() == []
    (scratch / "empty").mkdir()
    assert open_store(scratch / "empty").names() == []


def test_opening_needs_no_model_and_knows_it(store: Path):
    with open_gallery(store) as gallery:
        assert gallery.model == MODEL
        assert gallery.name == "default"
        info = gallery.info()
    assert info.points == 4
    assert info.engine == "qdrant-edge"
    assert info.store == os.fspath(store)
    assert info.size_bytes > 0


def test_creating_again_keeps_what_is_there(store: Path):
    with open_gallery(store, model=MODEL, create=True, mode="w") as gallery:
        assert gallery.count() == 4


def test_a_reader_makes_nothing(scratch: Path):
    for name in ("nowhere", "empty"):
        path = scratch / name
        if name == "empty":
            path.mkdir()
        with pytest.raises(GalleryNotFoundError, match=r"no store.*sss ingest") as caught:
            open_gallery(path)
        one_line(caught)
    assert not (scratch / "nowhere").exists()
    assert list((scratch / "empty").iterdir()) == []


def test_an_unknown_gallery_names_those_that_there_are(store: Path):
    make(store, "cars")
    with pytest.raises(GalleryNotFoundError, match=r"'car'.*cars, default.*sss ingest") as caught:
        open_gallery(store, "car")
    one_line(caught)


def test_another_model_is_refused_with_both_fingerprints(store: Path):
    for options in ({}, {"create": True, "mode": "w"}):
        with pytest.raises(ModelMismatchError, match=r"a1b2c3d4e5f6,.*999888777666,.*sss reindex") as caught:
            open_gallery(store, model=OTHER, **options)
        assert MODEL.fingerprint not in one_line(caught)
    with pytest.raises(ModelMismatchError, match=r"4-D.*8-D"):
        open_gallery(store, model=ModelRef(MODEL.fingerprint, 8))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "a b", ".hidden", "x" * 65, "a\n", "ä"])
def test_names_that_cannot_be(store: Path, name: str):
    with pytest.raises(UsageError):
        open_gallery(store, name)


def test_a_location_is_a_directory_or_a_url(store: Path):
    with open_store(store) as opened:
        assert opened.location == os.fspath(store)
        assert opened.names() == ["default"]
    with pytest.raises(UsageError, match="a directory or a URL"):
        open_store("")


def test_what_is_not_a_store(scratch: Path):
    file = scratch / "file"
    file.write_text("text")
    foreign = scratch / "photos"
    foreign.mkdir()
    (foreign / "a.jpg").touch()
    for path, words in ((file, "not a directory"), (foreign, "other files")):
        for ask in (
            lambda: open_gallery(path),  # noqa: B023
            lambda: open_store(path).names(),  # noqa: B023
            lambda: open_gallery(path, model=MODEL, create=True, mode="w"),  # noqa: B023
        ):
            with pytest.raises(StoreError, match=words) as caught:
                ask()
            assert str(path) in one_line(caught)
    assert sorted(p.name for p in foreign.iterdir()) == ["a.jpg"]
    with pytest.raises(StoreError, match="cannot write store"):
        open_gallery(file / "below", model=MODEL, create=True, mode="w")


def test_a_store_that_cannot_be_made(scratch: Path):
    # /proc refuses directories to everyone, root included.
    with pytest.raises(StoreError, match=r"cannot write store /proc/") as caught:
        open_gallery("/proc/sss-store", model=MODEL, create=True, mode="w")
    one_line(caught)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_without_write_permission(store: Path):
    generation = layout.current_generation(store / "galleries" / "default")
    generation.chmod(0o500)
    for file in generation.glob("*.lock"):
        file.chmod(0o400)
    try:
        with open_gallery(store) as gallery, pytest.raises(StoreError, match="writable"):
            gallery.count()
    finally:
        generation.chmod(0o700)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "damaged"),
        ("", "damaged"),
        ("[]", "damaged"),
        ("[" * 100_000, "damaged"),
        ("\x00\x00", "damaged"),
        ('{"format": 1}', "damaged"),
        ('{"format": "1"}', "damaged"),
        ('{"format": 1, "name": "x", "model": {"fingerprint": "f", "dim": -1}}', "damaged"),
        ('{"format": 1, "name": "x", "model": {"fingerprint": 3, "dim": 4}}', "damaged"),
        ('{"format": 1, "name": "x", "model": {"fingerprint": "f", "dim": 4}, "storage": 1}', "damaged"),
        ('{"format": 1, "name": "x", "model": {"fingerprint": "f", "dim": 4}, "storage": {"vectors": "x"}}', "damaged"),
        ('{"format": 3, "what": "ever"}', "later release.*upgrade"),
    ],
)
@pytest.mark.parametrize("name", ["gallery.json", "fields.json", "store.json"])
def test_damaged_and_future_headers(store: Path, name: str, text: str, words: str):
    generation = layout.current_generation(store / "galleries" / "default")
    path = store / name if name == "store.json" else generation / name
    path.write_text(text)
    if name == "store.json" and '"format": 1' in text:
        return  # the store's own header says no more than that
    with pytest.raises(StoreError, match=words) as caught, open_gallery(store) as gallery:
        gallery.count()
    assert name in one_line(caught)


@pytest.mark.parametrize("text", ["", "g-00000000", "../../x", "/etc", "\x00"])
def test_a_damaged_pointer(store: Path, text: str):
    (store / "galleries" / "default" / "CURRENT").write_text(text)
    with pytest.raises(StoreError, match=r"CURRENT is damaged") as caught:
        open_gallery(store)
    one_line(caught)


def test_a_store_that_another_process_is_just_making_is_no_foreign_directory(scratch: Path):
    (scratch / "store").mkdir()
    (scratch / "store" / ".store.json.x1.part").touch()
    with open_gallery(scratch / "store", model=MODEL, create=True, mode="w") as gallery:
        assert gallery.count() == 0
    (scratch / "other").mkdir()
    (scratch / "other" / "notes.txt").touch()
    with pytest.raises(StoreError, match="holds other files"):
        open_gallery(scratch / "other", model=MODEL, create=True, mode="w")


def test_two_creators_get_one_gallery(scratch: Path):
    failures: list[BaseException] = []

    def create(i: int) -> None:
        try:
            with open_gallery(scratch / "store", model=MODEL, create=True, mode="w") as gallery:
                gallery.upsert(IDS[i : i + 1], ROWS[i : i + 1], [{}])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=create, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with open_gallery(scratch / "store") as gallery:
        assert gallery.count() == 3
    assert [p.name for p in (scratch / "store" / "galleries").iterdir()] == ["default"]


def test_gallery_json_says_what_the_design_says(store: Path):
    document = json.loads((layout.current_generation(store / "galleries" / "default") / "gallery.json").read_text())
    assert document == {
        "format": 1,
        "name": "default",
        "model": {"fingerprint": MODEL.fingerprint, "dim": 4, "name": "bundled"},
        "storage": {"vectors": "float32", "quantisation": "none"},
        "notes": {},
    }


def test_a_gallery_from_before_there_was_a_choice_opens(store: Path):
    path = layout.current_generation(store / "galleries" / "default") / "gallery.json"
    document = json.loads(path.read_text())
    del document["storage"]
    path.write_text(json.dumps(document))
    with open_gallery(store) as gallery:
        assert str(gallery.storage) == "float32"


def test_a_release_that_knows_no_float16_refuses_such_a_gallery(tmp_path: Path):
    """It would write checksums of vectors that are not stored so."""
    with open_gallery(tmp_path / "s", model=MODEL, create=True, mode="w", storage=Storage("float16")) as gallery:
        gallery.flush()
    path = layout.current_generation(tmp_path / "s" / "galleries" / "default") / "gallery.json"
    assert json.loads(path.read_text())["format"] == 2
