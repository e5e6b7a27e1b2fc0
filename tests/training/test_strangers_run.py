"""A run directory that came from a stranger: damage is one line, and nothing is waited for or written elsewhere."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors import safe_open  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from siamese_search.errors import SiameseSearchError, TrainingError, UsageError  # noqa: E402
from siamese_search.evaluation.subject import _trained_on  # noqa: E402
from siamese_search.model.bundle import load_bundle  # noqa: E402
from siamese_search.training import run as training  # noqa: E402
from siamese_search.training.adapt import resume as resume_adaptation  # noqa: E402
from siamese_search.training.config import PRESETS  # noqa: E402
from siamese_search.training.run import TrainRequest, resume, train  # noqa: E402
from siamese_search.training.sweep.record import find_unfinished, load_sweep  # noqa: E402

SMALL = PRESETS["reid"].with_options(
    backbone="test_efficientnet", height=32, width=16, dim=8, epochs=1, batch_size=4, images_per_identity=2
)
CHECKPOINT = "checkpoint.safetensors"


@pytest.fixture(scope="module")
def begun(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that lacks nothing but its bundle."""
    out = tmp_path_factory.mktemp("begun") / "run"
    train(TrainRequest(people, out, SMALL, init="none", threads=1))
    (out / "model.json").unlink()
    return out


@pytest.fixture
def run(begun: Path, tmp_path: Path) -> Path:
    shutil.copytree(begun, tmp_path / "run")
    return tmp_path / "run"


def refused(call: Callable[[Path], object], run: Path) -> None:
    with pytest.raises(SiameseSearchError) as caught:
        call(run)
    assert str(caught.value).isprintable()
    assert str(run) in str(caught.value)


def deep() -> str:
    return '{"config":' + "[" * 100_000


@pytest.mark.parametrize("text", ["", "null", "5", "[]", '{"config": "neighbours"}', '{"config": []}', deep()])
def test_a_document_that_is_none(run: Path, tiny_bundle: Any, text: str) -> None:
    for name in ("run.json", "sweep.json"):
        (run / name).write_text(text)
    for call in (resume, resume_adaptation, load_sweep):
        refused(call, run)
    assert find_unfinished(run.parent, SimpleDescription()) is None
    shutil.copytree(tiny_bundle.path, run, dirs_exist_ok=True)
    assert _trained_on(load_bundle(run))[0] == []


class SimpleDescription:
    """A sweep that is like no other."""

    def description(self) -> dict[str, Any]:
        return {"preset": "mine"}


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def device(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("put", [pipe, device])
def test_a_pipe_or_a_device_is_no_document_and_no_checkpoint(run: Path, put: Callable[[Path], None]) -> None:
    put(run / CHECKPOINT)
    refused(resume, run)
    for name in ("run.json", "sweep.json"):
        put(run / name)
    for call in (resume, resume_adaptation, load_sweep):
        refused(call, run)
    assert find_unfinished(run.parent, SimpleDescription()) is None
    asked = TrainRequest(run, run, init=str(run))
    assert training._heads_of_same_run(None, asked, SimpleNamespace(heldout_identities=[])) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["history.jsonl", "curves.png", "model.onnx"])
def test_what_cannot_be_written_is_one_line(run: Path, name: str) -> None:
    (run / name).unlink(missing_ok=True)
    (run / name).mkdir()
    refused(resume, run)


def test_a_link_is_not_written_through(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    for name in ("history.jsonl", "model.onnx", "model.json"):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(tmp_path / ("mine" if name != "model.json" else "gone"))
    resume(run)
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "gone").exists()


CONFIG: dict[str, list[Any]] = {
    "epochs": ["x", None, [1], float("nan"), float("inf"), 1.5, True, 10**400, "\x1b[2J"],
    "height": ["x", 32.5, -1],
    "lr": ["x", [], {}, 10**400],
    "batches": ["x", 5],
    "pool": ["max", {}],
    "soft_margin": ["x", 2],
    "sizes": [5],
    "metric_loss": [None],
    "seed": [10**400],
    "backbone": [5, ["a"]],
}


@pytest.mark.parametrize("name", CONFIG)
def test_a_value_that_is_none_of_its_option(run: Path, name: str) -> None:
    saved = json.loads((run / "run.json").read_text())
    for value in CONFIG[name]:
        (run / "run.json").write_text(json.dumps({**saved, "config": {**saved["config"], name: value}}))
        refused(resume, run)
        with pytest.raises(UsageError, match=f"^--{name.replace('_', '-')}: "):
            replace(SMALL, **{name: value}).check()


@pytest.mark.parametrize(
    "change",
    [
        {"data": 5}, {"data": []}, {"data": {}}, {"data": [[1]]}, {"data": "a\0b"}, {"layout": 5}, {"layout": "\x1b"},
        {"heldout_identities": 5}, {"heldout_identities": [[1]]}, {"teacher": 5}, {"train": "x"}, {"train": [1]},
        {"train": {"identities": [[1]]}}, {"train": {"identities": 5}}, {"train": {"identities": ["\x1b[2J"]}},
    ],
)  # fmt: skip
def test_another_kind_of_value(run: Path, change: dict[str, Any]) -> None:
    saved = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**saved, **change}))
    with pytest.raises(SiameseSearchError) as caught:
        resume(run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"progress": []}, {"progress": {"epoch": "x"}}, {"progress": {"epoch": -5}}, {"progress": {"evil": 1}},
        {"progress": {"step": -5, "epoch": 0}}, {"progress": {"best": 5}}, {"progress": {"step": float("nan")}},
        {"rows": 5}, {"rows": "abc"}, {"rows": [{"a": 1}]}, {"rows": [{"seconds": "x"}]}, {"rows": None},
    ],
)  # fmt: skip
def test_a_run_cannot_stand_just_anywhere(run: Path, change: dict[str, Any]) -> None:
    with safe_open(run / CHECKPOINT, "pt") as archive:
        state = json.loads(archive.metadata()["state"])
        tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 - not a dict
    merged = {**state, **change}
    if isinstance(change.get("progress"), dict):
        merged["progress"] = {**state["progress"], **change["progress"]}
    save_file(tensors, run / CHECKPOINT, metadata={"state": json.dumps(merged)})
    with pytest.raises(TrainingError, match="the checkpoint cannot be read"):
        resume(run)
