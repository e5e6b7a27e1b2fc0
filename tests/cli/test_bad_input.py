"""Every kind of wrong input that a user is likely to give: one line on stderr, the right exit code, no traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from siamese_search.model.bundle import META_NAME, ONNX_NAME, Bundle

Refused = Callable[..., str]


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    directory = tmp_path / "empty"
    directory.mkdir()
    return directory


@pytest.fixture
def corrupt(tmp_path: Path) -> Path:
    directory = tmp_path / "corrupt"
    directory.mkdir()
    (directory / "a.jpg").write_bytes(b"\xff\xd8\xff not really")
    (directory / "b.png").write_bytes(b"")
    return directory


def test_no_such_directory(refused: Refused, tmp_path: Path) -> None:
    assert "nowhere: no such file or directory" in refused("ingest", tmp_path / "nowhere")


def test_no_images(refused: Refused, empty: Path) -> None:
    assert "no images in it" in refused("ingest", empty)
    assert "no images in it" in refused("search", empty)
    assert "no images in it" in refused("evaluate", empty)


def test_all_images_corrupt(refused: Refused, corrupt: Path, tmp_path: Path) -> None:
    line = refused("ingest", corrupt, "--store", tmp_path / "store")
    assert "none of the 2 images can be used" in line
    assert "a.jpg" in line


def test_a_csv_that_names_missing_files(refused: Refused, tmp_path: Path) -> None:
    table = tmp_path / "people.csv"
    table.write_text("path,identity\ngone/1.jpg,7\n")
    line = refused("ingest", table)
    assert "gone/1.jpg" in line
    assert "cannot be found" in line


def test_a_query_that_is_no_image(refused: Refused, corrupt: Path, demo_store: Path) -> None:
    assert "a.jpg: " in refused("search", corrupt / "a.jpg", "--store", demo_store)
    assert "none of the 2 queries could be read" in refused("search", corrupt, "--store", demo_store)
    assert "no such file" in refused("search", corrupt / "x.jpg", "--store", demo_store)


def test_an_unknown_filter_field_lists_the_known_ones(refused: Refused, query: Path, demo_store: Path) -> None:
    line = refused("search", query, "--store", demo_store, "--where", "colour=red", code=2)
    assert "unknown field 'colour'" in line
    assert "camera" in line
    assert "identity" in line


@pytest.mark.parametrize("expression", ["camera", "=1", "camera~1"])
def test_a_filter_that_is_none(refused: Refused, query: Path, demo_store: Path, expression: str) -> None:
    refused("search", query, "--store", demo_store, "--where", expression, code=2)


def test_a_gallery_of_another_model(
    refused: Refused, query: Path, demo_store: Path, tiny_bundle: Bundle, demo: Path
) -> None:
    """The demo gallery is the tiny model's; the bundled one is asked for."""
    line = refused("search", query, "--store", demo_store, "--model", "bundled")
    assert tiny_bundle.fingerprint[:12] in line
    assert "sss reindex" in line
    assert "sss reindex" in refused("ingest", demo / "gallery", "--store", demo_store, "--model", "bundled")


def test_a_gallery_whose_model_has_gone(refused: Refused, query: Path, demo_store: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(demo_store, store)
    header = next(store.rglob("gallery.json"))
    text = json.loads(header.read_text())
    header.write_text(json.dumps(_with_model_name(text, str(tmp_path / "gone"))))
    line = refused("search", query, "--store", store)
    assert "--model" in line
    assert "sss reindex" in line


def _with_model_name(value: object, name: str) -> object:
    if isinstance(value, dict):
        return {key: name if key == "name" and "fingerprint" in value else _with_model_name(item, name)
                for key, item in value.items()}  # fmt: skip
    return value


def test_a_truncated_bundle(refused: Refused, tiny_bundle: Bundle, demo: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_bundle.path, broken)
    whole = (broken / ONNX_NAME).read_bytes()
    (broken / ONNX_NAME).write_bytes(whole[: len(whole) // 2])
    line = refused("ingest", demo / "gallery", "--model", broken, "--store", tmp_path / "s")
    assert "truncated" in line
    (broken / META_NAME).write_text('{"format": 1')
    assert META_NAME in refused("evaluate", demo / "gallery", "--model", broken)
    assert not (tmp_path / "s").exists()


def test_a_store_that_is_not_one(refused: Refused, query: Path, empty: Path) -> None:
    assert "no store at" in refused("search", query, "--store", empty / "nowhere")
    (empty / "a.txt").write_text("mine")
    refused("search", query, "--store", empty)
    assert "is not a store" in refused("search", query, "--store", empty / "a.txt")


def test_ingest_never_writes_into_a_directory_of_something_else(refused: Refused, demo: Path, empty: Path) -> None:
    (empty / "thesis.tex").write_text("mine")
    refused("ingest", demo / "gallery", "--store", empty)
    assert [path.name for path in empty.iterdir()] == ["thesis.tex"]


def test_a_store_that_cannot_be_written(refused: Refused, demo: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot write store" in refused("ingest", demo / "gallery", "--store", tmp_path / "file" / "store")


def test_an_unknown_gallery_lists_the_known_ones(refused: Refused, query: Path, demo_store: Path) -> None:
    line = refused("search", query, "--store", demo_store, "--gallery", "other")
    assert "no gallery 'other'" in line
    assert "default" in line
    refused("search", query, "--store", demo_store, "--gallery", "../default", code=2)


@pytest.mark.parametrize("k", ["0", "-1"])
def test_k_below_one(refused: Refused, query: Path, demo_store: Path, k: str) -> None:
    assert "k is" in refused("search", query, "--store", demo_store, "-k", k, code=2)


def test_a_sheet_that_is_no_png_is_refused_before_the_search(refused: Refused, query: Path) -> None:
    assert ".png" in refused("search", query, "--save", "sheet.jpg", code=2)


def test_an_identity_that_does_not_exist(refused: Refused, demo: Path, tmp_path: Path) -> None:
    listed = tmp_path / "ids.txt"
    listed.write_text("0001\n9999\n")
    assert "9999" in refused("evaluate", demo / "gallery", "--identities", listed)
    pytest.importorskip("torch")
    assert "9999" in refused("train", demo / "gallery", "--holdout-ids", listed, "--init", "none")


def test_evaluation_of_nothing(refused: Refused, demo: Path, tmp_path: Path) -> None:
    assert "no finished run under runs/" in refused("evaluate", cwd=tmp_path, code=2)
    one = tmp_path / "one"
    one.mkdir()
    shutil.copy(next((demo / "gallery").glob("0001_*")), one)
    assert "nothing to evaluate" in refused("evaluate", one)
    refused("evaluate", one, "--all", "--identities", "heldout", code=2)


def test_training_without_data_explains_itself_in_two_lines(
    refused: Refused, tmp_path: Path, sss: Callable[..., object]
) -> None:
    assert "name a directory" in refused("train", cwd=tmp_path, code=2)
    done = sss("train", cwd=tmp_path)
    assert len(done.stderr.splitlines()) == 2  # type: ignore[attr-defined]


def test_training_on_what_is_not_there(refused: Refused, tmp_path: Path) -> None:
    assert "no such file or directory" in refused("train", tmp_path / "nowhere")
    assert "--resume continues a run with its own options" in refused(
        "train", "--resume", tmp_path, "--epochs", "3", code=2
    )
    assert not (tmp_path / "runs").exists()


def test_a_demo_set_over_somebodys_files(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    assert "not a demo set" in refused("demo", tmp_path)
    assert "out of range" in refused("demo", tmp_path / "new", "--identities", "1", code=2)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--candidates", "5"), "--rerank"),
        (("--rerank", "--candidates", "0"), "1<=x<=10000"),
        (("--time-field", "frame"), "--timeline"),
        (("--timeline", "--group-by", "identity"), "--group-by"),
        (("--timeline", "--time-field", "when"), "no field 'when'"),
        (("--timeline", "-k", "0"), "k is 0"),
    ],
)
def test_options_of_a_search_that_do_not_fit(
    refused: Refused, query: Path, demo_store: Path, options: tuple[str, ...], reason: str
) -> None:
    assert reason in refused("search", query, "--store", demo_store, *options, code=2)


def test_data_that_is_not_there_is_said_before_a_run_is_announced(sss: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("torch")
    done = sss("train", "nope", cwd=tmp_path)
    assert done.stderr == "sss: error: nope: no such file or directory; check the path\n"
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_is_named_where_there_is_nothing_else_to_evaluate(refused: Refused, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "first"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    line = refused("evaluate", cwd=tmp_path, code=2)
    assert "runs/first was interrupted" in line
    assert "sss train --resume runs/first" in line


def test_a_bundle_that_cannot_be_is_no_other_identity(
    sss: Callable[..., Any], query: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    """``compare`` ends with 1 for "another identity": whatever goes wrong is 2, expected or not."""
    directory = tmp_path / "bundle"
    shutil.copytree(tiny_bundle.path, directory)
    meta = json.loads((directory / META_NAME).read_text())
    for change in ({"embedding_dim": float("inf")}, {"embedding_dim": 16}, {"heldout_identities": 5}):
        (directory / META_NAME).write_text(json.dumps({**meta, **change}))
        done = sss("compare", query, query, "--model", directory)
        assert (done.returncode, done.stdout) == (2, "")
        assert "sss: error: " in done.stderr
        assert "unexpected" not in done.stderr
    done = sss("compare", tmp_path / ("x" * 5000), query)
    assert done.returncode == 2


def test_a_closed_output_is_one_line(tmp_path: Path) -> None:
    for closed, said in ((">&-", "the standard output is closed"), ("2>&-", None)):
        done = subprocess.run(
            ["sh", "-c", f'exec "$0" -m siamese_search info --store "$1" {closed}', sys.executable, str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == (0 if said is None else 1)
        assert "Traceback" not in done.stderr
        assert said is None or said in done.stderr


def test_closed_streams_are_no_place_for_the_next_file(tmp_path: Path) -> None:
    """What C libraries print on descriptor 2 would be written into the file that has taken its number."""
    code = """
import os, sys, click
import siamese_search.cli.store as store
from siamese_search.cli.main import main

@click.command()
def command():
    print(os.open("file", os.O_CREAT | os.O_RDWR))

store.info_command = command
sys.exit(main(["info"]))
"""
    for closed in ("<&-", "2>&-", "<&- 2>&-"):
        done = subprocess.run(
            ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, code],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) > 2, closed


@pytest.mark.parametrize(
    "words", [["search", "/q.jpg", "--store", "/s"], ["demo"], ["info"], ["plan", "--images", "1M"]]
)
def test_a_working_directory_that_is_gone_is_one_line(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    done = subprocess.run(
        ["sh", "-c", 'rmdir "$PWD"; exec "$0" -m siamese_search "$@"', sys.executable, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path / "gone",
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1:] == [
        "sss: error: the working directory is gone: change to one that exists (cd), and try again"
    ]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [[], ["--help"], ["plan", "--images", "1M", "--json"], ["plan", "--images", "1M"]])
def test_an_output_that_has_no_room_is_one_line(tmp_path: Path, words: list[str], unbuffered: str) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -m siamese_search "$@" > /dev/full', sys.executable, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered, "_SSS_COMPLETE": "" if words else "bash_source"},
    )
    assert done.returncode == 1
    assert done.stderr == "sss: error: the output could not be written: No space left on device\n"
