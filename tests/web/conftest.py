"""A real gallery of drawn people, a real server over it, and a real browser."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

import siamese_search as sss


@dataclass(frozen=True)
class Drawn:
    """place: holds ``.sss`` and ``demo``. queries: images that are not in the gallery, by who they show."""

    place: Path
    queries: dict[str, list[str]]

    @property
    def store(self) -> Path:
        return self.place / ".sss"


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """Never written to: who changes labels takes a copy (``copied``)."""
    pytest.importorskip("fastapi", reason="the [web] extra is not installed")
    from browsing import make_gallery

    place = tmp_path_factory.mktemp("drawn")
    found = Drawn(place, make_gallery(place))
    # Drawn people are none of those that the bundled model was calibrated on.
    sss.calibrate(store=found.store)
    return found


@pytest.fixture
def copied(drawn, tmp_path):
    """A store of one test's own."""
    return shutil.copytree(drawn.store, tmp_path / ".sss")


@pytest.fixture(scope="module")
def chromium():
    """Not for the session: while it is open its event loop is this thread's, and nobody else can run one."""
    from browsing import browser

    with browser() as opened:
        yield opened


@pytest.fixture(scope="session")
def read_server(drawn):
    """One server for all that only reads."""
    from browsing import serving

    with serving(drawn.store, "--read-only") as address:
        yield address


@pytest.fixture(scope="session")
def write_server(drawn, tmp_path_factory):
    """(address, store): one server for all that changes labels; each test leaves enough for the others."""
    from browsing import serving

    store = shutil.copytree(drawn.store, tmp_path_factory.mktemp("written") / ".sss")
    with serving(store) as address:
        yield address, store


@pytest.fixture
def tab(chromium):
    """Opens pages of an address; when the test ends, none may have asked elsewhere or complained."""
    from browsing import Watch

    opened = []

    def at(address, **context):
        context = chromium.new_context(base_url=address, **context)
        context.set_default_timeout(20_000)
        opened.append((context, Watch(context, address)))
        return context.new_page()

    yield at
    for context, watch in opened:
        context.close()
        watch.check()
