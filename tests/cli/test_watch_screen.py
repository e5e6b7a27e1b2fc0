"""``sss ingest --watch``: what it prints, how it ends, and a search meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from siamese_search.model.bundle import Bundle

Run = Callable[..., CompletedProcess[str]]
Start = Callable[..., "Watching"]


class Watching:
    """``sss ingest --watch`` in a process of its own; ``out`` and ``err`` are its lines so far."""

    def __init__(self, *arguments: object, home: Path) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("SSS_", "XDG_"))}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "siamese_search", "ingest", "--watch", *map(str, arguments)],
            env={**clean, "HOME": str(home), "SSS_THREADS": "1"},
            cwd=home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.out: list[str] = []
        self.err: list[str] = []
        for stream, lines in ((self.process.stdout, self.out), (self.process.stderr, self.err)):
            threading.Thread(target=_collect, args=(stream, lines), daemon=True).start()

    def wait(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, (self.out, self.err)
            assert self.process.poll() is None, (self.out, self.err)
            time.sleep(0.02)

    def wait_ended(self, condition: Callable[[], object]) -> None:
        """As :meth:`wait`, for the last lines of a process that has ended."""
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, (self.out, self.err)
            time.sleep(0.02)

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


def _collect(stream: Iterator[str], lines: list[str]) -> None:
    for line in stream:
        lines.append(line)


@pytest.fixture
def photos(demo: Path, tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    root.mkdir()
    for number, image in enumerate(sorted((demo / "gallery").iterdir())[:4]):
        shutil.copyfile(image, root / f"{number}.jpg")
    return root


@pytest.fixture
def start(tiny_bundle: Bundle, tmp_path: Path) -> Iterator[Start]:
    started: list[Watching] = []

    def run(*arguments: object) -> Watching:
        options = ("--store", tmp_path / "store", "--model", tiny_bundle.path)
        started.append(Watching(*options, *arguments, home=tmp_path))
        return started[-1]

    yield run
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait(60)


def test_people_see_what_changes_and_ctrl_c_is_how_it_ends(
    start: Start, sss: Run, photos: Path, tmp_path: Path
) -> None:
    watch = start(photos, "--failures", tmp_path / "failures.jsonl")
    watch.wait(lambda: any("watching" in line for line in watch.err))
    assert watch.out[0].startswith("4 images: 4 new")
    shutil.copyfile(photos / "0.jpg", photos / "new.jpg")
    watch.wait(lambda: any("1 new" in line for line in watch.out[1:]))
    # Idle, it keeps nobody from searching.
    done = sss("search", photos / "new.jpg", "--store", tmp_path / "store", "-k", "2", "--format", "json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)[0]["results"]
    assert {Path(one["path"]).name for one in found} == {"0.jpg", "new.jpg"}
    (photos / "new.jpg").unlink()
    (photos / "bad.jpg").write_bytes(b"no image")
    watch.wait(lambda: any("1 removed" in line for line in watch.out))
    watch.wait(lambda: any("skipped" in line and "bad.jpg" in line for line in watch.err))
    assert json.loads((tmp_path / "failures.jsonl").read_text())["path"] == str(photos / "bad.jpg")
    assert watch.end(signal.SIGINT) == 0


def test_programs_get_a_line_of_json_for_each_piece_of_work(
    start: Start, sss: Run, photos: Path, tmp_path: Path
) -> None:
    watch = start(photos, "--json")
    watch.wait(lambda: watch.out)
    shutil.copyfile(photos / "0.jpg", photos / "new.jpg")
    watch.wait(lambda: len(watch.out) == 2)
    # Another ingest into the same gallery finds its turn while this one watches.
    again = sss("ingest", photos, "--store", tmp_path / "store", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["unchanged"] == 5
    first, second = (json.loads(line) for line in watch.out)
    assert (first["new"], second["new"]) == (4, 1)
    assert first.keys() == second.keys()
    assert watch.end(signal.SIGTERM) == 0


def test_a_store_that_is_away_from_the_start_is_an_error(start: Start, photos: Path) -> None:
    watch = start(photos, "--store", "http://127.0.0.1:1")
    assert watch.process.wait(60) == 1
    watch.wait_ended(lambda: any("does not answer" in line for line in watch.err))
