"""The Makefile and the CI script: what a fresh machine runs first. Recipes are read and dry-run, not executed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import siamese_search as sss
from siamese_search.datasets.demo import generate_demo

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")

#: What a make around the tests hands down: it would print directories and take options.
INHERITED = ("MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS", "PYTHON", "WORKERS")

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*args: str, cwd: Path = ROOT, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run make without the variables of a make around us, nor a PYTHON from outside."""
    clean = {name: value for name, value in os.environ.items() if name not in INHERITED}
    return subprocess.run(
        ["make", *args],
        cwd=cwd,
        env={**clean, "PATH": path or clean["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A directory with the Makefile alone, so that no environment of the real checkout is seen or touched."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").write_text("")
    return tmp_path


def recipe(target: str, cwd: Path, *variables: str) -> str:
    done = make("--dry-run", target, *variables, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_targets_are_all_there(checkout: Path) -> None:
    for target in ("demo", "test", "lint", "wheel", "bench", "clean"):
        assert recipe(target, checkout)
        assert f"make {target}" in make("help").stdout


def test_demo_installs_the_base_only_and_runs_the_verbs(checkout: Path) -> None:
    text = recipe("demo", checkout)
    assert "-m venv .venv" in text
    assert "-e ." in text
    assert "[torch" not in text
    verbs = re.findall(r"^\.venv/bin/sss (\w+)", text, re.M)
    assert verbs == ["demo", "ingest", "search", "evaluate", "search"]
    assert "--store" not in text  # where the next command looks
    assert "--save demo/results.html" in text
    assert "demo/results.html" in text.splitlines()[-1]


def test_test_runs_every_check(checkout: Path) -> None:
    text = recipe("test", checkout)
    assert "[torch,dev]" in text
    order = [text.index(part) for part in ("ruff check", "ruff format --check", "mypy", "-m pytest")]
    assert order == sorted(order)
    assert "--numprocesses logical --maxprocesses 4 --dist worksteal" in text
    assert "--numprocesses 0 " in recipe("test", checkout, "WORKERS=0")


def test_an_environment_that_is_up_to_date_is_reused(checkout: Path) -> None:
    environment = checkout / ".venv"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").touch()
    for stamp in (".installed-base", ".installed-full"):
        (environment / stamp).touch()
    assert "pip install" not in recipe("demo", checkout)
    assert "pip install" not in recipe("test", checkout)
    os.utime(checkout / "pyproject.toml", (2**32, 2**32))
    assert "pip install" in recipe("demo", checkout)


def test_no_suitable_python_is_one_clear_line(checkout: Path) -> None:
    done = make("demo", "PYTHON=", cwd=checkout)
    assert done.returncode != 0
    assert "found no Python 3.11 or newer" in done.stderr
    assert not (checkout / ".venv").exists()


def test_an_old_python_is_passed_over(checkout: Path) -> None:
    """A ``python3`` that fails the version check is skipped for a later candidate."""
    programs = checkout / "bin"
    programs.mkdir()
    for name, code in (("python3", 1), ("python3.14", 1), ("python3.13", 0), ("python3.12", 0)):
        (programs / name).write_text(f"#!/bin/sh\nexit {code}\n")
        (programs / name).chmod(0o755)
    done = make("--dry-run", "demo", cwd=checkout, path=f"{programs}:/usr/bin:/bin")
    assert "python3.13 -m venv .venv" in done.stdout


def test_ci_calls_make_test_and_stops_at_the_first_failure() -> None:
    script = ROOT / ".ci" / "run"
    text = script.read_text(encoding="utf-8")
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in text
    assert text.rstrip().endswith("make test")
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_no_registry_is_named() -> None:
    """Where packages come from is the machine's own configuration."""
    for path in (
        ROOT / "Makefile",
        ROOT / ".ci" / "run",
        ROOT / "pyproject.toml",
        *(path for path in (ROOT / "deploy").rglob("*") if path.is_file()),
    ):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"index-url|://[^/\s]*(pypi|mirror|proxy)", text), path


def test_the_demo_ends_with_the_honest_miss_that_it_announces(tmp_path: Path) -> None:
    """New weights may find that person, or lose another."""
    assert "the last is wrong, a double in the same clothes" in MAKEFILE
    asked = re.search(r"^ASKED := (.+)$", MAKEFILE, re.M)
    assert asked
    generate_demo(tmp_path / "demo")
    queries = [tmp_path / "demo" / "queries" / name for name in asked[1].split()]
    sss.ingest(tmp_path / "demo" / "gallery", store=tmp_path / "store", threads=1)
    answers = sss.search(queries, k=1, store=tmp_path / "store", threads=1)
    found = [(query.name[:4], answer.results[0].identity) for query, answer in zip(queries, answers, strict=True)]
    assert [own == other for own, other in found] == [True, True, True, False]
    doubles = {(int(name or 0) - 1) // 2 for name in found[-1]}  # 1 and 2, 3 and 4 …
    assert len(doubles) == 1
