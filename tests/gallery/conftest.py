"""Fixtures of the gallery tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A fresh directory, in memory where the system offers that: these tests fsync a great deal."""
    memory = Path("/dev/shm")
    if not (memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 1 << 30):
        yield tmp_path
        return
    path = Path(tempfile.mkdtemp(prefix="sss-tests-", dir=memory))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
