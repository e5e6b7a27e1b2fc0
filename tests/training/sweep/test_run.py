"""Sweeps: every run trained once, all measured on one split; stopped, continued and failing ones."""

from __future__ import annotations

import csv
import fcntl
import json
import shutil
import threading
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

torch = pytest.importorskip("torch")

from siamese_search.api import training as sweeps  # noqa: E402
from siamese_search.datasets.layouts import load_dataset  # noqa: E402
from siamese_search.errors import DataError, TrainingError, UsageError  # noqa: E402
from siamese_search.evaluation.evaluate import evaluate  # noqa: E402
from siamese_search.io.files import OWN_TEXT  # noqa: E402
from siamese_search.model.bundle import load_bundle  # noqa: E402
from siamese_search.model.embedder import load_embedder  # noqa: E402
from siamese_search.training.run import Silent, TrainRequest  # noqa: E402
from siamese_search.training.sweep import run as module  # noqa: E402
from siamese_search.training.sweep.record import Sweep, SweepRun, load_sweep  # noqa: E402

SMALL = {
    "preset": "apn", "init": "none", "holdout": 2, "backbone": "test_efficientnet", "dim": 16, "height": 32,
    "width": 16, "batch_size": 8, "epochs": 2,
}  # fmt: skip
MARGINS = [0.2, 1.0]


def sweep(data: Path, out: Path, **options: object) -> Sweep:
    return sweeps.sweep(data, out=out, device="cpu", threads=1, **{**SMALL, **options})  # type: ignore[arg-type]


def table(directory: Path) -> list[dict[str, str]]:
    """The rows of ``results.csv`` without the time that they took."""
    with (directory / "results.csv").open(newline="") as handle:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(handle)]


class Stopper(module.SilentSweep):
    """Asks the sweep to stop after some batches of one of its runs; remembers which were begun."""

    def __init__(self, at: int = 0, steps: int = 0) -> None:
        self.stop = threading.Event()
        self.begun: list[int] = []
        self.at, self.left = at, steps

    def begin(self, run: SweepRun, number: int, total: int) -> Silent:  # noqa: ARG002
        self.begun.append(number)
        outer = self

        class Reporter(Silent):
            def step(self, report: object) -> None:  # noqa: ARG002
                outer.left -= number == outer.at
                if number == outer.at and outer.left == 0:
                    outer.stop.set()

        return Reporter()


@pytest.fixture(scope="module")
def whole(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished sweep over two margins. Do not write to it."""
    out = tmp_path_factory.mktemp("sweep") / "whole"
    done = sweep(people, out, margin=MARGINS)
    assert [run.state for run in done.runs] == ["done", "done"]
    return out


def test_runs_are_bundles_that_held_out_the_same_identities(whole: Path) -> None:
    bundles = [load_bundle(str(whole / name)) for name in ("margin=0.2", "margin=1.0")]
    assert [bundle.meta["training"]["config"]["margin"] for bundle in bundles] == MARGINS
    held = load_sweep(whole).heldout_identities
    assert len(held) == 2
    assert all(bundle.heldout_identities == held for bundle in bundles)
    assert bundles[0].fingerprint != bundles[1].fingerprint


def test_the_figures_are_those_of_an_evaluation_through_a_gallery(whole: Path, people: Path) -> None:
    done = load_sweep(whole)
    records = [r for r in load_dataset(people, "auto").records if r.identity in done.heldout_identities]
    for run in done.runs:
        report = evaluate(records, load_embedder(load_bundle(str(whole / run.name)), threads=1))
        assert run.figures is not None
        assert run.figures.rank1 == pytest.approx(report.rank1, abs=1e-6)
        assert run.figures.mAP == pytest.approx(report.mAP, abs=1e-6)
        assert run.figures.auc == pytest.approx(report.verification.auc, abs=1e-6)
        assert run.figures.tar_at_far == report.verification.tar_at_far
        rates, accepted = run.figures.roc
        assert (rates[0], rates[-1], accepted[-1]) == (0, 1, 1)


def test_the_table_and_the_picture_are_written(whole: Path) -> None:
    rows = table(whole)
    assert list(rows[0]) == [
        "run", "margin", "state", "auc", "tar_at_far_1e-2", "tar_at_far_1e-1", "rank1", "mAP", "epochs", "reason",
    ]  # fmt: skip
    assert [(row["run"], row["margin"], row["state"]) for row in rows] == [
        ("margin=0.2", "0.2", "done"),
        ("margin=1.0", "1.0", "done"),
    ]
    figures = load_sweep(whole).runs[1].figures
    assert figures is not None
    assert float(rows[1]["mAP"]) == pytest.approx(figures.mAP, abs=1e-6)
    with Image.open(whole / "sweep.png") as picture:
        assert picture.width > 2 * picture.height > 800
    json.dumps(load_sweep(whole).to_json(), allow_nan=False)


def test_the_same_sweep_again_trains_nothing(whole: Path, people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_train", lambda *_: pytest.fail("a finished run was begun again"))
    before = table(whole)
    assert [run.state for run in sweep(people, whole, margin=MARGINS).runs] == ["done", "done"]
    assert [run.state for run in sweeps.sweep(resume=whole).runs] == ["done", "done"]
    assert table(whole) == before


def test_a_picture_that_a_killed_sweep_left_behind_is_drawn_anew(whole: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "again"))
    of_fewer_runs = PngInfo()
    of_fewer_runs.add_text(*OWN_TEXT)
    Image.new("RGB", (8, 8)).save(out / "sweep.png", pnginfo=of_fewer_runs)
    sweeps.sweep(resume=out)
    assert (out / "sweep.png").read_bytes() == (whole / "sweep.png").read_bytes()


def without_the_second(whole: Path, out: Path) -> Path:
    """A copy of the finished sweep as it was before its second run."""
    shutil.copytree(whole, out)
    shutil.rmtree(out / "margin=1.0")
    return planned_again(out)


def planned_again(out: Path) -> Path:
    record = out / "sweep.json"
    saved = json.loads(record.read_text())
    saved["runs"][1].update(state="planned", figures=None, fingerprint=None, epochs=None)
    record.write_text(json.dumps(saved))
    return out


def test_a_stopped_sweep_goes_on_to_the_same_table(whole: Path, people: Path, tmp_path: Path) -> None:
    cut = without_the_second(whole, tmp_path / "cut")
    stopper = Stopper(at=2, steps=3)
    with pytest.raises(KeyboardInterrupt):
        sweep(people, cut, margin=MARGINS, reporter=stopper, stop=stopper.stop)
    assert stopper.begun == [2]
    assert [run.state for run in load_sweep(cut).runs] == ["done", "planned"]
    assert table(cut) != table(whole)
    done = sweep(people, cut, margin=MARGINS)
    assert table(cut) == table(whole)
    assert [run.fingerprint for run in done.runs] == [run.fingerprint for run in load_sweep(whole).runs]


def test_a_run_that_was_killed_before_its_checkpoint_is_begun_again(whole: Path, tmp_path: Path) -> None:
    cut = without_the_second(whole, tmp_path / "cut")
    (cut / "margin=1.0").mkdir()
    (cut / "margin=1.0" / "run.json").write_bytes((whole / "margin=1.0" / "run.json").read_bytes())
    sweeps.sweep(resume=cut, device="cpu", threads=1)
    assert table(cut) == table(whole)


def test_a_run_that_was_killed_before_it_was_measured_is_only_measured(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = planned_again(Path(shutil.copytree(whole, tmp_path / "cut")))
    for name in ("train", "resume"):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("trained again"))
    sweeps.sweep(resume=cut, device="cpu", threads=1)
    assert table(cut) == table(whole)


def test_a_run_that_fails_says_why_and_stops_no_other(whole: Path, people: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    shutil.copytree(whole / "margin=0.2", out / "margin=0.2")  # has only to be measured
    done = sweep(people, out, margin=[1e10, 1e39, 0.2])
    assert [run.state for run in done.runs] == ["failed", "failed", "done"]
    collapsed, diverged, good = table(out)
    assert "the triplets have collapsed" in collapsed["reason"]
    assert "the loss became inf at step 0" in diverged["reason"]
    assert (collapsed["mAP"], good["reason"]) == ("", "")
    assert good["mAP"] == table(whole)[0]["mAP"]
    assert [run["bundle"] is None for run in done.to_json()["runs"]] == [True, True, False]
    # Run again, only the failed ones are tried again.
    again = Stopper()
    sweeps.sweep(resume=out, reporter=again, device="cpu", threads=1)
    assert again.begun == [1, 2]


def test_an_error_that_nobody_foresaw_is_recorded_too(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr(module, "train", broken)
    done = sweep(people, tmp_path / "s", margin=MARGINS)
    assert [run.reason for run in done.runs] == ["ZeroDivisionError: by zero"] * 2


def test_swept_seeds_share_one_split(people: Path, tmp_path: Path) -> None:
    plans = [
        sweeps.plan_runs(people, out=tmp_path, **{**SMALL, "seed": seeds})  # type: ignore[arg-type]
        for seeds in ([3, 1], [3, 2], [4, 1])
    ]
    held = [plan.heldout_identities for plan in plans]
    assert held[0] == held[1] != held[2]
    assert [run.point.config.seed for run in plans[0].runs] == [3, 1]


def test_the_teacher_is_asked_once(people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[bytes | None] = []

    def train(request: TrainRequest, *_: object) -> None:
        """Asks the teacher where its vectors are not there yet, and then fails."""
        kept = request.out / "teacher.npz"
        found.append(kept.read_bytes() if kept.exists() else None)
        request.out.mkdir(exist_ok=True)
        kept.write_bytes(b"vectors")
        raise TrainingError("enough")

    monkeypatch.setattr(module, "train", train)
    sweep(people, tmp_path / "s", margin=[1.0, 2.0, 3.0], teacher=tmp_path / "teacher.xml")
    assert found == [None, b"vectors", b"vectors"]
    found.clear()
    sweep(people, tmp_path / "plain", margin=[1.0, 2.0])
    assert found == [None, None]


def test_an_unreadable_held_out_image_is_named(whole: Path, people: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(people, tmp_path / "data"))
    out = tmp_path / "s"
    for name in ("margin=0.2", "margin=1.0"):  # bundles that have only to be measured
        shutil.copytree(whole / name, out / name)
    bad = min(path for path in data.iterdir() if path.name.startswith(load_sweep(whole).heldout_identities[0]))
    bad.write_bytes(bad.read_bytes()[:80])
    done = sweep(data, out, margin=MARGINS)
    assert [failure.path for failure in done.failed] == [str(bad)]
    assert [run.state for run in done.runs] == ["done", "done"]
    assert load_sweep(out).failed == done.failed


def test_a_sweep_without_anybody_held_out_is_refused_before_it_begins(people: Path, tmp_path: Path) -> None:
    for nobody in ({"holdout": 0}, {"holdout": None, "holdout_ids": []}):
        with pytest.raises(UsageError, match="nobody is held out"):
            sweep(people, tmp_path / "s", margin=MARGINS, **nobody)
    lonely = tmp_path / "lonely"
    lonely.mkdir()
    for path in people.iterdir():
        if not path.name.startswith(("0001", "0002")) or "_c1s1_000000" in path.name:
            (lonely / path.name).write_bytes(path.read_bytes())
    with pytest.raises(DataError, match="none of 2 queries has another image"):
        sweep(lonely, tmp_path / "s", margin=MARGINS, holdout=None, holdout_ids=["0001", "0002"])
    assert not (tmp_path / "s").exists()


def test_a_directory_of_something_else_is_refused(whole: Path, people: Path, tmp_path: Path) -> None:
    before = (whole / "sweep.json").read_bytes()
    for options, words in (
        ({"margin": [0.2, 0.7]}, "its --margin differs"),
        ({"margin": MARGINS, "dim": 8}, "its --dim differs"),
        ({"margin": MARGINS, "holdout": 3}, "its heldout identities differs"),
    ):
        with pytest.raises(TrainingError, match=words):
            sweep(people, whole, **options)
    with pytest.raises(TrainingError, match="holds a training run"):
        sweep(people, whole / "margin=0.2", margin=MARGINS)
    with pytest.raises(TrainingError, match="no sweep to resume"):
        sweeps.sweep(resume=tmp_path)
    (tmp_path / "sweep.json").write_text('{"grid": {"margin": [1, -1]}, "runs": []}')
    with pytest.raises(TrainingError, match=r"sweep\.json: cannot be read"):
        sweeps.sweep(resume=tmp_path)
    assert (whole / "sweep.json").read_bytes() == before


def test_one_process_at_a_time_works_on_a_sweep(people: Path, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    with (tmp_path / "s" / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TrainingError, match="another process works on this sweep"):
            sweep(people, tmp_path / "s", margin=MARGINS)
    assert not (tmp_path / "s" / "sweep.json").exists()


def test_without_a_directory_the_unfinished_sweep_is_taken_up(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stopper = Stopper()
    stopper.stop.set()
    with pytest.raises(KeyboardInterrupt):
        sweep(people, tmp_path / "runs" / "begun", margin=MARGINS, reporter=stopper, stop=stopper.stop)
    options = {**SMALL, "margin": MARGINS}
    said: list[str] = []
    planned = sweeps.plan_runs(people, notify=said.append, **options)  # type: ignore[arg-type]
    assert planned.directory == Path("runs/begun")
    assert "going on with runs/begun" in said[0]
    other = sweeps.plan_runs(people, **{**options, "epochs": 3})  # type: ignore[arg-type]
    assert other.directory.name.startswith("sweep-")


def test_a_sweep_is_a_frame(whole: Path) -> None:
    sweep = load_sweep(whole)
    frame = sweep.to_frame()
    assert list(frame["run"]) == [run.name for run in sweep.runs]
    assert set(sweep.swept) <= set(frame.columns)
    assert list(frame["mAP"]) == [run.figures.mAP for run in sweep.runs if run.figures]
