"""A run's directory: begun once, resumed from its checkpoint, refused where it already holds something.

It keeps ``run.json``, checkpoints, each one safetensors file, and ``history.jsonl``, with its curves.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from siamese_search._version import __version__
from siamese_search.errors import TrainingError, UsageError, amount, in_words, printable
from siamese_search.io import files
from siamese_search.model.bundle import META_NAME, as_named
from siamese_search.model.imagenet import take_fitting
from siamese_search.training.config import AdaptConfig, TrainConfig, kind_of
from siamese_search.training.trainer import Progress, Trainer

RUN_NAME = "run.json"
CHECKPOINT_NAME = "checkpoint.safetensors"
TEACHER_NAME = "teacher.npz"
_LOCK_NAME = ".lock"

Asked = TypeVar("Asked")


def refuse_used(out: Path) -> None:
    """Raise TrainingError where the directory already holds a run or a model, or cannot be written."""
    files.check_output(out, directory=True, error=TrainingError)
    for name, do in ((CHECKPOINT_NAME, f"continue it with --resume {quote(printable(out))}"), (META_NAME, "keep it")):
        if (out / name).exists():
            raise TrainingError(f"{printable(out)}: already holds a run: {do}, or choose another --out")
    if (out / RUN_NAME).exists():
        with suppress(OSError, ValueError, TypeError):
            if "config" in files.read_json(out / RUN_NAME):  # of one that ended before its first checkpoint
                return
        raise TrainingError(f"{printable(out / RUN_NAME)}: not of a run of sss: move it, or choose another --out")


@contextmanager
def alone(directory: Path, what: str) -> Iterator[None]:
    """Work on a run or a sweep, which is made where it is not there; empty, it is removed. TrainingError where another
    process does: by a lock, which the kernel takes back from a killed one."""
    busy = f"{printable(directory)}: another process works on this {what}: wait for it, or choose another --out"
    path = directory / _LOCK_NAME
    with files.writing(directory, error=TrainingError):
        directory.mkdir(parents=True, exist_ok=True)
        lock = open(path, "ab", opener=files.open_own)  # noqa: SIM115 - closed below
    with lock:
        held = False
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.path.samestat(os.fstat(lock.fileno()), path.lstat())  # else it has ended this moment
        if not held:
            raise TrainingError(busy)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            with suppress(OSError):
                directory.rmdir()


@contextmanager
def nothing_left(out: Path) -> Iterator[None]:
    """What ends before its first checkpoint leaves no run behind; one that was killed there is forgotten now."""
    if (out / RUN_NAME).exists():
        (out / TEACHER_NAME).unlink(missing_ok=True)  # perhaps it had another one
        (out / RUN_NAME).unlink()
    try:
        yield
    except BaseException:
        # What the teacher said may be shared by a sweep, and is of the run that is named beside it.
        if not any((out / name).exists() for name in (CHECKPOINT_NAME, TEACHER_NAME)):
            with suppress(OSError):
                (out / RUN_NAME).unlink(missing_ok=True)
        raise


def asked_before(out: Path, verb: str, request_of: Callable[..., Asked]) -> Asked:
    """What an unfinished run of ``sss train`` or ``sss adapt`` was started with.

    request_of: makes it of ``run.json``, and of what both verbs have, by name. Raises UsageError for a run of the other
    verb, and TrainingError where there is none, where it cannot be read, and where the run is finished.
    """
    path, saved = out / RUN_NAME, None
    try:
        saved = files.read_json(path)
        began = "adapt" if "neighbours" in saved["config"] else "train"
        values = {"ema": 0.0, **saved["config"]}  # a run from before --ema has none
        config = AdaptConfig(**values) if began == "adapt" else TrainConfig(**values)
        if began == verb:
            config.check()
            request = request_of(saved, out=out, config=config, layout=str(saved["layout"]), init=str(saved["init"]))
    except FileNotFoundError:
        raise TrainingError(f"{printable(out)}: no run to resume, {RUN_NAME} is missing: check the directory") from None
    except (OSError, ValueError, KeyError, TypeError, UsageError) as error:
        version = saved.get("version") if isinstance(saved, dict) else None
        if version is not None and isinstance(error, (KeyError, TypeError)):
            raise TrainingError(
                f"{printable(out)}: begun by siamese-search {printable(str(version))[:80]}, whose runs have other"
                f" options than those of this {__version__}: finish it with that one, or start again in another --out"
            ) from None
        reason = in_words(error)
        raise TrainingError(f"{printable(path)}: cannot be read ({reason}): start again in another --out") from None
    if began != verb:
        raise UsageError(f"{printable(out)}: a run of sss {began}: sss {began} --resume {quote(printable(out))}")
    if (out / META_NAME).exists():
        model = quote(printable(as_named(out)))
        raise TrainingError(f"{printable(out)}: this run is finished: use it with --model {model}")
    return request


def start_directory(out: Path, saved: dict[str, Any]) -> None:
    """Write ``run.json``: the options of the run, and which images it learns from."""
    out.mkdir(parents=True, exist_ok=True)
    init = str(saved["init"])
    place = str(Path(init).resolve()) if kind_of(init) in ("file", "bundle") else init
    document = {"version": __version__, **saved, "init": place}
    with files.writing(out / RUN_NAME, error=TrainingError):
        files.atomic_write_text(out / RUN_NAME, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def summary(config: TrainConfig, init: str, rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """What ``model.json`` says of the run that made a bundle. rows: its history."""
    training = {"preset": config.preset, "config": asdict(config), "init": kind_of(init), **more, "epochs": len(rows)}
    training["seconds"] = round(sum(row["seconds"] for row in rows), 1)
    return {"created_by": f"siamese-search {__version__}", "training": training}


def check_same(out: Path, learned: dict[str, Any]) -> None:
    """Raise TrainingError where the run in ``out`` began to learn from other data: its classes would be other people.

    learned: what :func:`start_directory` was told under ``train``, now.
    """
    saved = files.read_json(out / RUN_NAME).get("train")
    if saved is None or saved == learned:
        return
    there = set(learned.get("identities", ()))
    names = saved.get("identities") if isinstance(saved, dict) else None
    before = set(map(str, names)) if isinstance(names, list) else there
    changes = [
        f"{amount(len(names), 'identity')} {what} ({printable(min(names))}{', …' * (len(names) > 1)})"
        for names, what in ((before - there, "gone"), (there - before, "new"))
        if names
    ]
    raise TrainingError(
        f"{printable(out)}: the data have changed since this run began: {', '.join(changes) or 'other images'};"
        " restore them, or begin another run (--init takes over its weights)"
    )


def restore(trainer: Trainer, out: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Put the trainer where the run's checkpoint was; returns the rows of its history."""
    path = out / CHECKPOINT_NAME
    if not path.exists():
        raise TrainingError(f"{printable(out)}: stopped before its first checkpoint: nothing to resume, begin it again")
    state = load_checkpoint(path, trainer.modules, trainer.optimizer)
    with _reading(path):
        trainer.progress = at = Progress(**state["progress"])
        rows = [dict(row) for row in state["rows"]]
        numbers = [at.epoch, at.step, at.global_step, at.images, at.seconds, *(row["seconds"] for row in rows)]
        if not all(0 <= number < 2**63 for number in numbers) or not isinstance(at.best, dict):
            raise ValueError("a run cannot stand there")
    if trainer.ranks.first:
        write_history(out, rows)
    say(f"resuming at epoch {at.epoch + 1}, step {at.step}")
    return rows


def save_checkpoint(
    path: Path, modules: dict[str, torch.nn.Module], optimizer: torch.optim.Optimizer | None, state: dict[str, Any]
) -> None:
    """Write modules, optimiser and a JSON-able ``state`` to ``path`` as one atomic step."""
    parts = {name: module.state_dict() for name, module in modules.items()}
    if optimizer is not None:
        parts |= {f"optimizer/{index}": slots for index, slots in optimizer.state_dict()["state"].items()}
    tensors = {
        f"{name}/{key}": torch.as_tensor(value).detach().cpu().contiguous()
        for name, part in parts.items()
        for key, value in part.items()
    }
    try:
        with files.atomic_path(path) as aside:
            # JSON writes floats so that they read back to the same bits.
            save_file(tensors, str(aside), metadata={"state": json.dumps(state)})
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        do = "go on with --resume" if (path.parent / CHECKPOINT_NAME).exists() else "begin it again"
        raise TrainingError(f"{printable(path)}: cannot be saved ({reason}): make room and {do}") from None


def load_checkpoint(
    path: Path, modules: dict[str, torch.nn.Module], optimizer: torch.optim.Optimizer | None
) -> dict[str, Any]:
    """Restore what :func:`save_checkpoint` wrote and return its ``state``. Raises TrainingError."""
    with _reading(path), safe_open(str(path), framework="pt") as archive:
        state: dict[str, Any] = json.loads(archive.metadata()["state"])
        parts: dict[str, dict[str, Tensor]] = {}
        for place in archive.keys():  # noqa: SIM118 - not a dict
            part, _, key = place.rpartition("/")
            parts.setdefault(part, {})[key] = archive.get_tensor(place)
        for name, module in modules.items():
            module.load_state_dict(parts.get(name, {}))
        if optimizer is not None:
            slots = {int(name.partition("/")[2]): part for name, part in parts.items() if name.startswith("optimizer/")}
            optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
    return state


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever a damaged checkpoint provokes becomes a TrainingError."""
    try:
        files.check_regular(path)
        yield
    except Exception as error:
        raise TrainingError(
            f"{printable(path)}: the checkpoint cannot be read ({in_words(error)}): start again in another --out"
        ) from None


def load_heads(path: Path, heads: torch.nn.Module) -> list[str]:
    """Take the training heads of another run's checkpoint where names and shapes agree; returns their names.

    A file that is missing or cannot be read gives nothing: the heads are a head start, not a necessity.
    """
    found: dict[str, Tensor] = {}
    with suppress(TrainingError), _reading(path), safe_open(str(path), framework="pt") as archive:
        names = [key for key in archive.keys() if key.startswith("heads/")]  # noqa: SIM118 - not a dict
        found = {key.removeprefix("heads/"): archive.get_tensor(key) for key in names}
    return sorted(take_fitting(heads, found))


HISTORY_NAME = "history.jsonl"
PLOT_NAME = "curves.png"

#: What curves.png has of each row of the history: figure, name and colour.
_LOSSES = (
    ("loss", "training loss", "#b5432e"),
    ("triplet_loss", "its triplet or pair part", "#b5432e"),
    ("val_loss", "triplet or pair loss, held out", "#1f6f8b"),
)
_SHARES = (
    ("triplet_accuracy", "triplet accuracy", "#888888"),
    ("val_triplet_accuracy", "held-out triplet accuracy", "#c9a227"),
    ("rank1", "held-out rank-1", "#1f6f8b"),
    ("mAP", "held-out mAP", "#3a9a5c"),
    ("agreement", "agreement with the clusters before", "#1f6f8b"),
    ("purity", "purity, by the labels", "#3a9a5c"),
    ("ari", "adjusted Rand index, by the labels", "#c9a227"),
)
_COUNTS = (("clusters", "clusters", "#1f6f8b"), ("singles", "single images", "#888888"))


def write_history(directory: Path, rows: list[dict[str, Any]]) -> None:
    """Replace the history as one atomic step (a resumed run drops rows that came after its checkpoint)."""
    with files.writing(directory / HISTORY_NAME, error=TrainingError):
        files.atomic_write_text(directory / HISTORY_NAME, "".join(json.dumps(row) + "\n" for row in rows))


def plot_history(directory: Path, rows: list[dict[str, Any]], title: str) -> Path:
    """Draw loss, triplet accuracy and held-out retrieval per epoch into ``curves.png``, and clusters if any."""
    from matplotlib.figure import Figure

    # Each loss on an axis of its own: the sum of all is many times one of its parts, and would press it flat.
    losses = [[part] for part in _LOSSES if any(row.get(part[0]) is not None for row in rows)]
    panels = [*((part, "loss, mean of the epoch", 1, None) for part in losses), (_SHARES, "share, %", 100, 101)]
    if any("clusters" in row for row in rows):
        panels.append((_COUNTS, "count", 1, None))
    figure = Figure(figsize=(3.7 * len(panels), 3.6), layout="constrained")
    for axes, (curves, unit, scale, top) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for key, label, colour in curves:
            points = [(row["epoch"], scale * row[key]) for row in rows if row.get(key) is not None]
            if points:
                marker = "" if key == "triplet_accuracy" else "o"
                axes.plot(*zip(*points), marker=marker, markersize=3, color=colour, label=label)
        axes.set_ylabel(unit)
        axes.set_ylim(0, top)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(printable(title), fontsize=10, parse_math=False)
    path = directory / PLOT_NAME
    with files.writing(path, error=TrainingError), files.atomic_path(path) as aside:
        figure.savefig(aside, format="png", dpi=130, metadata=dict([files.OWN_TEXT]))
    return path
