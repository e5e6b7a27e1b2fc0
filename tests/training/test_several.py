"""A run over several data sets: who is who, what a resumed run repeats, and what is measured afterwards."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from siamese_search.datasets.layouts import load_dataset  # noqa: E402
from siamese_search.datasets.splits import load_joined  # noqa: E402
from siamese_search.errors import DataError  # noqa: E402
from siamese_search.evaluation.subject import choose_subject, select_identities  # noqa: E402
from siamese_search.model.network import APNNetwork, NetworkSpec  # noqa: E402
from siamese_search.training.config import PRESETS, TrainConfig  # noqa: E402
from siamese_search.training.data import HoldOut, PixelSource, label_images, load_split  # noqa: E402
from siamese_search.training.initial import save_vectors, teacher_vectors  # noqa: E402
from siamese_search.training.loop import validate  # noqa: E402
from siamese_search.training.run import Silent, TrainRequest, resume, train  # noqa: E402

SMALL = {"backbone": "test_efficientnet", "dim": 8, "height": 32, "width": 16, "batch_size": 8}
REID = PRESETS["reid"].with_options(**SMALL, images_per_identity=2, epochs=2, warmup_epochs=0.5, checkpoint_minutes=0.0)
PAIRS = PRESETS["contrastive"].with_options(**SMALL, epochs=1)
HELD = ("0001", "0004", "faces/anna", "faces/emil")


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five people in folders, one camera or none; three share nothing with ``people`` but a name each."""
    root = tmp_path_factory.mktemp("several") / "faces"
    rng = np.random.default_rng(1)
    for name in ("0001", "0002", "anna", "dora", "emil"):
        (root / name).mkdir(parents=True)
        for shot in range(3):
            noise = rng.integers(0, 256, (24, 24), dtype=np.uint8)
            Image.fromarray(noise).save(root / name / f"{shot}.png")
    return root


def request(out: Path, *data: Path, config: TrainConfig = REID, **options: object) -> TrainRequest:
    options.setdefault("holdout", HoldOut(ids=HELD))
    return TrainRequest(data=data, out=out, config=config, init="none", device="cpu", threads=1, **options)  # type: ignore[arg-type]


class Recorder(Silent):
    """Keeps what is said; stops the run after some batches, if asked to."""

    def __init__(self, steps: int = 0) -> None:
        self.said: list[str] = []
        self.stop = threading.Event()
        self.left = steps

    def message(self, text: str) -> None:
        self.said.append(text)

    def step(self, report: object) -> None:  # noqa: ARG002
        self.left -= 1
        if self.left == 0:
            self.stop.set()


def test_the_same_name_in_two_data_sets_is_two_people(people: Path, faces: Path) -> None:
    split = load_split((people, faces), "auto", HoldOut(ids=("anna", "images/0002")))
    assert split.heldout_identities == ["faces/anna", "images/0002"]
    assert {"images/0001", "faces/0001", "faces/0002"} <= set(split.train.identities)
    assert {record.identity for record in split.held} == {"faces/anna", "images/0002"}
    images = label_images(split.train, PixelSource([r.path for r in split.train.records], (32, 16), threads=1))
    label = dict(zip([r.identity for r in images.records], images.labels.tolist(), strict=True))
    assert label["images/0001"] != label["faces/0001"]
    assert len(label) == 5 + 4
    assert images.sources is not None
    for record, source in zip(images.records, images.sources.tolist(), strict=True):
        assert record.source == ("images", "faces")[source]
    assert images.by_source() == [
        {"name": "images", "identities": 5, "images": 30},
        {"name": "faces", "identities": 4, "images": 12},
    ]


def test_a_run_says_and_records_what_each_data_set_gave(people: Path, faces: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    result = train(request(tmp_path / "run", people, faces), recorder)
    assert recorder.said[0].startswith("training on ")
    assert recorder.said[1].startswith("images: 4 identities, 24 images, 2 identities held out; layout market1501")
    assert recorder.said[2].startswith("faces: 2 identities, 6 images, 3 identities held out; layout folders")
    held = ["faces/0001", "faces/anna", "faces/emil", "images/0001", "images/0004"]
    assert result.bundle.heldout_identities == held
    assert result.bundle.meta["training"]["sources"] == [
        {"name": "images", "identities": 4, "images": 24},
        {"name": "faces", "identities": 2, "images": 6},
    ]
    saved = json.loads((tmp_path / "run" / "run.json").read_text())
    assert saved["data"] == [str(people), str(faces)]
    assert saved["sources"] == ["images", "faces"]
    assert saved["heldout_identities"] == held
    assert {"rank1", "mAP"} <= set(result.metrics)
    assert str(faces).encode() not in (tmp_path / "run" / "model.json").read_bytes()

    def measured(*data: Path | None, model: Path = tmp_path / "run") -> set[str] | None:
        subject = choose_subject(data[0], str(model), tmp_path)
        chosen, _ = select_identities(subject, load_joined(subject.paths, subject.layout), None, None)
        return None if chosen is None else set(chosen)

    assert measured(people) == {"0001", "0004"}
    assert measured(faces) == {"0001", "anna", "emil"}
    assert measured(None) == set(held)
    # A bundle that was moved away from its run knows the data by its people.
    (tmp_path / "run" / "run.json").unlink()
    assert measured(people) == {"0001", "0004"}
    assert measured(faces) == {"0001", "anna", "emil"}


@pytest.mark.parametrize("config", [REID, PAIRS], ids=["reid", "pairs"])
def test_a_resumed_run_is_bit_equal(
    people: Path, faces: Path, tmp_path: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(request(tmp_path / "whole", people, faces, config=config))
    recorder = Recorder(steps=3)
    with pytest.raises(KeyboardInterrupt):
        train(request(tmp_path / "cut", people, faces, config=config), recorder, recorder.stop)
    monkeypatch.chdir(tmp_path)
    again = resume(tmp_path / "cut", device="cpu", threads=1)
    assert again.bundle.fingerprint == whole.bundle.fingerprint
    assert again.bundle.heldout_identities == whole.bundle.heldout_identities
    assert [row["val_loss"] for row in again.history] == [row["val_loss"] for row in whole.history]
    assert again.metrics == whole.metrics


def test_teacher_vectors_are_told_apart_by_source(faces: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy" / "faces"  # the same keys, other vectors
    for path in faces.rglob("*.png"):
        target = copy / path.relative_to(faces)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    names = {"copy/faces": copy, f"{faces.parent.name}/faces": faces}
    keys = [f"{name}/{record.key}" for name, root in names.items() for record in load_dataset(root).records]
    vectors = np.random.default_rng(0).normal(size=(len(keys), 4)).astype(np.float32)
    given = tmp_path / "teacher.npz"
    np.savez(given, keys=np.array(keys), vectors=vectors)
    records = load_split((copy, faces), "auto", HoldOut(amount=0)).train.records
    unit = dict(zip(keys, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), strict=True))
    found = teacher_vectors(given, records, REID)
    assert np.allclose(found[0], [unit[record.key] for record in records], atol=1e-6)
    save_vectors(tmp_path / "kept.npz", records, found, REID)
    assert np.allclose(teacher_vectors(tmp_path / "kept.npz", records, REID), found, atol=1e-6)
    np.savez(given, keys=np.array([key.partition("/faces/")[2] for key in keys]), vectors=vectors)
    with pytest.raises(DataError, match="no teacher vector for 30 images"):
        teacher_vectors(given, records, REID)


def test_a_data_set_that_teaches_nothing_is_named(people: Path, tmp_path: Path) -> None:
    for name in ("anna", "ben", "carl"):
        path = tmp_path / "single" / name / "only.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (20, 20)).save(path)
    with pytest.raises(DataError, match=r"single: 3 identities and 3 readable images are left"):
        train(request(tmp_path / "run", people, tmp_path / "single", holdout=HoldOut(amount=0)))
    assert not (tmp_path / "run" / "run.json").exists()


def test_validation_finds_no_match_between_data_sets(people: Path, tmp_path: Path) -> None:
    """The same pictures under the same names in two data sets: each query's twin is a wrong answer."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in people.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    held = load_split((people, copy), "auto", HoldOut(amount=2)).held
    assert len({record.identity for record in held}) == 4
    torch.manual_seed(0)
    network = APNNetwork(NetworkSpec(backbone="test_efficientnet", dim=8, height=32, width=16, neck="bn"))
    pixels = PixelSource([r.path for r in held], (32, 16), threads=1)
    metrics, loss = validate(network, held, pixels, "cpu", REID)
    assert metrics.invalid_queries == 0
    assert metrics.rank1 == 0.0
    assert loss is not None
