"""Reader: a gallery comes with its own model, and only that is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import siamese_search
from siamese_search import workspace
from siamese_search.errors import ModelMismatchError, UsageError
from siamese_search.gallery import open_gallery
from siamese_search.gallery.contract import ModelRef
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


def test_a_model_that_was_moved_is_named_and_found_again_once_it_is_named(tmp_path: Path) -> None:
    own = bundle_directory(tmp_path / "own", "a" * 64)
    store = str(tmp_path / "store")
    with open_gallery(store, "g", model=workspace.reference(load_bundle(own)), create=True, mode="w"):
        pass
    moved = own.rename(tmp_path / "moved")
    with open_gallery(store, "g") as gallery, pytest.raises(ModelMismatchError, match="no longer there"):
        workspace.model_of(gallery.model)
    with open_gallery(store, "g", model=workspace.reference(load_bundle(moved)), create=True, mode="w"):
        pass
    with open_gallery(store, "g") as gallery:
        assert workspace.model_of(gallery.model).path == moved
    copy = bundle_directory(tmp_path / "copy", "a" * 64)  # the remembered one is still there, and stays
    with open_gallery(store, "g", model=workspace.reference(load_bundle(copy)), mode="w"):
        pass
    with open_gallery(store, "g") as gallery:
        assert gallery.model.name == str(moved)


@pytest.mark.parametrize("query", [{"a.jpg"}, None, 3])
def test_what_is_no_path_is_named(query: object) -> None:
    for take in (workspace.query_images, workspace.root_of):
        with pytest.raises(UsageError, match=f"not (by )?an? {type(query).__name__}"):
            take(query)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="what is compared is named by a path"):
        siamese_search.compare(query, "b.jpg")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["bundled", "fast"])
def test_a_gallery_keeps_the_package_s_model_whatever_lies_in_this_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    of_the_package = load_bundle(name)
    for one in ("bundled", "fast"):
        bundle_directory(tmp_path / one, "ab" * 32)
    monkeypatch.chdir(tmp_path)
    assert workspace.model_of(ModelRef(of_the_package.fingerprint, 512, name)).path == of_the_package.path
