"""Fixtures that several packages' tests share."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Several workers share the cores (pytest-xdist): two libraries with two threads each wait for one another at every
# barrier. Before numpy and torch are imported; children inherit it.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import hypothesis  # noqa: E402
import pytest  # noqa: E402

from siamese_search.model.bundle import Bundle  # noqa: E402

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "tests" / "support"))

from forked import served  # noqa: E402

# The tests may be started with `&`, and what they start has to end by SIGINT.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

#: What commands import without torch, and without a thread: ONNX Runtime and Ray start one each.
LIGHT = (
    *(f"siamese_search.{room}.*" for room in ("api", "cli", "curation", "datasets", "evaluation", "gallery", "io")),
    *(f"siamese_search.{room}.*" for room in ("maintenance", "planning", "render", "retrieval", "vectors", "web")),
    *("ingest.run", "ingest.service", "ingest.watching.*"),
)
HEAVY = ("siamese_search.model.*", "siamese_search.training.*", "onnx")

# A busy machine must not fail a test: no deadlines, and the same examples in every run.
hypothesis.settings.register_profile("project", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("project")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow ones first: with several workers, a long test that begins last keeps everybody waiting."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The real data sets: ``SSS_TEST_DATA``, or ``../shared/data`` beside the checkout."""
    named = os.environ.get("SSS_TEST_DATA")
    path = Path(named) if named else PROJECT.parent / "shared" / "data"
    if not (path / "market1501" / "train").is_dir():
        pytest.skip(f"real data is not at {path} (set SSS_TEST_DATA)")
    return path


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The first words of a command line as ``[sys.executable]`` are, with most of a command imported already."""
    with served(*LIGHT, home=tmp_path_factory.mktemp("home")) as words:
        yield words


@pytest.fixture(scope="session")
def torch_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """As ``python``, with torch imported, too."""
    with served(*LIGHT, *HEAVY, home=tmp_path_factory.mktemp("home")) as words:
        yield words


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A real bundle of a very small untrained network: 32-D, 64×32 input."""
    torch = pytest.importorskip("torch")
    from siamese_search.model.network import APNNetwork, NetworkSpec
    from siamese_search.model.weights_file import save_bundle

    torch.manual_seed(7)
    spec = NetworkSpec(backbone="test_efficientnet", dim=32, height=64, width=32)
    return save_bundle(APNNetwork(spec), tmp_path_factory.mktemp("tiny") / "bundle", {})


@pytest.fixture(scope="session")
def other_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """As ``tiny_bundle``, with other random weights: another model of the same shape."""
    torch = pytest.importorskip("torch")
    from siamese_search.model.network import APNNetwork, NetworkSpec
    from siamese_search.model.weights_file import save_bundle

    torch.manual_seed(8)
    spec = NetworkSpec(backbone="test_efficientnet", dim=32, height=64, width=32)
    return save_bundle(APNNetwork(spec), tmp_path_factory.mktemp("other") / "bundle", {})


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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MB, for tests that fill it. Only where mounting is allowed.

    No tmpfs: there even what is only read of a file's holes takes room.
    """
    image, disk = tmp_path / "disk.img", tmp_path / "disk"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(40 << 20)
    commands = (["mkfs.ext4", "-q", "-m", "0", str(image)], ["mount", "-o", "loop", str(image), str(disk)])
    for command in commands:
        if shutil.which(command[0]) is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("a file system of its own needs mkfs.ext4 and the right to mount one")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
