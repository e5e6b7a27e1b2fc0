"""Judges of pages: a parser that fails where tags do not close, and a browser that must not complain."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import pytest
from PIL import Image

VOID = {"meta", "link", "img", "br"}


class Balanced(HTMLParser):
    """Fails where tags do not close in order; notes the tags, their ids and what they point to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.ids: list[str] = []
        self.scripts: list[str] = []

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.links += [part for _, value in attrs for part in re.findall(r"url\((#[^)]*)\)", value or "")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check_page(text: str) -> Balanced:
    """The page's tags close, it runs nothing but the script of maps, which its policy names, and asks nobody."""
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    script = resources.files("siamese_search.render").joinpath("static/plane.js").read_text(encoding="utf-8")
    proof = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert parser.scripts in ([], [script])
    assert text.lower().count("<script") == len(parser.scripts)
    assert text.count(f"; script-src 'sha256-{proof}'\">") == text.count("script-src") == len(parser.scripts)
    assert parser.handlers == []
    assert len(parser.ids) == len(set(parser.ids))
    inside = {f"#{name}" for name in parser.ids}
    assert all(link.startswith("data:") or link in inside for link in parser.links)
    assert not re.search(r"https?://|url\((?!#)|@import", text)
    return parser


def screenshot(page: Path, out: Path, size: tuple[int, int] = (1100, 1800), *, dark: bool = False) -> Image.Image:
    """The page as Chromium shows it, once it has nothing to complain of; skips where there is no Chromium."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here")
    done = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={size[0]},{size[1]}",
            "--hide-scrollbars", "--enable-logging=stderr", f"--user-data-dir={out.with_suffix('.profile')}",
            *(["--blink-settings=preferredColorScheme=0"] if dark else []),
            "--disable-background-networking", "--disable-component-update", "--no-first-run",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--screenshot={out}", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    # A request to elsewhere, or a script, is against the page's own policy: Chromium says so on the console.
    assert "CONSOLE" not in done.stderr, done.stderr[-2000:]
    with Image.open(out) as picture:
        picture.load()
        return picture.convert("RGB")
