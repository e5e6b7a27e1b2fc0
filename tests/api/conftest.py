from pathlib import Path

import pytest

from siamese_search.datasets.demo import generate_demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("api") / "demo"
    generate_demo(out, identities=4, cameras=3, distractors=1)
    return out
