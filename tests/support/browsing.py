"""A real ``sss serve`` over a small real gallery of drawn people, and a real browser that looks at it."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PEOPLE, CAMERAS, STRANGERS = 10, 3, 4
#: One camera of each person is the query's; the others have two images.
IMAGES = PEOPLE * (CAMERAS - 1) * 2 + STRANGERS
#: Images that the gallery has no identity for, of the last six people: there is something to review.
UNKNOWN = 18


def make_gallery(place: Path) -> dict[str, list[str]]:
    """Drawn people in ``place/demo``, ingested into ``place/.sss``; the queries by identity."""
    import siamese_search as sss
    from siamese_search.datasets.demo import generate_demo

    made = generate_demo(place / "demo", identities=PEOPLE, cameras=CAMERAS, images_per_camera=2, distractors=STRANGERS)
    sss.ingest(made.gallery, store=place / ".sss")
    seen = [sorted(path.name for path in made.gallery.glob(f"{name}_*.jpg")) for name in made.identities[-6:]]
    forgotten = [name for images in seen for name in images[1:]]
    assert len(forgotten) == UNKNOWN
    table = place / "forgotten.csv"
    table.write_text("key,identity\n" + "".join(f"{name},<none>\n" for name in forgotten))
    sss.label(table, store=place / ".sss")
    queries: dict[str, list[str]] = {}
    for path in sorted(made.queries.glob("*.jpg")):
        queries.setdefault(path.name[:4], []).append(str(path))
    return queries


@contextmanager
def serving(store: Path, *options: str, **variables: str) -> Iterator[str]:
    """The address of a server of its own process, once it is ready. variables: of its environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SSS_")}
    environment |= variables
    log = store.parent / f"serve-{port}.log"
    command = [sys.executable, "-m", "siamese_search", "serve", "--store", str(store), "--port", str(port)]
    with log.open("w") as sink:
        process = subprocess.Popen([*command, *options], env=environment, stdout=sink, stderr=sink)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            if process.poll() is not None:
                raise AssertionError(f"sss serve ended: {log.read_text()[-2000:]}")
            try:
                with urllib.request.urlopen(f"{address}/readyz", timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        else:
            raise AssertionError(f"sss serve is not ready: {log.read_text()[-2000:]}")
        yield address
    finally:
        process.terminate()
        process.wait(30)
        assert "Traceback" not in log.read_text(), log.read_text()[-3000:]


@contextmanager
def browser() -> Iterator[object]:
    """A headless Chromium; skips where it, or what steers it, is not installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright to steer a browser with")
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no Chromium here (Debian: apt-get install chromium)")
    flags = ["--disable-gpu", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with playwright.sync_playwright() as steered:
        opened = steered.chromium.launch(executable_path=found, args=flags)
        yield opened
        opened.close()


class Watch:
    """What a context asked for and complained of. Nothing may leave the machine, nothing may be complained of."""

    def __init__(self, context, address: str) -> None:
        self.address = address
        self.asked: list[str] = []
        self.complaints: list[str] = []
        context.on("request", lambda request: self.asked.append(request.url))
        context.on("console", lambda message: self.complaints.append(f"console: {message.text}"))
        context.on("weberror", lambda error: self.complaints.append(f"script: {error.error}"))

    def check(self) -> None:
        outside = [url for url in self.asked if not url.startswith((self.address, "data:", "blob:"))]
        assert self.asked
        assert outside == [], f"asked elsewhere: {outside}"
        assert self.complaints == [], f"the browser complained: {self.complaints}"


def until(true: Callable[[], bool]) -> None:
    """Wait until something is so. (What Playwright has for that evaluates text, which the pages' policy forbids.)"""
    for _ in range(200):
        if true():
            return
        time.sleep(0.1)
    raise AssertionError("it never came to be so")


#: Drops or pastes files as a browser does it: a DataTransfer that holds them, on the page.
_HAND_OVER = """([kind, files]) => {
  const held = new DataTransfer();
  for (const [name, text] of files)
    held.items.add(new File([Uint8Array.from(atob(text), (one) => one.charCodeAt(0))], name, {type: "image/jpeg"}));
  const main = document.querySelector("main");
  if (kind === "paste")
    main.dispatchEvent(new ClipboardEvent("paste", {clipboardData: held, bubbles: true, cancelable: true}));
  else for (const step of ["dragenter", "dragover", "drop"])
    main.dispatchEvent(new DragEvent(step, {dataTransfer: held, bubbles: true, cancelable: true}));
}"""


def hand_over(page, kind: str, *paths: str) -> None:
    """Drop or paste files on a page, and wait for the answer. kind: ``drop`` or ``paste``."""
    files = [(Path(path).name, base64.b64encode(Path(path).read_bytes()).decode()) for path in paths]
    with page.expect_navigation(url="**/?*q=*"):
        page.evaluate(_HAND_OVER, [kind, files])
