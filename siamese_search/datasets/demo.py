"""The synthetic demo set: drawn pedestrians as real JPEG files with Market-1501 names.

Every identity is one query in one camera and gallery images in the others; distractors (``0000``) are nobody's answer.
The same arguments give the same bytes (with the same Pillow).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from siamese_search.datasets.records import DISTRACTOR_IDENTITY, JUNK_IDENTITY, is_market_name
from siamese_search.datasets.synthetic import DemoOptions
from siamese_search.datasets.synthetic.cameras import make_places, photograph
from siamese_search.datasets.synthetic.people import draw_people
from siamese_search.errors import DataError, UsageError, printable
from siamese_search.io.files import atomic_write_text, writing
from siamese_search.options import Progress, request

#: Its presence says that a directory is ours to write into. Hidden, so that no scan counts it.
MARKER = ".sss-demo.json"


@dataclass(frozen=True, slots=True)
class DemoSet:
    """What was written: two directories of JPEG files, the identities in them, and the number of files."""

    gallery: Path
    queries: Path
    identities: list[str]
    images: int


@dataclass(frozen=True, slots=True)
class _Shot:
    """One image to be made: who, by which camera, the how-manieth."""

    folder: str
    name: str
    person: int
    camera: int
    index: int


@request(DemoOptions)
def generate_demo(out: str | os.PathLike[str], *, options: DemoOptions, progress: Progress | None = None) -> DemoSet:
    """Write the demo set to ``out/gallery`` and ``out/queries``; a set of other arguments there is replaced.

    progress: called with (images done, images in all). Raises DataError where ``out`` is a file, or a directory with
    content that is not a demo set; UsageError for numbers that cannot work.
    """
    _check(options)
    out = Path(out)
    seed, size = options.seed, options.size
    plan = list(_plan(options))
    people = draw_people(options.identities + options.distractors + options.junk, seed)
    places = make_places(options.cameras, seed)
    with writing(out, error=DataError):
        _prepare(out, plan, seed)
        for done, shot in enumerate(plan, 1):
            rng = np.random.default_rng([seed, 4, shot.person, shot.camera, shot.index])
            misplaced = shot.name.startswith(f"{JUNK_IDENTITY}_")
            data = photograph(people[shot.person], places[shot.camera], rng, size, misplaced=misplaced)
            _write(out / shot.folder / shot.name, data)
            if progress is not None:
                progress(done, len(plan))
    names = [f"{number:04d}" for number in range(1, options.identities + 1)]
    return DemoSet(out / "gallery", out / "queries", names, len(plan))


def _plan(options: DemoOptions) -> Iterator[_Shot]:
    cameras = options.cameras
    rng = np.random.default_rng([options.seed, 5])
    for person in range(options.identities):
        query = int(rng.integers(cameras))
        frame = 100 + int(rng.integers(20_000))
        for camera in range(cameras):
            for index in range(1 if camera == query else options.images_per_camera):
                frame += 25 + int(rng.integers(200))
                name = f"{person + 1:04d}_c{camera + 1}s1_{frame:06d}_{index + 1:02d}.jpg"
                yield _Shot("queries" if camera == query else "gallery", name, person, camera, index)
    for extra in range(options.distractors + options.junk):
        camera = extra % cameras
        identity = DISTRACTOR_IDENTITY if extra < options.distractors else JUNK_IDENTITY
        name = f"{identity}_c{camera + 1}s1_{30_000 + 25 * extra:06d}_01.jpg"
        yield _Shot("gallery", name, options.identities + extra, camera, 0)


def _check(options: DemoOptions) -> None:
    limits = {
        "identities": (options.identities, 2, 9999),
        "cameras": (options.cameras, 2, 99),
        "images per camera": (options.images_per_camera, 1, 99),
        "distractors": (options.distractors, 0, 100_000),
        "junk": (options.junk, 0, 100_000),
        "seed": (options.seed, 0, 2**31 - 1),
        "height": (options.size[0], 32, 512),
        "width": (options.size[1], 16, 256),
    }
    for what, (value, low, high) in limits.items():
        if not low <= value <= high:
            raise UsageError(f"demo set: {what} = {value} is out of range; give {low} to {high}")


def _prepare(out: Path, plan: list[_Shot], seed: int) -> None:
    """Make the directories; remove what an earlier demo set had and this one has not; refuse anybody else's."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{printable(out)}: is a file; give a directory for the demo set")
    marker = out / MARKER
    if out.is_dir() and any(out.iterdir()) and not marker.is_file():
        raise DataError(f"{printable(out)}: not empty and not a demo set; give a new or empty directory")
    # The marker comes first: a run that is killed right after it can be repeated.
    atomic_write_text(marker, json.dumps({"made_by": "sss demo", "seed": seed, "images": len(plan)}) + "\n")
    planned = {(shot.folder, shot.name) for shot in plan}
    for folder in ("gallery", "queries"):
        (out / folder).mkdir(exist_ok=True)
        for old in (out / folder).iterdir():
            written = old.name[1:-5] if old.name.startswith(".") and old.name.endswith(".part") else old.name
            if is_market_name(written) and (folder, old.name) not in planned:  # only what we may have written
                old.unlink()


def _write(path: Path, data: bytes) -> None:
    """Write ``data`` unless the file has it: an unchanged image keeps its time, and is not ingested again."""
    if path.is_file() and path.read_bytes() == data:
        return
    # Not fsynced: a demo set that a power loss damages is made again, and hundreds of fsyncs take seconds.
    aside = path.with_name(f".{path.name}.part")
    aside.write_bytes(data)
    os.replace(aside, path)  # noqa: PTH105
