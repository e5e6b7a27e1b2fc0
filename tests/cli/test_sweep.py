"""``sss sweep`` as a user runs it: what it prints, its exit codes, Ctrl-C and going on."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Run = Callable[..., CompletedProcess[str]]

SMALL = (
    "--preset", "apn", "--backbone", "test_efficientnet", "--height", "64", "--width", "32", "--dim", "16",
    "--batch-size", "4", "--init", "none", "--holdout", "2", "--device", "cpu", "--threads", "1",
)  # fmt: skip


def rows(directory: Path) -> list[dict[str, str]]:
    with (directory / "results.csv").open(newline="") as handle:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(handle)]


def test_a_dry_run_lists_the_runs_and_writes_nothing(sss: Run, demo: Path, tmp_path: Path) -> None:
    done = sss("sweep", demo / "gallery", *SMALL, "--margin", "0.2,0.5", "--seed", "0,1", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("margin=0.2,seed=0", "margin=0.2,seed=1", "margin=0.5,seed=0", "margin=0.5,seed=1"):
        assert re.search(rf"^ *{re.escape(name)} ", done.stdout, re.M)
    assert "4 of 4 runs to do, 60 epochs; 2 identities held out" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_neither_help_nor_a_dry_run_loads_torch(demo: Path) -> None:
    code = "import sys\nfrom siamese_search.cli.main import main\nmain({args})\nprint(*sys.modules, file=sys.stderr)"
    dry = ["sweep", str(demo / "gallery"), "--margin", "1,2", "--holdout", "2", "--dry-run"]
    for args, heavy in ((["sweep", "--help"], {"torch", "numpy", "matplotlib"}), (dry, {"torch", "timm"})):
        done = subprocess.run(
            [sys.executable, "-c", code.format(args=args)], capture_output=True, text=True, check=True
        )
        assert heavy.isdisjoint(done.stderr.split()), args


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--margin", "0.2"), "nothing to sweep"),
        (("--margin", "0.2,wide"), "--margin: 'wide' is not a number"),
        (("--margin", "0.2,0.5", "--holdout", "0"), "nobody is held out"),
        (("--margin", "0.2,0.5", "--holdout", "2", "--holdout-ids", "x"), "not both"),
        (("--margin", "0.2,0.5", "--resume", "x"), "--resume continues a sweep with its own options"),
    ],
)
def test_wrong_usage_is_one_line_before_anything_is_trained(
    refused: Callable[..., str], demo: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    assert words in refused("sweep", demo / "gallery", *options, code=2, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_data_it_says_how_to_give_some(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "sss sweep photos/" in refused("sweep", "--margin", "1,2", code=2, cwd=tmp_path)


@pytest.mark.slow
def test_ctrl_c_keeps_everything_and_the_same_command_goes_on(sss: Run, demo: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    command = (
        "sweep", demo / "gallery", *SMALL, "--epochs", "4", "--checkpoint-minutes", "0", "--margin", "0.2,1",
    )  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "siamese_search", *map(str, command), "--out", "cut"],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while not (tmp_path / "cut" / "margin=1.0" / "checkpoint.safetensors").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert err.splitlines()[-1] == (
        "sss: interrupted; 1 of 2 runs done, the one in hand is kept, go on with: sss sweep --resume cut"
    )
    assert [row["state"] for row in rows(tmp_path / "cut")] == ["done", "planned"]
    again = sss(*command, "--out", "cut", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "run 1 of 2" not in again.stderr
    assert "resuming at epoch" in again.stderr
    # Never interrupted; the first run was not either, so its bundle will do.
    shutil.copytree(tmp_path / "cut" / "margin=0.2", tmp_path / "whole" / "margin=0.2")
    whole = sss(*command, "--out", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert again.stdout == whole.stdout
