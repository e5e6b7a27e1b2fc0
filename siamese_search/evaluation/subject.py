"""What is evaluated: which model, on which data, over which identities, when the user does not say all of it."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from siamese_search.datasets.layouts import Dataset
from siamese_search.datasets.splits import read_identity_list
from siamese_search.errors import BundleError, DataError, UsageError, amount, listed, printable
from siamese_search.io.files import read_json
from siamese_search.model.bundle import META_NAME, Bundle, load_bundle

RUNS = "runs"
_RUN_NAME = "run.json"  # written by training beside the bundle


@dataclass(frozen=True, slots=True)
class Subject:
    """A model and the data to measure it on.

    ``trained_on`` is where its run says it learned from, if known. ``layout`` is how the run read that place
    if ``data`` is the same, else ``auto``: read in another way, its identities would be others.

    A run over several data sets: ``source`` is the run's name for ``data`` if it is one of them; ``others``
    are the rest where all of them are to be measured together.
    """

    bundle: Bundle
    data: Path
    trained_on: Path | None
    layout: str = "auto"
    source: str | None = None
    others: tuple[Path, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        """Everything that is measured."""
        return (self.data, *self.others)

    @property
    def is_own_data(self) -> bool:
        """Whether the data is what the model was trained on."""
        return self.trained_on is not None and self.trained_on.resolve() == self.data.resolve()

    @property
    def place(self) -> str:
        """For people: the paths."""
        return ", ".join(str(path) for path in self.paths)


def choose_subject(data: str | os.PathLike[str] | None, model: str, runs: Path = Path(RUNS)) -> Subject:
    """The model (as named, else the newest run's if no data is given, else the bundled one) and its data.

    Without data: all that the model was trained on.
    Raises UsageError, saying what to give, where there is nothing to choose from; BundleError.
    """
    bundle = newest_bundle(runs) if data is None and not model else load_bundle(model or None)
    places, sources, layout = _trained_on(bundle)
    if data is not None:
        for place, source in zip(places, sources, strict=True):
            if place.resolve() == Path(data).resolve():
                return Subject(bundle, Path(data), place, layout, source)
        return Subject(bundle, Path(data), places[0] if places else None)
    if not places:
        raise UsageError(
            f"{printable(bundle.name)} does not say what it was trained on: name the data (sss evaluate photos/)"
        )
    return Subject(bundle, places[0], places[0], layout, others=tuple(places[1:]))


def newest_bundle(runs: Path) -> Bundle:
    """The bundle under ``runs/`` that was finished last; unfinished and damaged ones are passed over."""
    finished: list[tuple[int, str, Bundle]] = []
    for meta in sorted(runs.glob(f"*/{META_NAME}")):
        try:
            finished.append((meta.stat().st_mtime_ns, str(meta), load_bundle(meta.parent)))
        except (BundleError, OSError):
            continue
    if not finished:
        begun = [path.parent for path in sorted(runs.glob(f"*/{_RUN_NAME}"), key=_changed)]
        if begun:
            raise UsageError(
                f"nothing to evaluate: {printable(begun[-1])} was interrupted; finish it"
                f" (sss train --resume {quote(printable(begun[-1]))}), or name the data (sss evaluate photos/)"
            )
        raise UsageError(
            f"nothing to evaluate: no finished run under {printable(runs)}/; name the data (sss evaluate photos/)"
            " or train first (sss train photos/)"
        )
    return max(finished, key=lambda item: item[:2])[2]


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _trained_on(bundle: Bundle) -> tuple[list[Path], list[str | None], str]:
    """Where the bundle's run says it learned from, its names for several data sets, and in which layout."""
    try:
        saved = read_json(bundle.path / _RUN_NAME)
        layout = str(saved.get("layout", "auto"))
        if isinstance(saved["data"], str):
            return [Path(saved["data"])], [None], layout
        places, sources = [Path(place) for place in saved["data"]], [str(name) for name in saved["sources"]]
        return (places, [*sources], layout) if len(places) == len(sources) else ([], [], "auto")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [], [], "auto"


def select_identities(
    subject: Subject, dataset: Dataset, queries: Dataset | None, wanted: str | os.PathLike[str] | Sequence[str] | None
) -> tuple[frozenset[str] | None, str]:
    """Which identities to measure (``None``: all), and why, in one line.

    wanted: ``"heldout"``, ``"all"``, a file, a list, or ``None`` to choose: the held-out identities where the
    data is what the model was trained on, for on identities that it has seen the figures would flatter it.
    Raises DataError where an identity that was asked for has no image.
    """
    known = set(dataset.identities) | set(queries.identities if queries is not None else ())
    held = _held_out(subject, known)
    everyone = f"all {amount(len(known), 'identity')}{_seen(subject.bundle, known)}"
    if wanted is None:
        if not held:
            return None, everyone
        # A run remembers the place. A bundle that was moved away from it does not: then every held-out identity, and
        # others too, must be in the data.
        if not (subject.is_own_data if subject.trained_on is not None else held < known):
            return None, f"{everyone} (data that the model was not trained on)"
        wanted = "heldout"
    if wanted == "all":
        return None, everyone
    if wanted == "heldout":
        if not held:
            raise DataError(
                f"{printable(subject.bundle.name)} held no identities out of its training; use --identities all"
            )
        return _checked(held, known, dataset), f"the {amount(len(held), 'identity')} that training held out"
    if isinstance(wanted, (str, os.PathLike)):
        ids = set(read_identity_list(Path(wanted)))
        text = f"the {amount(len(ids), 'identity')} listed in {printable(wanted)}"
    else:
        ids = set(wanted)
        text = amount(len(ids), "identity")
    return _checked(ids, known, dataset), text + _seen(subject.bundle, ids)


def seen_warning(bundle: Bundle, dataset: Dataset, queries: Dataset | None, chosen: Collection[str] | None) -> str:
    """One line where most of the identities that are measured have the names of those that the model learned from.

    chosen: as :func:`select_identities` gave it. Empty where there is nothing to warn of, or the bundle says no names.
    """
    known = set(dataset.identities) | set(queries.identities if queries is not None else ())
    measured = known if chosen is None else known & set(chosen)
    return _seen(bundle, measured).strip(" ()")


def _seen(bundle: Bundle, known: set[str]) -> str:
    """The warning in brackets."""
    try:
        names = {str(name) for name in bundle.meta["training"].get("identity_names", [])}
    except (KeyError, TypeError, AttributeError):
        return ""
    same = len(known & names)
    if 2 * same <= len(known):
        return ""
    return f" (the model learned from {same} of these names: if they are the same identities, the figures flatter it)"


def _held_out(subject: Subject, known: set[str]) -> set[str]:
    """The held-out identities as the data calls them.

    A run over several data sets calls them ``SOURCE/ID``. One of those data sets alone knows plain names; where
    the run that would tell which one it is has gone, it is the one whose held-out identities are all known.
    """
    held = set(subject.bundle.heldout_identities)
    if subject.source is not None:
        return _within(subject.source, held)
    if subject.trained_on is None:
        for name in _source_names(subject.bundle):
            if (own := _within(name, held)) and own < known:
                return own
    return held


def _within(source: str, held: set[str]) -> set[str]:
    return {name.removeprefix(f"{source}/") for name in held if name.startswith(f"{source}/")}


def _source_names(bundle: Bundle) -> list[str]:
    """The several data sets that a bundle was trained on, by name; none where there was one."""
    try:
        return [str(source["name"]) for source in bundle.meta["training"].get("sources", [])]
    except (KeyError, TypeError, AttributeError):
        return []


def _checked(ids: set[str], known: set[str], dataset: Dataset) -> frozenset[str]:
    absent = sorted(ids - known)
    if absent:
        raise DataError(
            f"{len(absent)} of {amount(len(ids), 'identity')} have no images in {printable(dataset.root)}:"
            f" {listed(absent)}; mend the list, or evaluate all with --identities all"
        )
    return frozenset(ids)
