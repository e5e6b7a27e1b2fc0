from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


def draw_people(root: Path, identities: int = 6, cameras: int = 2, shots: int = 3, size=(32, 64)) -> Path:
    """Blocks of two colours per identity with a camera's tint and noise, under Market-1501 names."""
    rng = np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    for identity in range(1, identities + 1):
        top, bottom = rng.integers(30, 226, (2, 3))
        for camera in range(1, cameras + 1):
            for shot in range(shots):
                pixels = np.empty((size[1], size[0], 3))
                pixels[: size[1] // 2], pixels[size[1] // 2 :] = top, bottom
                pixels = pixels * (0.75 + 0.15 * camera) + rng.normal(0, 12, pixels.shape)
                image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                image.save(root / f"{identity:04d}_c{camera}s1_{shot:06d}_00.jpg", quality=92)
    return root


#: What the exporter has made in this process, by the fingerprint of the network.
_GRAPHS: dict[str, bytes] = {}


@pytest.fixture(scope="module", autouse=True)
def each_network_is_exported_once() -> Iterator[None]:
    """Export takes seconds, and a resumed run ends in the network of the whole one: the same bits, the same graph.

    That the same network gives the same graph is held by ``tests/model/test_export.py``.
    """
    try:
        from siamese_search.model import weights_file
        from tests.support.fingerprint import fingerprint_of
    except ImportError:  # no torch: nothing is exported
        yield
        return
    export = weights_file.export_onnx

    def once(network: Any) -> Any:
        name = fingerprint_of(network.state_dict(), network.spec)
        if name not in _GRAPHS:
            _GRAPHS[name] = export(network)
        return _GRAPHS[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights_file, "export_onnx", once)
        yield


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_people(tmp_path_factory.mktemp("people") / "images")
