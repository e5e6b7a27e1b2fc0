"""Reader: a gallery comes with its own model, and only that is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from siamese_search import workspace
from siamese_search.errors import ModelMismatchError
from siamese_search.gallery import open_gallery
from siamese_search.model.bundle import load_bundle


def bundle_directory(path: Path, fingerprint: str) -> Path:
    """As much of a bundle as can be opened; its network is never run."""
    path.mkdir()
    files = {}
    for name in ("model.onnx", "model.safetensors"):
        (path / name).write_bytes(b"x")
        files[name] = {"bytes": 1, "sha256": "0" * 64}
    meta = {"format": 1, "fingerprint": fingerprint, "embedding_dim": 8, "files": files}
    (path / "model.json").write_text(json.dumps({**meta, "input": {"height": 32, "width": 16}}))
    return path


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fingerprints of the models loaded so far."""
    names: list[str] = []

    def load(bundle, device, threads):
        names.append(bundle.fingerprint)
        return bundle

    monkeypatch.setattr(workspace, "load", load)
    return names


def test_only_the_gallery_s_own_model_is_loaded(tmp_path: Path, loaded: list[str]) -> None:
    own = bundle_directory(tmp_path / "own", "a" * 64)
    other = bundle_directory(tmp_path / "other", "b" * 64)
    store = str(tmp_path / "store")
    model = workspace.reference(load_bundle(own))
    with open_gallery(store, "g", model=model, create=True, mode="w"):
        pass
    for named in ("", own):
        with workspace.Reader(store, "g", named, 1) as reader:
            gallery, embedder, bundle = reader.now()
            assert embedder.fingerprint == gallery.model.fingerprint == bundle.fingerprint == "a" * 64
    assert loaded == ["a" * 64] * 2
    with workspace.Reader(store, "g", other, 1) as reader, pytest.raises(ModelMismatchError):
        reader.now()
    assert len(loaded) == 2
