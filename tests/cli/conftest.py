"""Run ``sss`` as a user does: a process of its own, with a clean environment."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from siamese_search.datasets.demo import generate_demo
from siamese_search.model.bundle import Bundle

Run = Callable[..., subprocess.CompletedProcess[str]]


#: Commands that import torch.
TRAINERS = ("train", "adapt", "sweep", "quantise")


@pytest.fixture(scope="session")
def sss(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """``sss("search", "q.jpg", cwd=..., env={...})`` → the finished process, stdout and stderr as text."""
    home = tmp_path_factory.mktemp("home")
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def run(
        *args: object, cwd: Path | None = None, env: dict[str, str] | None = None, timeout: float = 600
    ) -> subprocess.CompletedProcess[str]:
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SSS_", "XDG_")) and name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")
        }
        python = request.getfixturevalue("torch_python" if args[0] in TRAINERS else "python")
        return subprocess.run(
            [*python, "-m", "siamese_search", *[os.fspath(a) if isinstance(a, Path) else str(a) for a in args]],
            cwd=cwd or elsewhere,
            env={**clean, "HOME": str(home), "SSS_THREADS": "1", **(env or {})},
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def refused(sss: Run) -> Callable[..., str]:
    """Run ``sss`` with what must fail: one error line on stderr, nothing on stdout. Returns the line."""

    def check(*args: object, code: int = 1, **how: object) -> str:
        done = sss(*args, **how)
        errors = [line for line in done.stderr.splitlines() if line.startswith("sss: error: ")]
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert len(errors) == 1, done.stderr
        assert done.stderr.splitlines()[-1] == errors[0]
        assert done.stdout == ""
        return errors[0]

    return check


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo set of six people before three cameras: 32 images in ``gallery`` and ``queries``."""
    out = tmp_path_factory.mktemp("data") / "demo"
    generate_demo(out, identities=6, cameras=3, distractors=2)
    return out


@pytest.fixture(scope="session")
def query(demo: Path) -> Path:
    """The first query image; its identity is 0001."""
    return min((demo / "queries").iterdir())


@pytest.fixture(scope="session")
def demo_store(sss: Run, demo: Path, tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose gallery ``default`` holds the demo images, as the tiny model sees them. Do not write to it."""
    store = tmp_path_factory.mktemp("store") / "store"
    done = sss("ingest", demo / "gallery", "--store", store, "--model", tiny_bundle.path)
    assert done.returncode == 0, done.stderr
    return store
