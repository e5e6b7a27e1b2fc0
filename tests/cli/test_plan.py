"""``sss plan``, as a user types it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from subprocess import CompletedProcess

import pytest

from siamese_search.cli.main import main

Run = Callable[..., CompletedProcess[str]]


def test_it_prints_a_table_and_the_settings_for_it(sss: Run) -> None:
    done = sss("plan", "--images", "1e9", "--quantise", "int4", "--storage", "float16")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith("1,000,000,000 images, 512-D, float16, searched in int4")
    (asked,) = (line for line in done.stdout.splitlines() if line.rstrip().endswith("asked for"))
    assert asked.split()[:2] == ["float16", "int4"]
    for line in ("  [server]", "  on_disk = true", '  quantisation = "int4"', "  replicas = 2"):
        assert line in done.stdout.splitlines()


@pytest.mark.parametrize("images", ["1e6", "1M", "1_000_000", "1000000", "1,000,000"])
def test_numbers_as_people_write_them(images: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--images", images, "--nodes-ram", "64GiB", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert (planned["images"], planned["node_ram"]) == (1_000_000, 64 * 2**30)


def test_gpus_and_their_rate(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--images", "36M", "--gpus", "5", "--images-per-second", "1000", "--json"]) == 0
    ingest = json.loads(capsys.readouterr().out)["ingest"]
    assert {row["workers"]: row["hours"] for row in ingest["workers"]}[5] == 2.0
    assert not ingest["measured"]


@pytest.mark.parametrize(
    "options",
    [
        ["--images", "many"],
        ["--images", "0"],
        ["--images", "1e99"],
        ["--images", "1M", "--dim", "0"],
        ["--images", "1M", "--nodes-ram", "big"],
        ["--images", "1M", "--images-per-second", "0"],
        ["--images", "1M", "--queries-per-second", "nan"],
        ["--images", "1M", "--m", "1"],
        [],
    ],
    ids=" ".join,
)
def test_what_cannot_be_planned_is_wrong_usage(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *options]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("sss: error: ")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("images", ["10k", "1M", "1e12"])
def test_no_time_is_rounded_to_nothing(images: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--images", images]) == 0
    assert not re.findall(r"(?<![\d.,])0(?:\.0+)? (?:s|min|h|days)\b", capsys.readouterr().out)
