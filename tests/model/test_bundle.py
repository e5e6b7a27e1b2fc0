from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from siamese_search.errors import BundleError
from siamese_search.model.bundle import PACKAGED, Bundle, load_bundle


@pytest.fixture
def copy(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    target = tmp_path / "copy"
    shutil.copytree(tiny_bundle.path, target)
    return target


def edit(directory: Path, **changes: object) -> None:
    path = directory / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_bundle_reads_back(tiny_bundle: Bundle) -> None:
    again = load_bundle(tiny_bundle.path)
    assert again.fingerprint == tiny_bundle.fingerprint
    assert len(again.fingerprint) == 64
    assert (again.dim, again.input_size) == (32, (64, 32))
    assert again.heldout_identities == []


@pytest.mark.parametrize("keep", [0, 1, 1000])
@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors"])
def test_a_truncated_file_is_named(copy: Path, name: str, keep: int) -> None:
    path = copy / name
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BundleError, match=f"{name} has {keep} bytes instead of"):
        load_bundle(copy)


def test_scripts_find_the_bundled_model_and_its_weights() -> None:
    bundle = load_bundle("bundled")
    assert bundle.path == PACKAGED["bundled"]
    assert bundle.weights_path.is_file()


def test_a_missing_file_is_named(copy: Path) -> None:
    (copy / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"model\.onnx is missing"):
        load_bundle(copy)


def test_a_replaced_file_of_the_same_size_is_found_when_read(copy: Path) -> None:
    path = copy / "model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match="checksum"):
        load_bundle(copy).read_checked("model.onnx")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("[1, 2]", "does not describe"),
        ('{"format": 1}', "lacks fields"),
        ('{"format": 9}', "bundle format 9"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_a_damaged_description_is_one_line(copy: Path, text: str, message: str) -> None:
    (copy / "model.json").write_text(text)
    with pytest.raises(BundleError, match=message) as caught:
        load_bundle(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"fingerprint": "short"},
        {"embedding_dim": 0},
        {"embedding_dim": "many"},
        {"input": {"height": 1_000_000, "width": 64}},
        {"files": {"model.onnx": {"bytes": 1}}},
        {"files": None},
    ],
)
def test_implausible_fields_are_refused(copy: Path, changes: dict[str, object]) -> None:
    edit(copy, **changes)
    with pytest.raises(BundleError, match="lacks fields"):
        load_bundle(copy)


def test_no_such_directory_and_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such model bundle"):
        load_bundle(tmp_path / "none")
    with pytest.raises(BundleError, match=r"model\.json is missing"):
        load_bundle(tmp_path)
    (tmp_path / "checkpoint.safetensors").touch()
    with pytest.raises(BundleError, match="training has not finished"):
        load_bundle(tmp_path)


@pytest.mark.parametrize("name", ["model.json", "model.onnx", "model.safetensors"])
def test_pipes_and_devices_are_refused_at_once(copy: Path, name: str) -> None:
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        (copy / name).unlink()
        make(copy / name)
        with pytest.raises(BundleError, match=name) as caught:
            load_bundle(copy)
        assert "\n" not in str(caught.value)


def test_a_file_that_becomes_a_device_is_not_read_to_its_end(copy: Path) -> None:
    bundle = load_bundle(copy)
    (copy / "model.onnx").unlink()
    (copy / "model.onnx").symlink_to("/dev/zero")
    with pytest.raises(BundleError, match="not a regular file"):
        bundle.read_checked("model.onnx")
    (copy / "model.onnx").unlink()
    with (copy / "model.onnx").open("wb") as file:
        file.truncate(1 << 40)  # a hole: it takes no room
    with pytest.raises(BundleError, match="more than"):
        bundle.read_checked("model.onnx")


def test_the_bundled_model_is_whole_small_and_documented() -> None:
    bundle = load_bundle()
    assert bundle.name == "bundled"
    assert bundle.dim == 512
    for name in ("model.onnx", "model.safetensors"):
        bundle.read_checked(name)
    files = list(PACKAGED["bundled"].iterdir())
    assert sum(path.stat().st_size for path in files) <= 25 * 2**20
    assert "MODEL_CARD.md" in {path.name for path in files}
    assert bundle.input_size == (128, 64)
    assert bundle.fingerprint in (PACKAGED["bundled"] / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert bundle.calibration is not None
    assert bundle.calibration.impostor > 1_000_000
