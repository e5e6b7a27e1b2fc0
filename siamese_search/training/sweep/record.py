"""What a sweep is and how far it has come: ``sweep.json``, and the same as ``results.csv``. Needs no torch."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from siamese_search._version import __version__
from siamese_search.datasets.records import Failure, ImageRecord
from siamese_search.errors import DataError, TrainingError, UsageError, printable
from siamese_search.evaluation.protocol import Protocol, all_vs_all
from siamese_search.io.csv_cells import CsvWriter, csv_cell
from siamese_search.io.files import atomic_write_text, read_json, writing
from siamese_search.training.config import flag
from siamese_search.training.data import DataPaths, HoldOut, as_paths, load_split, read_paths, written_paths
from siamese_search.training.sweep.grid import GridPoint, Value, grid_points, parse_grid, swept, text

if TYPE_CHECKING:
    from pandas import DataFrame

RECORD_NAME = "sweep.json"
TABLE_NAME = "results.csv"
PLOT_NAME = "sweep.png"

State = Literal["planned", "done", "failed"]

#: Columns of false accept rates in tables, by their keys in ``tar_at_far``.
SHOWN_RATES = {"1e-2": "1 %", "1e-1": "10 %"}


@dataclass(frozen=True, slots=True)
class Figures:
    """A finished run on the held-out identities. Rates are fractions, ``None`` where there are too few pairs.

    ``roc``: the curve's points, false and true accept rates, by falling threshold.
    """

    rank1: float
    mAP: float  # noqa: N815 - the field's name
    auc: float | None
    tar_at_far: dict[str, float | None]
    roc: tuple[list[float], list[float]] = field(repr=False)


@dataclass(slots=True)
class SweepRun:
    """One run: its place in the grid, and how it ended. ``reason`` is why it failed."""

    point: GridPoint
    state: State = "planned"
    reason: str | None = None
    fingerprint: str | None = None
    epochs: int | None = None
    seconds: float | None = None  # of training
    figures: Figures | None = None

    @property
    def name(self) -> str:
        return self.point.name


@dataclass(slots=True)
class Sweep:
    """A grid of runs on one data set and one split. ``held`` are the held-out images, ranked by ``protocol``."""

    directory: Path
    preset: str
    data: DataPaths
    layout: str
    init: str
    teacher: str | None
    heldout_identities: list[str]
    grid: dict[str, tuple[Value, ...]]
    runs: list[SweepRun]
    protocol: Protocol = field(repr=False)
    failed: list[Failure] = field(default_factory=list)

    @property
    def swept(self) -> list[str]:
        """The options that change from run to run."""
        return swept(self.grid)

    @property
    def unfinished(self) -> list[SweepRun]:
        return [run for run in self.runs if run.state == "planned"]

    def path_of(self, run: SweepRun) -> Path:
        """The run's directory, which becomes a bundle."""
        return self.directory / run.name

    def description(self) -> dict[str, Any]:
        """What makes two sweeps the same: all but where they are and how far they have come."""
        return {
            "preset": self.preset,
            "data": written_paths(self.data),
            "layout": self.layout,
            "init": self.init,
            "teacher": self.teacher,
            "heldout_identities": self.heldout_identities,
            "grid": {name: list(values) for name, values in self.grid.items()},
        }

    def save(self) -> None:
        """Write ``sweep.json`` and ``results.csv``, each as one atomic step."""
        runs = [{"name": run.name, **asdict(run)} for run in self.runs]
        for one in runs:
            del one["point"]  # its name and the grid say it all
        failed = {failure.path: failure.reason for failure in self.failed}
        saved = {"version": __version__, **self.description(), "failed": failed, "runs": runs}
        # Text of file names may hold lone surrogates, which only ASCII JSON can carry.
        buffer = io.StringIO()
        rows = CsvWriter(buffer)
        for row in self.table():
            rows.writerow(row)
        for name, content in ((RECORD_NAME, json.dumps(saved, indent=1) + "\n"), (TABLE_NAME, buffer.getvalue())):
            with writing(self.directory / name, error=TrainingError):
                atomic_write_text(self.directory / name, content)

    def table(self) -> Iterator[list[str]]:
        """A heading and a row per run, as text; a figure that does not exist is empty."""
        rates = [f"tar_at_far_{rate}" for rate in SHOWN_RATES]
        yield ["run", *self.swept, "state", "auc", *rates, "rank1", "mAP", "epochs", "seconds", "reason"]
        for run in self.runs:
            found = run.figures
            numbers = [found.auc, *map(found.tar_at_far.get, SHOWN_RATES), found.rank1, found.mAP] if found else []
            numbers = numbers or [None] * (3 + len(SHOWN_RATES))
            yield [
                run.name,
                *(text(run.point.values[name]) for name in self.swept),
                run.state,
                *("" if number is None else f"{number:.6f}" for number in numbers),
                "" if run.epochs is None else str(run.epochs),
                "" if run.seconds is None else f"{run.seconds:.1f}",
                csv_cell(run.reason),
            ]

    def to_json(self) -> dict[str, Any]:
        """The documented JSON object (docs/cli-json.md)."""
        return {
            "sweep": str(self.directory),
            "preset": self.preset,
            "data": [str(path) for path in as_paths(self.data)],
            "grid": {name: list(values) for name, values in self.grid.items()},
            "heldout_identities": len(self.heldout_identities),
            "queries": len(self.protocol.queries),
            "cameras": self.protocol.use_cameras,
            "runs": [self._run_json(run) for run in self.runs],
            "failed": [{"path": failure.shown, "reason": failure.reason} for failure in self.failed],
        }

    def to_frame(self) -> DataFrame:
        """A row per run: its name, the swept options, its state and its figures. A pandas DataFrame."""
        from pandas import json_normalize

        runs = (self._run_json(run) for run in self.runs)
        rows = [
            {"run": run.pop("name"), **run.pop("values"), **run, "tar_at_far": run["tar_at_far"] or {}} for run in runs
        ]
        return json_normalize(rows, sep="_")

    def _run_json(self, run: SweepRun) -> dict[str, Any]:
        return {
            "name": run.name,
            "values": run.point.values,
            "state": run.state,
            "reason": run.reason,
            "bundle": str(self.path_of(run)) if run.fingerprint else None,
            "fingerprint": run.fingerprint,
            "epochs": run.epochs,
            "seconds": run.seconds,
            **{name: getattr(run.figures, name, None) for name in ("auc", "tar_at_far", "rank1", "mAP")},
        }


def plan_sweep(
    data: DataPaths,
    out: Path,
    preset: str,
    grid: dict[str, tuple[Value, ...]],
    *,
    layout: str,
    holdout: HoldOut,
    init: str,
    teacher: Path | None,
) -> Sweep:
    """A sweep before its first run: every configuration checked, the held-out identities chosen once for all.

    Nothing is written. Raises UsageError (the grid, nobody held out), DataError (the data, or held-out
    identities among which no query has a match, so that nothing could be measured).
    """
    points = grid_points(preset, grid)
    if holdout.ids_file is None and not (holdout.amount if holdout.ids is None else holdout.ids):
        raise UsageError("nobody is held out, but a sweep compares its runs on held-out identities: give --holdout 0.1")
    split = load_split(data, layout, holdout)
    return Sweep(
        directory=out,
        preset=preset,
        data=read_paths(written_paths(data)),  # resolved
        layout=layout,
        init=str(Path(init).resolve()) if Path(init).is_dir() else init,
        teacher=str(teacher.resolve()) if teacher else None,
        heldout_identities=split.heldout_identities,
        grid=grid,
        runs=[SweepRun(point) for point in points],
        protocol=held_out_protocol(split.held),
    )


def load_sweep(directory: Path) -> Sweep:
    """The sweep that :meth:`Sweep.save` wrote into ``directory``. Raises TrainingError, DataError."""
    path = directory / RECORD_NAME
    try:
        saved = read_json(path)
        grid = parse_grid({name: tuple(values) for name, values in saved["grid"].items()})
        states = {run["name"]: run for run in saved["runs"]}
        runs = [_run_of(point, states[point.name]) for point in grid_points(saved["preset"], grid)]
        data, layout = read_paths(saved["data"]), str(saved["layout"])
        held = tuple(map(str, saved["heldout_identities"]))
        rest = (str(saved["init"]), None if saved["teacher"] is None else str(saved["teacher"]))
        failed = [Failure(str(path), str(reason)) for path, reason in saved["failed"].items()]
    except FileNotFoundError:
        raise TrainingError(
            f"{printable(directory)}: no sweep to resume, {RECORD_NAME} is missing: check the directory"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
        raise TrainingError(f"{printable(path)}: cannot be read ({error}): start again in another --out") from None
    protocol = held_out_protocol(load_split(data, layout, HoldOut(ids=held)).held)
    return Sweep(directory, saved["preset"], data, layout, *rest, list(held), grid, runs, protocol, failed)


def held_out_protocol(held: Sequence[ImageRecord]) -> Protocol:
    """Every held-out image as a query against all the others, as training validates.

    Where the same-camera rule would leave no query (single-camera data), cameras are not used.
    Raises DataError where no query has a match even so.
    """
    protocol = all_vs_all(held)
    try:
        protocol.require_valid_query()
    except DataError:
        protocol = all_vs_all(held, use_cameras=False)
        protocol.require_valid_query()
    return protocol


def _run_of(point: GridPoint, saved: dict[str, Any]) -> SweepRun:
    if saved["state"] not in get_args(State):
        raise ValueError(f"a run is {saved['state']!r}")
    figures = saved["figures"]
    if figures is not None:
        figures = Figures(**{**figures, "roc": tuple(figures["roc"])})
    keys = ("state", "reason", "fingerprint", "epochs", "seconds")
    return SweepRun(point, **{key: saved[key] for key in keys}, figures=figures)


def difference(asked: Sweep, there: Sweep) -> str | None:
    """The first thing in which two sweeps differ, for people; ``None`` where they are the same."""
    ours, theirs = asked.description(), there.description()
    for name in sorted({*asked.grid, *there.grid}):
        if ours["grid"].get(name) != theirs["grid"].get(name):
            return flag(name)
    return next((key.replace("_", " ") for key in ours if ours[key] != theirs[key]), None)


def find_unfinished(runs: Path, asked: Sweep) -> Path | None:
    """The newest directory in ``runs`` that holds the same sweep with runs still to do."""
    description = asked.description()
    for path in sorted(runs.glob(f"*/{RECORD_NAME}"), reverse=True):
        try:
            saved = read_json(path)
            same = all(saved[key] == value for key, value in description.items())
            if same and any(run["state"] == "planned" for run in saved["runs"]):
                return path.parent
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None
