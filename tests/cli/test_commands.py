"""The commands as a user runs them: answers on stdout, everything else on stderr."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from PIL import Image

from siamese_search.model.bundle import Bundle

Run = Callable[..., CompletedProcess[str]]

#: What a cold search must never pay for.
FORBIDDEN = ("torch", "timm", "pandas", "sklearn", "qdrant_client", "matplotlib", "scipy", "textual_image", "umap")


def test_search_prints_a_table_and_saves_a_sheet(sss: Run, query: Path, demo_store: Path, tmp_path: Path) -> None:
    done = sss("search", query, "--store", demo_store, "-k", "4", "--save", "sheet.png", cwd=tmp_path)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == f"{query}"
    assert "score" in done.stdout
    assert "identity" in done.stdout
    assert [line.split()[0] for line in lines if line.strip()[:1].isdigit()] == ["1", "2", "3", "4"]
    assert done.stderr == "wrote sheet.png\n"
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 4 * 60


def test_search_as_csv_and_paths(sss: Run, query: Path, demo_store: Path) -> None:
    rows = list(
        csv.DictReader(io.StringIO(sss("search", query, "--store", demo_store, "-k", "3", "--format", "csv").stdout))
    )
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert {"query", "score", "identity", "camera", "path", "key", "match", "frame"} <= set(rows[0])
    paths = sss("search", query, "--store", demo_store, "-k", "3", "--format", "paths").stdout.splitlines()
    assert paths == [row["path"] for row in rows]


def test_filters_and_least_score(sss: Run, query: Path, demo_store: Path) -> None:
    done = sss(
        "search", query, "--store", demo_store, "--format", "json",
        "--where", "camera=1,2", "--where", "identity!=0001", "--min-score", "0.1",
    )  # fmt: skip
    results = json.loads(done.stdout)[0]["results"]
    assert results
    assert {result["camera"] for result in results} <= {"1", "2"}
    assert "0001" not in {result["identity"] for result in results}
    assert min(result["score"] for result in results) >= 0.1
    nothing = sss("search", query, "--store", demo_store, "--where", "camera=99")
    assert nothing.returncode == 0
    assert "no results" in nothing.stdout
    assert "no image has camera=99; there are 1, 2, 3\n" in nothing.stderr


def test_exclude_self(sss: Run, demo: Path, demo_store: Path) -> None:
    member = min((demo / "gallery").glob("0002_*"))
    options = ("--store", demo_store, "--format", "json", "-k", "1")
    assert json.loads(sss("search", member, *options).stdout)[0]["results"][0]["key"] == member.name
    others = json.loads(sss("search", member, *options, "--exclude-self").stdout)
    assert others[0]["results"][0]["key"] != member.name


def test_a_cold_search_imports_nothing_heavy(demo_store: Path, query: Path) -> None:
    code = (
        "import sys\n"
        "from siamese_search.cli.main import main\n"
        f"code = main(['search', {str(query)!r}, '--store', {str(demo_store)!r}, '--format', 'paths'])\n"
        "print(code, *sys.modules, sep='\\n', file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    code_line, *modules = done.stderr.splitlines()
    assert code_line == "0"
    assert "onnxruntime" in modules
    assert [name for name in FORBIDDEN if name in modules] == []


def test_ingest_says_what_it_did_and_does_it_once(sss: Run, demo: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    options = ("--store", tmp_path / "s", "--model", tiny_bundle.path)
    first = sss("ingest", demo / "gallery", *options)
    assert first.returncode == 0
    assert "26 images: 26 new, 0 changed, 0 unchanged, 0 failed" in first.stdout
    assert "layout market1501" in first.stderr
    # The gallery remembers its model, so that it need not be named again.
    second = sss("ingest", demo / "gallery", "--store", tmp_path / "s")
    assert second.returncode == 0
    assert "0 new, 0 changed, 26 unchanged" in second.stdout
    assert "nothing to embed" in second.stdout
    assert "26 new" in sss("ingest", demo / "gallery", *options, "--gallery", "two").stdout
    told = sss("info", "--store", tmp_path / "s").stdout
    assert "default" in told
    assert "two" in told


def test_evaluate_prints_its_figures_and_draws_the_curves(
    sss: Run, demo: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    done = sss("evaluate", demo / "gallery", "--model", tiny_bundle.path, "--plot", tmp_path / "c.png")
    assert done.returncode == 0
    for label in ("rank-1", "mAP", "AUC", "TAR at FAR", "index recall"):
        assert label in done.stdout
    assert "re-ranked" not in done.stdout
    assert "all 6 identities" in done.stderr
    page = tmp_path / "page.html"
    extras = sss("evaluate", demo / "gallery", "--model", tiny_bundle.path, "--flip", "--rerank", "--save", page)
    assert "--flip --rerank" in page.read_text()
    assert re.search(r"re-ranked +rank-1 [\d.]+%, mAP [\d.]+%", extras.stdout)
    assert "flip at test time" in extras.stdout
    with Image.open(tmp_path / "c.png") as curves:
        assert curves.width > 600


def test_settings_and_variables_reach_the_commands(sss: Run, query: Path, demo_store: Path, tmp_path: Path) -> None:
    (tmp_path / "sss.toml").write_text(f'store = "{demo_store}"\n[search]\nk = 2\nformat = "paths"\n')
    assert len(sss("search", query, cwd=tmp_path).stdout.splitlines()) == 2
    assert len(sss("search", query, cwd=tmp_path, env={"SSS_SEARCH_K": "3"}).stdout.splitlines()) == 3
    elsewhere = sss("search", query, cwd=tmp_path, env={"SSS_STORE": "none"})
    assert elsewhere.returncode == 1
    assert "no store at none" in elsewhere.stderr


def on_a_terminal(*args: object, env: dict[str, str]) -> str:
    """What a person would see: stdout and stderr of a command on an 80-column terminal."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "siamese_search", *map(str, args)],
        stdin=subprocess.DEVNULL,
        stdout=follower,
        stderr=follower,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "SSS_THREADS": "2", **env},
        close_fds=True,
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # Linux says EIO when the other end has gone
            break
        if not part:
            break
        shown += part
    process.wait(timeout=60)
    os.close(leader)
    return shown.decode()


def test_a_terminal_gets_a_progress_bar_and_no_color_is_obeyed(demo: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    args = ("ingest", demo / "gallery", "--model", tiny_bundle.path, "--reembed", "--store", tmp_path / "s")
    coloured = on_a_terminal(*args, env={})
    assert "ingest" in coloured
    assert "images/s" in coloured
    assert "\x1b[3" in coloured  # a colour
    plain = on_a_terminal(*args, env={"NO_COLOR": "1"})
    assert "\x1b[3" not in plain


def test_training_end_to_end(sss: Run, demo: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    small = (
        "--preset", "apn", "--backbone", "test_efficientnet", "--height", "64", "--width", "32", "--dim", "16",
        "--epochs", "1", "--batch-size", "4", "--init", "none", "--holdout", "2", "--device", "cpu",
    )  # fmt: skip
    done = sss("train", demo / "gallery", *small, "--out", "runs/one", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["epochs"], result["heldout_identities"], result["failed"]) == (1, 2, [])
    assert set(result["metrics"]) == {"rank1", "mAP", "epoch"}
    assert "epoch   1/1  loss" in done.stderr
    # Without arguments: that run, on the two identities which it held out.
    report = sss("evaluate", "--json", cwd=tmp_path)
    assert report.returncode == 0, report.stderr
    assert json.loads(report.stdout)["model"] == result["fingerprint"]
    assert "the 2 identities that training held out" in report.stderr
    assert "already holds a run" in sss("train", demo / "gallery", *small, "--out", "runs/one", cwd=tmp_path).stderr


def test_many_queries_with_one_result_each_are_one_table(sss: Run, demo: Path, demo_store: Path) -> None:
    queries = sorted((demo / "queries").iterdir())[:3]
    done = sss("search", *queries, "-k", "1", "--store", demo_store)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if "/queries/" in line]
    assert [row.split()[0] for row in rows] == [str(query) for query in queries]
    assert sum("identity" in line and "score" in line for line in done.stdout.splitlines()) == 1
    none = sss("search", *queries, "-k", "1", "--where", "camera=99", "--store", demo_store)
    assert none.stdout == "no results for any query\n"
    assert none.stderr.count("no image has camera=99; there are 1, 2, 3") == 1


def test_no_column_for_cameras_where_there_are_none(sss: Run, demo: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, image in enumerate(sorted((demo / "gallery").iterdir())[:4]):
        shutil.copy(image, flat / f"picture-{number}.jpg")
    store = tmp_path / "store"
    assert sss("ingest", flat, "--store", store).returncode == 0
    done = sss("search", flat / "picture-0.jpg", "--store", store)
    assert done.returncode == 0, done.stderr
    (heading,) = [line.split() for line in done.stdout.splitlines() if "score" in line.split()]
    assert "camera" not in heading
