from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from safetensors import safe_open  # noqa: E402

from siamese_search.errors import DataError, TrainingError  # noqa: E402
from siamese_search.model.bundle import Bundle, load_bundle  # noqa: E402
from siamese_search.model.embedder import load_embedder  # noqa: E402
from siamese_search.model.network import APNNetwork, NetworkSpec  # noqa: E402
from siamese_search.training import run as training  # noqa: E402
from siamese_search.training.config import PRESETS, TrainConfig  # noqa: E402
from siamese_search.training.data import HoldOut, load_split  # noqa: E402
from siamese_search.training.directory import save_checkpoint, start_directory  # noqa: E402
from siamese_search.training.initial import save_vectors  # noqa: E402
from siamese_search.training.run import Silent, TrainRequest, TrainResult, resume, train  # noqa: E402
from siamese_search.training.sweep.record import plan_sweep  # noqa: E402
from siamese_search.training.trainer import Trainer  # noqa: E402
from tests.support.stopping import StopAfter  # noqa: E402

SMALL = {"backbone": "test_efficientnet", "dim": 16, "height": 32, "width": 16}
REID = PRESETS["reid"].with_options(
    **SMALL, batch_size=8, images_per_identity=2, epochs=3, warmup_epochs=0.5, checkpoint_minutes=0.0
)
APN = PRESETS["apn"].with_options(**SMALL, batch_size=8, epochs=2)
PAIRS = PRESETS["contrastive"].with_options(**SMALL, batch_size=8, epochs=2)
EMA = REID.with_options(ema=0.9)
SIZES = REID.with_options(sizes="16x8:1,24x12:1")
SIMPLE = PAIRS.with_options(backbone="simple_cnn", dim=16, height=32, width=16)


def request(people: Path, out: Path, config: TrainConfig = REID, **options: object) -> TrainRequest:
    options.setdefault("holdout", HoldOut(amount=2))
    return TrainRequest(data=people, out=out, config=config, init="none", device="cpu", threads=1, **options)  # type: ignore[arg-type]


Whole = Callable[[TrainConfig], TrainResult]


@pytest.fixture(scope="module")
def whole(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A run on ``people`` that nobody stopped, one for each configuration. Do not write to its directory."""
    return cache(lambda config: train(request(people, tmp_path_factory.mktemp("whole") / "run", config)))


@pytest.mark.parametrize("config", [REID, APN, PAIRS, SIMPLE], ids=["reid", "apn", "pairs", "simple_cnn"])
def test_a_finished_run_is_a_bundle(whole: Whole, config: TrainConfig) -> None:
    result = whole(config)
    bundle = load_bundle(result.bundle.path)
    assert bundle.fingerprint == result.bundle.fingerprint
    assert bundle.dim == 16
    assert len(bundle.heldout_identities) == 2
    assert set(result.metrics) == {"rank1", "mAP", "epoch"}
    rows = [json.loads(line) for line in (bundle.path / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, config.epochs + 1))
    assert all(0 <= row["triplet_accuracy"] <= 1 and row["loss"] > 0 for row in rows)
    with Image.open(bundle.path / "curves.png") as picture:
        assert picture.width > 600
    out = load_embedder(bundle, threads=1).embed(np.zeros((2, 32, 16, 3), np.uint8))
    assert out.shape == (2, 16)
    json.dumps(result.to_json())


def test_training_learns(people: Path, tmp_path: Path) -> None:
    result = train(request(people, tmp_path / "run", REID.with_options(epochs=10, lr=3e-3, erase=0.0)))
    assert result.history[-1]["loss"] < 0.8 * result.history[0]["loss"]


def test_heldout_identities_never_reach_the_trainer(people: Path, tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("0003\n0005\n")
    result = train(request(people, tmp_path / "run", REID.with_options(epochs=1), holdout=HoldOut(ids_file=ids)))
    assert result.bundle.heldout_identities == ["0003", "0005"]
    assert result.bundle.meta["training"]["identities"] == 4
    assert result.bundle.meta["training"]["identity_names"] == ["0001", "0002", "0004", "0006"]
    assert result.bundle.meta["training"]["images"] == 4 * 6


def test_an_unknown_heldout_identity_is_named(people: Path, tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("0003\n9999\n")
    with pytest.raises(DataError, match="9999"):
        train(request(people, tmp_path / "run", holdout=HoldOut(ids_file=ids)))
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize("steps", [1, 4, 5])
@pytest.mark.parametrize("config", [REID, APN, SIMPLE, EMA, SIZES], ids=["reid", "apn", "pairs", "ema", "sizes"])
def test_a_resumed_run_is_bit_equal(
    people: Path, whole: Whole, tmp_path: Path, config: TrainConfig, steps: int
) -> None:
    reporter = StopAfter(steps)
    with pytest.raises(KeyboardInterrupt):
        train(request(people, tmp_path / "cut", config), reporter, reporter.stop)
    assert not (tmp_path / "cut" / "model.json").exists()
    again = resume(tmp_path / "cut", device="cpu", threads=1)
    assert again.bundle.fingerprint == whole(config).bundle.fingerprint
    for a, b in zip(whole(config).history, again.history, strict=True):
        kept = ("loss", "triplet_loss", "triplet_accuracy", "mAP", "val_loss", "val_triplet_accuracy")
        assert [a[key] for key in kept] == [b[key] for key in kept]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("rename", r"1 identity gone \(0005\), 1 identity new \(zz\)"),
        ("add", r"1 identity new \(zz\)"),
        ("images", "other images"),
    ],
)
def test_a_run_is_not_resumed_on_other_data(people: Path, tmp_path: Path, change: str, told: str) -> None:
    data = tmp_path / "data"
    for path in people.iterdir():
        (data / path.name[:4]).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, data / path.name[:4] / f"x{path.name}")
    reporter = StopAfter(1)
    with pytest.raises(KeyboardInterrupt):
        train(request(data, tmp_path / "run", holdout=HoldOut(ids=("0001", "0002"))), reporter, reporter.stop)
    if change == "rename":
        (data / "0005").rename(data / "zz")
    elif change == "add":
        shutil.copytree(data / "0005", data / "zz")
    else:
        next((data / "0005").iterdir()).unlink()
    with pytest.raises(TrainingError, match=f"the data have changed since this run began: {told};"):
        resume(tmp_path / "run", device="cpu", threads=1)


def test_a_killed_run_resumes_bit_equal(people: Path, whole: Whole, tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from siamese_search.training.run import *\nfrom siamese_search.training.config import *\n"
        "c = PRESETS['reid'].with_options(backbone='test_efficientnet', dim=16, height=32, width=16, batch_size=8,"
        " images_per_identity=2, epochs=4, warmup_epochs=0.5, checkpoint_minutes=0.0)\n"
        "train(TrainRequest(Path(sys.argv[1]), Path(sys.argv[2]), c, init='none', device='cpu', threads=1,"
        " holdout=HoldOut(amount=2)))\n"
    )
    out = tmp_path / "cut"
    process = subprocess.Popen([sys.executable, "-c", script, str(people), str(out)], env={**os.environ})
    deadline = time.monotonic() + 120
    while not (out / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before its first checkpoint"
        time.sleep(0.002)
    process.send_signal(signal.SIGSTOP)
    finished = (out / "model.json").exists()
    if not finished:  # it is still working on it
        with pytest.raises(TrainingError, match="another process works on this run"):
            resume(out, device="cpu", threads=1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if finished:
        pytest.skip("the run finished before the signal")
    again = resume(out, device="cpu", threads=1)
    assert again.bundle.fingerprint == whole(REID.with_options(epochs=4)).bundle.fingerprint


@pytest.mark.parametrize("end", [KeyboardInterrupt, MemoryError, "kill -9"])
def test_a_run_that_ended_before_its_first_checkpoint_is_begun_again_in_the_same_place(
    people: Path, whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: type[BaseException] | str
) -> None:
    out, config = tmp_path / "run", REID.with_options(epochs=1)
    if isinstance(end, str):  # what it had written by then, with the answers of another teacher
        out.mkdir()
        shutil.copy(whole(config).bundle.path / "run.json", out)
        (out / "teacher.npz").write_bytes(b"of another teacher")
        with pytest.raises(TrainingError, match="nothing to resume"):
            resume(out, device="cpu", threads=1)
    else:
        with monkeypatch.context() as patch:
            patch.setattr(training, "Trainer", Mock(side_effect=end))
            with pytest.raises(end):
                train(request(people, out, config))
        assert not out.exists()
    assert train(request(people, out, config)).bundle.fingerprint == whole(config).bundle.fingerprint
    assert not (out / "teacher.npz").exists()


@pytest.mark.parametrize("text", ["", "[3]", '{"mine": 1}', "3"])
def test_a_run_json_of_something_else_is_not_taken_for_the_leftover_of_a_run(
    people: Path, tmp_path: Path, text: str
) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(TrainingError, match=r"run\.json: not of a run of sss: move it, or choose another --out"):
        train(request(people, tmp_path, REID.with_options(epochs=1)))
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("run.json", text)]


@contextmanager
def no_room(size: int) -> Iterator[None]:
    """Files may have this many bytes at most, as if the disk were full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("name", ["run.json", "teacher.npz", "sweep.json"])
def test_whatever_a_run_or_a_sweep_has_no_room_for_is_one_line(people: Path, tmp_path: Path, name: str) -> None:
    held = HoldOut(amount=2)
    planned = plan_sweep(
        people, tmp_path, "apn", {"margin": (0.2, 1.0)}, layout="auto", holdout=held, init="none", teacher=None
    )
    write = {
        "run.json": lambda: start_directory(tmp_path, {"init": "none"}),
        "teacher.npz": lambda: save_vectors(tmp_path / name, [], np.zeros((1, 0, 4), np.float32), REID),
        "sweep.json": planned.save,
    }[name]
    with no_room(4), pytest.raises(TrainingError, match=f"{name}: cannot be written: File too large"):
        write()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("there", [False, True])
def test_a_checkpoint_without_room_says_how_to_go_on(tmp_path: Path, there: bool) -> None:
    """By --resume only where an earlier one is kept."""
    if there:
        (tmp_path / "checkpoint.safetensors").write_bytes(b"the one before")
    with no_room(1000), pytest.raises(TrainingError) as told:
        save_checkpoint(tmp_path / "best.safetensors", {"network": torch.nn.Linear(256, 256)}, None, {})
    advice = "make room and go on with --resume" if there else "make room and begin it again"
    assert str(told.value).endswith(advice)
    assert not (tmp_path / "best.safetensors").exists()


def test_finished_and_foreign_directories_are_not_overwritten(people: Path, whole: Whole, tmp_path: Path) -> None:
    config = REID.with_options(epochs=1)
    finished = whole(config).bundle.path
    with pytest.raises(TrainingError, match="already holds a run"):
        train(request(people, finished, config))
    with pytest.raises(TrainingError, match="finished"):
        resume(finished)
    with pytest.raises(TrainingError, match="no run to resume"):
        resume(tmp_path)


def test_what_is_refused_before_it_begins_leaves_nothing_behind(people: Path, tmp_path: Path) -> None:
    singles, out = tmp_path / "singles", tmp_path / "run"
    for number, one in enumerate(sorted(people.rglob("*.jpg"))[::4][:4]):
        (singles / str(number)).mkdir(parents=True)
        shutil.copy(one, singles / str(number) / "0.jpg")
    with pytest.raises(DataError, match="only one"):
        train(request(singles, out, holdout=HoldOut(amount=0)))
    assert not out.exists()
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="only one"):
        train(request(singles, out, holdout=HoldOut(amount=0)))
    assert [one.name for one in out.iterdir()] == ["notes.txt"]


def test_a_damaged_checkpoint_is_one_line(people: Path, tmp_path: Path) -> None:
    reporter = StopAfter(2)
    with pytest.raises(KeyboardInterrupt):
        train(request(people, tmp_path / "run"), reporter, reporter.stop)
    path = tmp_path / "run" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(TrainingError, match="checkpoint cannot be read") as caught:
        resume(tmp_path / "run", device="cpu", threads=1)
    assert "\n" not in str(caught.value)


def test_training_starts_from_a_bundle(people: Path, whole: Whole, tmp_path: Path) -> None:
    first = whole(REID.with_options(epochs=2))
    asked = TrainRequest(
        data=people, out=tmp_path / "second", config=REID.with_options(epochs=1, lr=1e-9, warmup_epochs=0.0),
        init=str(first.bundle.path), holdout=HoldOut(amount=2), device="cpu", threads=1,
    )  # fmt: skip
    second = train(asked)
    name = "backbone.conv_stem.weight"
    from siamese_search.model.weights_file import load_network

    a, b = (load_network(r.bundle).state_dict()[name] for r in (first, second))
    assert torch.allclose(a, b, atol=1e-3)


def test_simple_cnn_from_the_default_weights_starts_at_random_and_says_so(people: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    asked = TrainRequest(
        data=people, out=tmp_path / "run", config=SIMPLE.with_options(epochs=1), holdout=HoldOut(amount=2),
        device="cpu", threads=1,
    )  # fmt: skip
    result = train(asked, recorder)
    assert any("simple_cnn has none from ImageNet" in text for text in recorder.said)
    assert result.bundle.meta["training"]["init"] == "none"
    assert result.bundle.meta["network"]["mean"] == [0.0, 0.0, 0.0]


class Recorder(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


def test_a_run_from_a_run_on_the_same_data_takes_its_heads(people: Path, whole: Whole, tmp_path: Path) -> None:
    config = REID.with_options(epochs=1)
    first = whole(config).bundle.path
    for name, holdout, expected in (("same", HoldOut(amount=2), 1), ("other", HoldOut(amount=1), 0)):
        recorder = Recorder()
        asked = TrainRequest(
            data=people, out=tmp_path / name, config=config.with_options(height=64, width=32),
            init=str(first), holdout=holdout, device="cpu", threads=1,
        )  # fmt: skip
        train(asked, recorder)
        assert sum("classifier.weight" in text for text in recorder.said) == expected


def test_a_loss_that_is_not_finite_stops_at_once(people: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the loss became inf at step 0"):
        train(request(people, tmp_path / "run", REID.with_options(margin=1e30, triplet_weight=1e30)))


def test_weights_that_explode_never_replace_a_good_checkpoint(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Trainer.learning_rate
    monkeypatch.setattr(
        Trainer, "learning_rate", lambda self, epoch: original(self, epoch) if epoch < 1.2 else float("inf")
    )
    with pytest.raises(TrainingError, match=r"at step \d+ \(epoch 2\)"):
        train(request(people, tmp_path / "run"))
    with safe_open(str(tmp_path / "run" / "checkpoint.safetensors"), framework="pt") as archive:
        assert all(torch.isfinite(archive.get_tensor(key)).all() for key in archive.keys())  # noqa: SIM118
    monkeypatch.undo()
    assert resume(tmp_path / "run", device="cpu", threads=1).epochs == 3


def test_collapsed_triplets_stop_the_run(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from siamese_search.training import run as module

    def constant(*args: object, **kwargs: object):
        network = original(*args, **kwargs)
        torch.nn.init.zeros_(network.embedding.weight)
        torch.nn.init.ones_(network.embedding.bias)
        return network

    original = module.initial_network
    monkeypatch.setattr(module, "initial_network", constant)
    for name, config in (("apn", APN), ("pairs", PAIRS)):
        with pytest.raises(TrainingError, match="collapsed"):
            train(request(people, tmp_path / name, config.with_options(lr=1e-9)))


def test_a_mean_loss_that_passes_by_the_collapsed_one_is_no_collapse() -> None:
    from siamese_search.training.trainer import Progress, Trainer

    config = PAIRS.with_options(margin=2.0)  # collapsed: 1.0
    network = APNNetwork(NetworkSpec(config.backbone, config.dim, config.height, config.width))
    trainer = Trainer(network, config, None, np.repeat(np.arange(4), 4))  # type: ignore[arg-type]
    trainer.progress = Progress(step=2, triplet_sum=2.0, triplet_last=0.8)
    trainer.finish_epoch()
    trainer.progress = Progress(step=2, triplet_sum=2.0, triplet_last=1.0)
    with pytest.raises(TrainingError, match="collapsed"):
        trainer.finish_epoch()


def test_unreadable_images_are_left_out_and_named(people: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for path in people.iterdir():
        (data / path.name).write_bytes(path.read_bytes())
    bad = data / "0001_c1s1_000000_00.jpg"
    bad.write_bytes(bad.read_bytes()[:80])
    result = train(request(data, tmp_path / "run", REID.with_options(epochs=1), holdout=HoldOut(amount=0)))
    assert [failure.path for failure in result.failed] == [str(bad)]
    assert result.metrics == {}
    for path in data.iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"none of \d+ training images can be read"):
        train(request(data, tmp_path / "other", REID))


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.safetensors"
    module = torch.nn.Linear(2, 2)
    save_checkpoint(path, {"m": module}, None, {"epoch": 1})
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("siamese_search.io.files.os.fsync", full)
    with pytest.raises(TrainingError, match="No space left"):
        save_checkpoint(path, {"m": module}, None, {"epoch": 2})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_teacher_archive_drives_the_student(people: Path, whole: Whole, tmp_path: Path) -> None:
    names = sorted(path.name for path in people.iterdir())
    vectors = np.random.default_rng(0).normal(size=(len(names), 8)).astype(np.float32)
    archive = tmp_path / "teacher.npz"
    np.savez(archive, keys=np.array(names), vectors=vectors)
    config = REID.with_options(epochs=2)
    taught = train(request(people, tmp_path / "a", config, teacher=archive))
    assert taught.bundle.fingerprint != whole(config).bundle.fingerprint
    assert taught.bundle.meta["training"]["teacher"] == "teacher.npz"
    np.savez(archive, keys=np.array(names[1:]), vectors=vectors[1:])
    with pytest.raises(DataError, match=f"no teacher vector for 1 image, the first is {names[0]}"):
        train(request(people, tmp_path / "c", config, teacher=archive, holdout=HoldOut(amount=0)))


def test_views_of_an_archive_belong_to_the_run_that_asked_for_them(people: Path, tmp_path: Path) -> None:
    """A run with views can be resumed from its own archive; another's is refused."""
    config = REID.with_options(epochs=3, teacher_views=2, zoom=0.2, tint=0.2, grey=0.2)
    records = load_split(people, "auto", HoldOut(amount=2)).train.records
    vectors = np.random.default_rng(0).normal(size=(3, len(records), 8)).astype(np.float32)
    archive = tmp_path / "teacher.npz"
    save_vectors(archive, records, vectors, config)
    whole = train(request(people, tmp_path / "whole", config, teacher=archive))
    stopper = StopAfter(5)
    with pytest.raises(KeyboardInterrupt):
        train(request(people, tmp_path / "cut", config, teacher=archive), stopper, stopper.stop)
    archive.unlink()
    assert resume(tmp_path / "cut", device="cpu", threads=1).bundle.fingerprint == whole.bundle.fingerprint
    save_vectors(archive, records, vectors, config)
    others = {"seed": {"seed": 1}, "more": {"teacher_views": 3}, "tint": {"tint": 0.1}}
    for name, changes in others.items():
        with pytest.raises(DataError, match=r"does not hold . augmented views"):
            train(request(people, tmp_path / name, config.with_options(**changes), teacher=archive))
    plain = train(request(people, tmp_path / "plain", REID, teacher=archive))  # the plain vectors serve anybody
    assert plain.bundle.fingerprint != whole.bundle.fingerprint


def test_a_run_starts_from_a_file_of_weights(people: Path, tmp_path: Path) -> None:
    source = APNNetwork(NetworkSpec("test_efficientnet", 16, 32, 16))
    torch.save(source.backbone.state_dict(), tmp_path / "w.pth")

    said: list[str] = []

    class Listener(Silent):
        def message(self, text: str) -> None:
            said.append(text)

    def started(init: str, out: str) -> TrainRequest:
        return replace(request(people, tmp_path / out, REID.with_options(epochs=1)), init=init)

    result = train(started(str(tmp_path / "w.pth"), "a"), Listener())
    assert any("tensors of" in text and "w.pth" in text for text in said)
    assert result.bundle.meta["training"]["init"] == "file"
    assert str(tmp_path) not in json.dumps(result.bundle.meta)
    torch.save({"other": torch.ones(2)}, tmp_path / "o.pth")
    with pytest.raises(TrainingError, match=r"none of its tensors fits test_efficientnet"):
        train(started(str(tmp_path / "o.pth"), "b"))


def test_mixstyle_is_drawn_from_the_step_alone(people: Path, whole: Whole, tmp_path: Path) -> None:
    config = REID.with_options(mixstyle=0.7, epochs=2)
    mixed = whole(config).bundle.fingerprint
    stopper = StopAfter(3)
    with pytest.raises(KeyboardInterrupt):
        train(request(people, tmp_path / "cut", config), stopper, stopper.stop)
    assert resume(tmp_path / "cut", device="cpu", threads=1).bundle.fingerprint == mixed
    assert whole(config.with_options(mixstyle=0.0)).bundle.fingerprint != mixed


def test_a_trained_bundle_says_nothing_of_this_machine(people: Path, tmp_path: Path, tiny_bundle: Bundle) -> None:
    for name in ("model.json", "model.onnx"):
        data = (tiny_bundle.path / name).read_bytes()
        assert str(Path(__file__).resolve().parents[2]).encode() not in data
        assert b"site-packages" not in data


def test_weights_are_trained_on_as_the_network_that_they_were(people: Path, tmp_path: Path) -> None:
    """The share of an image's own statistics belongs to the weights: a run from them keeps it, a resumed one too."""
    mixed = REID.with_options(epochs=1, instance_mix=0.3, instance_mix_later=0.2)
    first = train(request(people, tmp_path / "first", mixed))
    assert first.bundle.meta["network"]["instance_mix"] == 0.3
    again = replace(request(people, tmp_path / "again", REID.with_options(epochs=2)), init=str(tmp_path / "first"))
    reporter = StopAfter(1)
    with pytest.raises(KeyboardInterrupt):
        train(again, reporter, reporter.stop)
    resumed = resume(tmp_path / "again", device="cpu", threads=1)
    assert resumed.bundle.meta["network"]["instance_mix"] == 0.3
    assert resumed.bundle.meta["network"]["instance_mix_later"] == 0.2
    other = replace(again, out=tmp_path / "other", config=REID.with_options(epochs=1, instance_mix=0.1))
    assert train(other).bundle.meta["network"]["instance_mix"] == 0.1
