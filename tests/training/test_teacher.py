"""A teacher network: its answers are those for each image and each view, in their order, however many cores ask."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("openvino")
onnx = pytest.importorskip("onnx")

from siamese_search.datasets.layouts import load_dataset  # noqa: E402
from siamese_search.errors import DataError, UsageError  # noqa: E402
from siamese_search.io.images import read_image  # noqa: E402
from siamese_search.training import initial as teacher  # noqa: E402
from siamese_search.training.augment import augment, view_draws, view_mix  # noqa: E402
from siamese_search.training.config import PRESETS  # noqa: E402

CONFIG = PRESETS["reid"].with_options(teacher_views=2, zoom=0.2, tint=0.2, grey=0.3)


@pytest.fixture
def mean_colour(tmp_path: Path) -> Path:
    """A network whose answer is the mean blue, green and red of an image of 16×8."""
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("GlobalAveragePool", ["images"], ["means"])],
        "mean",
        [onnx.helper.make_tensor_value_info("images", kind, ["n", 3, 16, 8])],
        [onnx.helper.make_tensor_value_info("means", kind, ["n", 3, 1, 1])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(model, tmp_path / "mean.onnx")
    return tmp_path / "mean.onnx"


@pytest.mark.parametrize("cores", [1, 3])
def test_every_image_and_view_has_its_answer(
    people: Path, mean_colour: Path, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    monkeypatch.setattr(teacher, "available_cpus", lambda: cores)
    records = load_dataset(people, "auto").records
    told: list[int] = []
    found = teacher.teacher_vectors(mean_colour, records, CONFIG, progress=lambda done, _: told.append(done))
    assert told == [32, len(records)]
    images = torch.from_numpy(np.stack([read_image(record.path, (16, 8)) for record in records]))
    seen = [images.float()]
    for view in (1, 2):
        random = view_draws(CONFIG, len(records), view)
        seen.append(augment(images, replace(CONFIG, flip=0.0, erase=0.0), random))
    expected = torch.stack([pixels.mean((1, 2)).flip(1) for pixels in seen])
    expected = torch.nn.functional.normalize(expected, dim=2).numpy()
    assert found.shape == (3, len(records), 3)
    assert np.allclose(found, expected, atol=1e-4)
    assert not np.allclose(found[0], found[1], atol=1e-3)


def test_a_mixed_view_is_one_image_above_and_another_below(people: Path, mean_colour: Path) -> None:
    still = {"zoom": 0.0, "tint": 0.0, "grey": 0.0, "jitter": 0.0, "crop": 0.0}
    config = CONFIG.with_options(view_mix=0.5, identity_weight=0.0, triplet_weight=0.0, **still)
    records = load_dataset(people, "auto").records
    found = teacher.teacher_vectors(mean_colour, records, config)
    images = [read_image(record.path, (16, 8)).astype(np.float64) for record in records]
    kinds = set()
    for view in (1, 2):
        partner, cut = view_mix(config, len(records), view)
        for row in range(len(records)):
            seen = images[row].copy()
            for y in range(16):
                if (y + 0.5) / 16 >= float(cut[row]):
                    seen[y] = images[int(partner[row])][y]
            mean = seen.mean((0, 1))[::-1]
            assert np.allclose(found[view, row], mean / np.linalg.norm(mean), atol=1e-4)
            kinds.add(float(cut[row]) < 1)
    assert kinds == {True, False}


def test_two_people_in_one_have_no_label() -> None:
    with pytest.raises(UsageError, match=r"--view-mix.* --triplet-weight and --identity-weight to 0"):
        CONFIG.with_options(view_mix=0.5)


def test_a_damaged_archive_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.npz"
    np.savez_compressed(path, keys=np.array(["a"] * 9), vectors=np.ones((9, 400), np.float32))
    sound = path.read_bytes()
    rng = np.random.default_rng(0)
    broken = [b"", b"PK....", *(sound[:end] for end in (30, 300, len(sound) - 5))]
    for _ in range(40):
        data = bytearray(sound)
        for at in rng.integers(0, len(data), 8):
            data[at] = int(rng.integers(256))
        broken.append(bytes(data))
    for data in broken:
        path.write_bytes(data)
        try:
            teacher.teacher_vectors(path, [], PRESETS["reid"])  # some damage hits nothing
        except DataError as error:
            assert "\n" not in str(error)  # noqa: PT017
    path.write_bytes(sound)
    monkeypatch.setattr(teacher, "available_memory", lambda: 10_000)
    with pytest.raises(DataError, match="more than 5,000"):
        teacher.teacher_vectors(path, [], PRESETS["reid"])


def test_a_network_that_is_none_of_a_teacher_is_one_line_and_waited_for_by_nobody(tmp_path: Path) -> None:
    """One answer for all images; weights that are a pipe; entities that grow, or name another file."""
    kind, node = (
        onnx.TensorProto.FLOAT,
        onnx.helper.make_node("ReduceMean", ["images"], ["o"], axes=[0, 2, 3], keepdims=0),
    )
    ends = [onnx.helper.make_tensor_value_info(*one) for one in (("images", kind, ["n", 3, 16, 8]), ("o", kind, [3]))]
    graph = onnx.helper.make_graph([node], "all", ends[:1], ends[1:])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save_model(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "all.onnx")
    (tmp_path / "pipe.xml").write_text("<net/>")
    os.mkfifo(tmp_path / "pipe.bin")
    entities = "".join(f'<!ENTITY e{at + 1} "{f"&e{at};" * 10}">' for at in range(9))
    (tmp_path / "grows.xml").write_text(f'<!DOCTYPE n [<!ENTITY e0 "x">{entities}]><net name="&e9;"/>')
    (tmp_path / "steals.xml").write_text('<!DOCTYPE n [<!ENTITY e SYSTEM "/etc/passwd">]><net name="&e;"/>')
    for name in ("all.onnx", "pipe.xml", "grows.xml", "steals.xml"):
        with pytest.raises(DataError, match=name) as caught:
            teacher.teacher_vectors(tmp_path / name, [], PRESETS["reid"])
        assert str(caught.value).isprintable()
