"""The commands for whole galleries, as a user runs them."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from siamese_search.gallery import list_galleries, open_store
from siamese_search.model.bundle import Bundle

Run = Callable[..., CompletedProcess[str]]
Refused = Callable[..., str]


@pytest.fixture
def store(demo_store: Path, tmp_path: Path) -> Path:
    """A copy of the demo store, to be written to."""
    return Path(shutil.copytree(demo_store, tmp_path / "store"))


def scores(done: CompletedProcess[str]) -> list[float]:
    assert done.returncode == 0, done.stderr
    return [result["score"] for result in json.loads(done.stdout)[0]["results"]]


def test_reindex_rollback_and_drop_old(
    sss: Run, refused: Refused, store: Path, query: Path, other_bundle: Bundle, tiny_bundle: Bundle
) -> None:
    search = ("search", query, "--store", store, "--format", "json")
    before = scores(sss(*search))
    done = sss("reindex", "--model", other_bundle.path, "--store", store)
    assert done.returncode == 0, done.stderr
    assert "26 images, 26 of them embedded now" in done.stdout
    assert "sss rollback" in done.stdout
    after = scores(sss(*search))
    assert after != before
    assert "nothing to do" in refused("reindex", "--model", other_bundle.path, "--store", store, code=2)
    shown = sss("info", "--store", store, "--gallery", "default").stdout
    facts = dict(line.split(maxsplit=1) for line in shown.splitlines() if " " in line)
    assert facts["previous"].startswith(f"{tiny_bundle.name} (")
    assert facts["previous"].endswith(f"sss rollback --store {store} --gallery default goes back to it")
    told = sss("rollback", "--store", store)
    assert f"now by {tiny_bundle.name}" in told.stdout
    assert f"was by {other_bundle.name}" in told.stdout
    assert scores(sss(*search)) == before
    assert sss("rollback", "--store", store).returncode == 0
    assert scores(sss(*search)) == after
    dropped = sss("reindex", "--drop-old", "--store", store)
    assert (dropped.returncode, dropped.stdout) == (0, "1 former generation deleted\n")
    assert "no former generation" in refused("rollback", "--store", store)


def test_reindexing_without_a_way_back(sss: Run, refused: Refused, store: Path, other_bundle: Bundle) -> None:
    done = sss("reindex", "--model", other_bundle.path, "--store", store, "--drop-old")
    assert done.returncode == 0, done.stderr
    assert "the former vectors are deleted" in done.stdout
    assert "no former generation" in refused("rollback", "--store", store)
    done = sss("reindex", "--keep-vectors", "--store", store)
    assert "26 images, 26 of them" in done.stdout
    line = refused("reindex", "--keep-vectors", "--model", other_bundle.path, "--store", store, code=2)
    assert "--keep-vectors" in line


def test_info_lists_what_a_store_holds(sss: Run, demo_store: Path, tiny_bundle: Bundle) -> None:
    done = sss("info", "--store", demo_store)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    assert lines[1].split()[:6] == ["gallery", "images", "identities", "cameras", "size", "model"]
    row = lines[3].split()
    assert row[:4] == ["default", "26", "6", "3"]
    assert tiny_bundle.fingerprint[:12] in lines[3]
    assert "empty" in sss("info", "--store", demo_store / "galleries" / "nowhere").stdout


def test_push_and_pull(sss: Run, refused: Refused, store: Path, query: Path, tmp_path: Path) -> None:
    far = tmp_path / "far"
    done = sss("push", far, "--store", store)
    assert done.returncode == 0, done.stderr
    assert "26 images: 26 copied, 0 there already" in done.stdout
    assert "26 vectors compared" in done.stdout
    assert "0 copied, 26 there already" in sss("push", far, "--store", store).stdout
    pulled = sss("pull", far, "--store", tmp_path / "third")
    assert pulled.returncode == 0, pulled.stderr
    search = ("search", query, "--format", "json", "--store")
    assert scores(sss(*search, tmp_path / "third")) == scores(sss(*search, store))
    assert "'other'" in refused("pull", far, "--gallery", "other", "--store", tmp_path / "third")
    assert "both" in refused("push", store, "--store", store, code=2)


def test_drop_wants_to_be_asked_or_told(sss: Run, refused: Refused, store: Path) -> None:
    line = refused("drop", "default", "--store", store, code=2)
    assert "--yes" in line
    assert list_galleries(store) == ["default"]
    assert "no gallery 'other'" in refused("drop", "other", "--yes", "--store", store)
    done = sss("drop", "default", "--yes", "--store", store)
    assert (done.returncode, done.stdout) == (0, "gallery 'default' deleted\n")
    assert open_store(store).names() == []


@pytest.mark.parametrize(("answer", "code", "left"), [("n\n", 1, ["default"]), ("y\n", 0, [])])
def test_drop_asks_on_a_terminal(store: Path, answer: str, code: int, left: list[str]) -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "siamese_search", "drop", "default", "--store", store],
        stdin=follower, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(follower)
    os.write(leader, answer.encode())
    out, err = process.communicate(timeout=120)
    os.close(leader)
    assert process.returncode == code
    assert f"delete gallery 'default' (26 images) in {store}? [y/N]" in err
    assert open_store(store).names() == left
    assert out == ("gallery 'default' deleted\n" if left == [] else "")


def test_searches_go_on_during_a_reindex(
    sss: Run, store: Path, demo: Path, tiny_bundle: Bundle, other_bundle: Bundle
) -> None:
    """Each answer is the one before or the one after: the score of an image with itself shows a mixture."""
    member = min((demo / "gallery").glob("0001_*"))
    search = ("search", member, "--store", store, "--format", "json", "-k", "3")
    old = scores(sss(*search))
    running = subprocess.Popen(
        [sys.executable, "-m", "siamese_search", "reindex", "--model", other_bundle.path, "--store", store,
         "--batch-size", "2", "--drop-old", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    answers = []
    while running.poll() is None:
        answers.append(scores(sss(*search)))
    out, err = running.communicate(timeout=120)
    assert running.returncode == 0, err
    assert json.loads(out)["images"] == 26
    new = scores(sss(*search))
    assert old != new
    assert old[0] == pytest.approx(1.0, abs=1e-4)
    assert new[0] == pytest.approx(1.0, abs=1e-4)
    changes = [one for one, before in zip([*answers, new], [None, *answers]) if one != before]
    assert changes in ([old, new], [new])


def test_a_gallery_keeps_the_storage_that_it_was_made_with(
    sss: Run, refused: Refused, demo: Path, tiny_bundle: Bundle, query: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    ingest = ("ingest", demo / "gallery", "--store", store, "--model", tiny_bundle.path)
    assert sss(*ingest, "--storage", "float16", "--quantise", "int4").returncode == 0
    again = sss(*ingest)
    assert again.returncode == 0, again.stderr
    assert " 26 unchanged" in again.stdout
    shown = sss("info", "--store", store, "--gallery", "default").stdout
    facts = dict(line.split(maxsplit=1) for line in shown.splitlines() if " " in line)
    assert facts["vectors"] == "float16, searched in int4"
    assert facts["index"] == "none: exact search"
    assert len(scores(sss("search", query, "--store", store, "--format", "json"))) == 10
    told = refused(*ingest, "--storage", "float32", code=2)
    assert f"sss reindex --store {store} --keep-vectors --storage float32" in told
    changed = sss("reindex", "--keep-vectors", "--quantise", "int8", "--store", store, "--json")
    assert changed.returncode == 0, changed.stderr
    listed = json.loads(sss("info", "--store", store, "--json").stdout)["galleries"][0]
    assert listed["storage"] == {"vectors": "float16", "quantisation": "int8"}
    assert sss("verify", "--store", store).returncode == 0
    # A copy is stored as its original is.
    assert sss("push", tmp_path / "copy", "--store", store).returncode == 0
    listed = json.loads(sss("info", "--store", tmp_path / "copy", "--json").stdout)["galleries"][0]
    assert listed["storage"] == {"vectors": "float16", "quantisation": "int8"}


def test_verify_and_optimise_for_people(sss: Run, refused: Refused, store: Path, tmp_path: Path) -> None:
    done = sss("verify", "--store", store)
    assert (done.returncode, done.stdout.splitlines()[0][:22]) == (0, "26 images: all sound (")
    assert "give one of the two" in refused("verify", "--checksum", "--vectors-only", "--store", store, code=2)
    assert "26 images, nothing to do" in sss("optimise", "--store", store).stdout
    indexed = sss("optimise", "--index", "yes", "--store", store)
    assert "26 images optimised, 26 of them in an index" in indexed.stdout
    assert "optimise: " in indexed.stderr
    assert "no store" in refused("optimise", "--store", tmp_path / "none")
