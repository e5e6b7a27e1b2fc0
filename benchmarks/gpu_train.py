"""Part of benchmarks/gpu.py: training from labels, without a teacher, within so many minutes; and measuring.

The number of epochs follows from a measured rate, so that the cosine schedule ends with the minutes. While the run is
on, the rate of its own epochs is watched: where the plan turns out to be too long, or much too short, the run stops
at its checkpoint and goes on with another number of epochs. What has no time to finish still becomes a bundle.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from siamese_search._version import __version__
from siamese_search.datasets.layouts import load_dataset
from siamese_search.evaluation.evaluate import embed_records
from siamese_search.evaluation.protocol import Labels
from siamese_search.evaluation.retrieval import retrieval_metrics
from siamese_search.io.files import atomic_path, atomic_write_text
from siamese_search.model.bundle import META_NAME, Bundle, load_bundle
from siamese_search.model.embedder import load_embedder
from siamese_search.model.weights_file import save_bundle
from siamese_search.training.config import TrainConfig
from siamese_search.training.data import HoldOut, load_split
from siamese_search.training.directory import CHECKPOINT_NAME, load_checkpoint
from siamese_search.training.initial import initial_network
from siamese_search.training.loop import Silent
from siamese_search.training.run import RUN_NAME, TrainRequest, resume, train
from siamese_search.training.trainer import StepReport

#: Fewer than these epochs are said aloud: the recipe is made for at least so many.
EPOCHS_WANTED = 60
#: The plan is changed where the end would be late by this share of what is left, or early by that one.
_LATE, _EARLY = 0.02, 0.15
#: Plans after the first; each costs one reading of the images.
_MOST_PLANS = 4


@dataclass
class Clock(Silent):
    """Watches a run: stops it where its plan does not fit the time any more. ``end`` is on ``time.monotonic``."""

    end: float
    most: int
    say: Callable[[str], None]
    stop: threading.Event = field(default_factory=threading.Event)
    grace: float = 0.0  # seconds by which the last epoch may be late
    epochs: int = 0  # planned
    may_replan: bool = True
    fit: int = 0  # what would fit instead; 0 while the plan is good
    out_of_time: bool = False
    began: float = field(default_factory=time.monotonic)
    setup: float = 0.0  # seconds until the first step
    rates: dict[str, float] = field(default_factory=dict)  # images/s of what was done before the first step
    _stage: tuple[str, float, int] = ("", 0.0, 0)
    _marks: list[float] = field(default_factory=list)

    def message(self, text: str) -> None:
        self.say(text)

    def decoding(self, done: int, total: int, what: str) -> None:
        now = time.monotonic()
        if self._stage[0] != what:
            self._stage = (what, now, done)
        elif done == total and now > self._stage[1]:  # what came with the first report is not counted
            self.rates[what] = (done - self._stage[2]) / (now - self._stage[1])

    def step(self, report: StepReport) -> None:  # noqa: ARG002 - the clock alone decides
        now = time.monotonic()
        if not self._marks:
            self.setup = now - self.began
            self._marks = [now]
        if now > self.end + self.grace:
            self.out_of_time = True
            self.stop.set()

    def epoch(self, row: dict[str, Any]) -> None:
        now = time.monotonic()
        self._marks.append(now)
        figures = f", rank-1 {row['rank1']:.1%}, mAP {row['mAP']:.1%}" if "mAP" in row else ""
        speed = f"{row['images_per_second']:.0f} images/s"
        self.say(f"epoch {row['epoch']}/{self.epochs}: loss {row['loss']:.3f}, {speed}{figures}")
        left = self.epochs - row["epoch"]
        if not left or not self.may_replan:
            return
        each = float(np.median(np.diff(self._marks[-6:])))  # validation is in one epoch of several
        late = (left * each) / max(self.end - now, 1e-9) - 1
        early = -late > _EARLY and self.epochs < self.most and row["epoch"] == 2
        if late > _LATE or early:
            room = 0.98 * (self.end - now - self.setup)
            fit = min(self.most, row["epoch"] + max(1, int(room / each)))
            if fit != self.epochs and (fit < self.epochs or early):
                self.fit = fit
                self.stop.set()


@dataclass(frozen=True)
class Order:
    """What to train: see the options of benchmarks/gpu.py."""

    data: Path
    heldout: Path | None
    init: str
    config: TrainConfig
    device: str
    most: int  # epochs
    reserve: float  # seconds for the export and the figures
    threads: int = 0


def recipe_run(
    order: Order, minutes: float, work: Path, rate: Callable[[], float], say: Callable[[str], None]
) -> tuple[Bundle, dict[str, Any]]:
    """Train in ``work``, or go on with the run that is there; the bundle and what there is to tell.

    rate: measures training images/s; asked only where a run begins.
    """
    began = time.monotonic()
    end = began + 60 * minutes - order.reserve
    run = work / "run"
    if (run / META_NAME).exists():
        say("the run is finished: only measured again")
        return load_bundle(run), _told(run, resumed=True, finished=True)
    resumed = (run / CHECKPOINT_NAME).exists()
    request = None
    if not resumed:
        shutil.rmtree(run, ignore_errors=True)  # begun, but without a checkpoint there is nothing to keep
        request = _request(order, run, end, rate, say)
    rates: dict[str, float] = {}
    finished, plans = False, []
    for left in range(_MOST_PLANS, -1, -1):
        clock = Clock(end, order.most, say, grace=0.25 * order.reserve, may_replan=left > 0)
        clock.epochs = request.config.epochs if request else _planned(run)
        plans.append(clock.epochs)
        try:
            if request:
                train(request, clock, clock.stop)
            else:
                resume(run, clock, clock.stop, device=order.device, threads=order.threads)
            finished = True
        except KeyboardInterrupt:
            if not clock.stop.is_set():
                raise
        rates = clock.rates | rates
        if finished or clock.out_of_time:
            break
        say(f"{clock.fit} epochs fit instead of {clock.epochs}: the schedule is changed")
        _replan(run, clock.fit)
        request = None
    bundle = load_bundle(run) if finished else unfinished_bundle(run, work / "unfinished")
    told = _told(run, resumed=resumed, finished=finished)
    told |= {"plans": plans, "rates": {what: round(value, 1) for what, value in rates.items()}}
    wanted = min(EPOCHS_WANTED, order.most)
    if told["epochs"] < wanted:
        told["note"] = f"only {told['epochs']} of the {wanted} epochs wanted fitted into the minutes"
        say(told["note"])
    return bundle, told


def _request(
    order: Order, run: Path, end: float, rate: Callable[[], float], say: Callable[[str], None]
) -> TrainRequest:
    """The run to begin with as many epochs as fit."""
    holdout = HoldOut(ids_file=order.heldout) if order.heldout else HoldOut()
    images = len(load_split(order.data, "auto", holdout).train.records)
    measured = rate()
    epochs = int(max(0.0, end - time.monotonic()) * measured / images)
    epochs = max(2, min(order.most, epochs))
    say(f"{measured:.0f} images/s measured: {epochs} epochs of {images} images are planned")
    config = order.config.with_options(
        epochs=epochs, validate_every=max(1, epochs // 4), checkpoint_minutes=1.0,
        warmup_epochs=min(order.config.warmup_epochs, epochs / 4),
    )  # fmt: skip
    return TrainRequest(
        order.data, run, config, holdout=holdout, init=order.init, device=order.device, threads=order.threads
    )


def _planned(run: Path) -> int:
    return int(json.loads((run / RUN_NAME).read_text(encoding="utf-8"))["config"]["epochs"])


def _replan(run: Path, epochs: int) -> None:
    """Another number of epochs for a run that stands at a checkpoint: the rest of its cosine is stretched or cut."""
    path = run / RUN_NAME
    saved = json.loads(path.read_text(encoding="utf-8"))
    saved["config"]["epochs"] = epochs
    atomic_write_text(path, json.dumps(saved, indent=1, ensure_ascii=False) + "\n")


def _told(run: Path, *, resumed: bool, finished: bool) -> dict[str, Any]:
    history = run / "history.jsonl"
    rows = [json.loads(line) for line in history.read_text().splitlines()] if history.exists() else []
    saved = json.loads((run / RUN_NAME).read_text(encoding="utf-8"))
    return {
        "finished": finished,
        "resumed": resumed,
        "epochs": len(rows),
        "config": saved["config"],
        "images_per_second": round(float(np.median([r["images_per_second"] for r in rows])), 1) if rows else None,
        "last_epoch": rows[-1] if rows else None,
    }


def unfinished_bundle(run: Path, out: Path) -> Bundle:
    """The weights at the last checkpoint as a bundle that says so; the run can still be resumed."""
    saved = json.loads((run / RUN_NAME).read_text(encoding="utf-8"))
    config = TrainConfig(**saved["config"])
    network = initial_network(config, "none", lambda _: None, weights=False)
    state = load_checkpoint(run / CHECKPOINT_NAME, {"ema" if config.ema else "network": network}, None)
    epochs = state["progress"]["epoch"]
    return save_bundle(
        network,
        out,
        {
            "created_by": f"siamese-search {__version__}",
            "training": {"preset": config.preset, "config": saved["config"], "epochs": epochs, "unfinished": True},
            "heldout_identities": saved["heldout_identities"],
        },
    )


def figures(bundle: Bundle, data: Path, identities: Sequence[str] = ()) -> dict[str, Any]:
    """Rank-1, rank-5 and mAP of the ONNX file on the CPU: each image against all others, other cameras only."""
    wanted = set(identities)
    records = [r for r in load_dataset(data, "auto").records if r.identity and (not wanted or r.identity in wanted)]
    embedded = embed_records(records, load_embedder(bundle, device="cpu"))
    used = [records[row] for row in embedded.rows.tolist()]
    ids, cameras = [r.identity or "" for r in used], [r.camera for r in used]
    itself = np.arange(len(used))
    labels = Labels.of(ids, ids, cameras, cameras, same_image=itself)
    found = retrieval_metrics(embedded.vectors, embedded.vectors, labels)
    if found.invalid_queries == found.queries:  # one camera only
        found = retrieval_metrics(embedded.vectors, embedded.vectors, Labels.of(ids, ids, same_image=itself))
    return {
        "images": len(used),
        "identities": len(set(ids)),
        "rank1": found.rank1,
        "rank5": found.rank5,
        "mAP": found.mAP,
    }


def prepare(order: Order, out: Path, say: Callable[[str], None]) -> None:
    """What a machine without the hub needs: the initial weights in float16."""
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    network = initial_network(order.config, order.init, say, weights=True)
    state = {
        name: tensor.half() if tensor.is_floating_point() and tensor.ndim >= 2 else tensor
        for name, tensor in network.backbone.state_dict().items()
    }
    with atomic_path(out / "init.safetensors") as aside:
        save_file(state, str(aside))


def device_facts(device: str) -> dict[str, Any]:
    """The device by name, and the versions that figures depend on."""
    from benchmarks.training import device_name

    return {
        "device": device_name(device),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": sys.version.split()[0],
        "version": __version__,
    }
