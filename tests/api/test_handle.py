"""sss.open(): the same answers as the functions, from a gallery and a network that stay loaded."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image

import siamese_search as sss
from siamese_search import workspace
from siamese_search.datasets.demo import generate_demo
from siamese_search.errors import DataError, FilterError, GalleryNotFoundError, UsageError
from siamese_search.model.bundle import Bundle
from siamese_search.retrieval import searcher


@pytest.fixture(autouse=True)
def no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test in an empty directory, away from anybody's settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    for name in ("SSS_STORE", "SSS_GALLERY", "SSS_MODEL", "SSS_THREADS", "SSS_BATCH_SIZE", "SSS_DATA"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("handle") / "demo"
    generate_demo(out, identities=3, cameras=2, distractors=1)
    return out


@pytest.fixture
def photos(demo: Path) -> list[Path]:
    return sorted((demo / "gallery").glob("*.jpg"))


@pytest.fixture
def filled(demo: Path, tiny_bundle: Bundle) -> str:
    """The gallery ``default`` in ``./.sss``, made by the tiny model."""
    sss.ingest(demo / "gallery", model=tiny_bundle.path)
    return ".sss"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fingerprints of the networks loaded so far."""
    names: list[str] = []
    load = workspace.load

    def counted(bundle, device, threads):
        names.append(bundle.fingerprint)
        return load(bundle, device, threads)

    monkeypatch.setattr(workspace, "load", counted)
    return names


def test_answers_are_those_of_the_functions(filled: str, photos: list[Path], tmp_path: Path) -> None:
    with sss.open(filled) as people:
        for asked in ({"k": 3}, {"group_by": "identity"}, {"where": "camera=1", "exclude_self": True}):
            assert people.search(*photos[:2], **asked) == sss.search(*photos[:2], store=filled, **asked)
        assert people.timeline(photos[0], time_field="frame") == sss.timeline(photos[0], time_field="frame")
        assert people.duplicates() == sss.duplicates(store=filled)
        assert people.export(tmp_path / "a.csv")["points"] == len(photos)
        assert people.identities(labelled=True).images
        assert people.evaluate(photos[0].parent, use_cameras=False).ranking.queries
        facts = people.info()
        assert facts["galleries"][0]["points"] == len(photos)
        table = tmp_path / "labels.csv"
        table.write_text(f"path,identity\n{photos[0]},somebody\n")
        assert people.label(table).plan.changes
        assert people.search(photos[0], k=1)[0].results[0].identity == "somebody"


def test_a_list_is_several_queries_whatever_is_in_it(filled: str, photos: list[Path]) -> None:
    with sss.open(filled) as people, Image.open(photos[1]) as image:
        mixed = [photos[0], image, photos[2].read_bytes()]
        found = people.search(mixed, k=2)
        assert [answer.results for answer in found] == [people.search(one, k=2)[0].results for one in mixed]
        with pytest.raises(UsageError, match="nothing to search for"):
            people.search([])
        with pytest.raises(UsageError, match=r"not an int$"):
            people.search([photos[0], 3])


def test_answers_and_reports_are_short_where_python_prints_them(filled: str, demo: Path, photos: list[Path]) -> None:
    (answer,) = answers = sss.search(photos[0], k=2, store=filled)
    best, second = answer.results
    shown = f"<answer to {photos[0]}: {best.identity} {best.score:.4f}, {second.identity} {second.score:.4f}>"
    assert repr(answers) == f"[{shown}]"
    (unread,) = sss.search(photos[0].parent / "none.jpg", photos[0], store=filled)[:1]
    assert repr(unread) == f"<answer to {photos[0].parent / 'none.jpg'}: no such file>"
    report = sss.evaluate(demo / "gallery", queries=demo / "queries")
    assert repr(report) == f"<report on {demo / 'gallery'} by bundled: rank-1 {report.rank1:.1%}, mAP {report.mAP:.1%}>"


def test_a_handle_calibrates_its_gallery(filled: str, photos: list[Path]) -> None:
    with sss.open(filled) as people:
        assert people.search(photos[0], k=1)[0].verdict is None
        with pytest.raises(DataError, match="too few"):
            people.calibrate()


def test_an_array_of_floats_is_told_how_it_becomes_an_image(filled: str, photos: list[Path]) -> None:
    pixels = sss.read_image(photos[0])
    with sss.open(filled) as people:
        with pytest.raises(UsageError, match=r"not float64 \[\d+, \d+, 3\]; of 0 to 1: ") as told:
            people.search(pixels / 255)
        mended = eval(str(told.value).rpartition(": ")[2], {"array": pixels / 255})
        assert people.search(mended, k=1)[0].results[0].path == photos[0]


def test_the_help_of_a_keyword_says_which_value_does_it() -> None:
    assert sss.evaluate.__doc__ is not None
    assert "use_cameras: False: Count matches from the query's own camera too." in sss.evaluate.__doc__


def test_a_second_search_loads_nothing(
    filled: str, photos: list[Path], loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from siamese_search.gallery.edge.store import EmbeddedStore

    opened: list[str] = []
    open_ = EmbeddedStore.open

    def counted(self, name, **how):
        opened.append(name)
        return open_(self, name, **how)

    monkeypatch.setattr(EmbeddedStore, "open", counted)
    with sss.open(filled) as people:
        assert not loads
        for photo in photos[:3]:
            people.search(photo)
    assert len(loads) == len(opened) == 1


def test_a_gallery_that_is_not_there_yet_is_made_by_ingest(demo: Path, photos: list[Path], tiny_bundle: Bundle) -> None:
    with sss.open("fresh", "people", model=tiny_bundle.path, threads=1) as people:
        with pytest.raises(GalleryNotFoundError):
            people.search(photos[0])
        assert people.ingest(demo / "gallery").new == len(photos)
        assert people.search(photos[0], k=1)[0].results[0].score > 0.99


def test_another_process_ingests_while_a_handle_is_open(filled: str, photos: list[Path], tmp_path: Path) -> None:
    more = tmp_path / "more"
    more.mkdir()
    (more / "9999_c1s1_000001_01.jpg").write_bytes(photos[0].read_bytes())
    with sss.open(filled) as people:
        before = len(people.search(photos[0], k=100)[0].results)
        done = subprocess.run(
            [sys.executable, "-m", "siamese_search", "ingest", str(more), "--store", filled],
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert len(people.search(photos[0], k=100)[0].results) == before + 1


def test_two_handles_and_several_threads_take_turns(filled: str, photos: list[Path]) -> None:
    expected = [one.results for one in sss.search(*photos[:2], k=3)]
    found: dict[int, list] = {}
    with sss.open(filled) as one, sss.open(filled) as other:

        def ask(number: int) -> None:
            handle = (one, other)[number % 2]
            found[number] = [handle.search(photo, k=3)[0].results for photo in photos[:2]]

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert [found[number] for number in range(4)] == [expected] * 4


def test_a_reindex_under_it_is_noticed(
    filled: str, photos: list[Path], tiny_bundle: Bundle, other_bundle: Bundle, loads: list[str]
) -> None:
    with sss.open(filled) as people:
        people.search(photos[0])
        sss.reindex(other_bundle.path)
        assert people.search(photos[1]) == sss.search(photos[1], store=filled)
        assert loads[0] == tiny_bundle.fingerprint
        assert other_bundle.fingerprint in loads
        sss.drop_old()
        sss.reindex(keep_vectors=True)
        count = len(loads)
        assert people.search(photos[1], k=1)[0].results
        assert len(loads) == count  # of the same model: its network stays


def test_what_the_handle_was_told_is_not_asked_again(filled: str, photos: list[Path]) -> None:
    with sss.open(filled) as people:
        with pytest.raises(TypeError, match="no option 'store'"):
            people.search(photos[0], store="elsewhere")
        with pytest.raises(TypeError, match="no option 'gallery'"):
            people.ingest(photos[0].parent, gallery="elsewhere")
        with pytest.raises(TypeError, match=r"search\(\) has no option 'wher'; did you mean 'where'"):
            people.search(photos[0], wher="camera=1")
        with pytest.raises(UsageError, match="k is 0"):
            people.search(photos[0], k=0)


def test_use_after_close_is_one_error(filled: str, photos: list[Path]) -> None:
    people = sss.open(filled)
    people.search(photos[0])
    people.close()
    people.close()
    assert "closed" in repr(people)
    for call in (lambda: people.search(photos[0]), people.duplicates, people.info):
        with pytest.raises(UsageError, match=r"gallery 'default' in \.sss was closed; open it again"):
            call()


def test_a_stream_gives_the_answers_of_a_search_while_most_are_still_to_be_found(filled, photos, monkeypatch):
    monkeypatch.setattr(searcher, "_HITS_AT_ONCE", 4)
    asked: list[int] = []
    rank = searcher.Searcher.rank

    def counted(self, probes, *rest):
        asked.append(len(probes))
        return rank(self, probes, *rest)

    monkeypatch.setattr(searcher.Searcher, "rank", counted)
    with sss.open(filled) as handle:
        whole = handle.search(*photos, k=2)
        asked.clear()
        stream = handle.stream(*photos, k=2)
        first = next(stream)
        assert asked == [2]
        assert [first, *stream] == whole
        assert sum(asked) == len(photos) > 4


def test_a_stream_tells_what_is_wrong_before_its_first_answer(filled, photos, tmp_path, caplog):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no image")
    with sss.open(filled) as handle:
        with pytest.raises(FilterError):
            next(handle.stream(photos[0], where="colour=red"))
        assert [one.error is None for one in handle.stream(bad, photos[0])] == [False, True]
        assert not any(one.results for one in handle.stream(*photos, where="camera=99"))
    assert sum("camera=99" in message for message in caplog.messages) == 1
