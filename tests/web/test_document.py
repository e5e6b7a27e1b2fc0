"""docs/serve.md: its commands run, its paths are those of the API, and its numbers those of the code."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess

import pytest

pytest.importorskip("fastapi", reason="the [web] extra is not installed")

from browsing import serving

from siamese_search.cli.main import command_of
from siamese_search.web.app import create_app
from siamese_search.web.options import Limits, ServeOptions
from siamese_search.web.security import METRICS_VARIABLE, Security
from siamese_search.web.service import GalleryService
from tests.support.documents import ROOT

KEY = "0123456789abcdef-key"
TEXT = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")


def test_its_requests_are_answered(drawn, copied, tmp_path):
    commands = [line for line in TEXT.splitlines() if line.startswith("curl ")]
    assert len(commands) == 5
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    images = [paths[0] for paths in list(drawn.queries.values())[:3]]
    (tmp_path / "demo" / "queries").mkdir(parents=True)
    names = ("demo/queries/0001_c3s1_008364_01.jpg", "a.jpg", "b.jpg")
    for image, name in zip(images, names, strict=True):
        shutil.copy(image, tmp_path / name)
    key = sorted((drawn.place / "demo" / "gallery").glob("0001_*.jpg"))[0].name
    with serving(copied) as address:
        for command in commands:
            words = shlex.split(command.replace("localhost:8000", address).replace("0001_c2s1_008137_01.jpg", key))
            done = subprocess.run(
                [*words, "-s", "-w", "\n%{http_code}"], cwd=tmp_path, capture_output=True, text=True, timeout=60
            )
            assert done.stdout.endswith("\n200"), (command, done.stdout)


def test_its_options_and_paths_exist():
    known = {name for one in command_of("serve").params for name in one.opts}
    for line in re.findall(r"^sss serve .*$", TEXT, re.M):
        assert set(re.findall(r"--[a-z-]+", line)) <= known
    assert f"`{METRICS_VARIABLE}`" in TEXT
    for named in ("--port", "--read-only", "--ingest-failures", "--evaluation", "--key-file", "--allow-host"):
        assert named in TEXT
        assert named in known
    app = create_app(GalleryService(ServeOptions()))
    served = [path.removeprefix("/api/v1/").replace("{point}", "ID") for path in app.openapi()["paths"]]
    assert len(served) > 15
    for path in served:
        shown = [path, *path.rsplit("/", 1)[1:]]
        assert any(f"`{word}" in TEXT or f" {word}" in TEXT for word in shown), path
    for named in re.findall(r"(?:localhost:8000)?/api/v1/([a-z./]+)", TEXT):
        assert named in (*served, "openapi.json"), named


def test_its_bounds_are_those_of_the_code():
    limits = Limits()
    assert f"{limits.bytes >> 20} MiB a request" in TEXT
    assert f"{limits.pixels // 10**6} megapixels" in TEXT
    assert f"{limits.images} images, {limits.arrival:.0f} seconds to arrive" in TEXT
    guarded = Security(KEY)
    for tried in range(11):
        assert guarded.blocked("10.0.0.1") == (tried >= 10)  # "Ten wrong ones a minute"
        guarded.failed("10.0.0.1")
