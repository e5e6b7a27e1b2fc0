"""Where an embedded store keeps its galleries on disk.

    STORE/store.json                      marks the directory as a store
    STORE/galleries/NAME/CURRENT          the generation in use and, on a second line, the former one
    STORE/galleries/NAME/BUILDING         the generation that is being filled, while there is one
    STORE/galleries/NAME/build.lock       held by whoever fills it (see locks.py; its turnstile is beside it)
    STORE/galleries/NAME/g-XXXXXXXX/      a generation:
        gallery.json                      format version, name, model (fingerprint, dimension, name), storage, notes
        fields.json                       the payload schema
        written                           another random text with every turn in which somebody writes
        shard/                            the engine's files
        shard.next/, shard.old/, journal, optimised, optimise.lock
                                          of an optimisation (see optimise.py)
        turnstile.lock, shard.lock        see locks.py

Model and vectors live in one generation, so that one rename swaps both. Everything is made aside and
renamed into place: no half-made store, gallery or generation is ever seen under its name.

Publishing takes two steps: CURRENT is replaced (old and new in one document, so no moment has two currents or
forgets the former), then BUILDING is removed. A crash in between leaves a BUILDING that names the current
generation: it counts as none. A generation that no pointer names is debris, and the next builder deletes it.
"""

from __future__ import annotations

import json
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from siamese_search.errors import GalleryNotFoundError, StoreError, UsageError, printable
from siamese_search.gallery.contract import ModelRef, named
from siamese_search.gallery.storage import DEFAULT_STORAGE, Storage, read_storage
from siamese_search.io.files import atomic_write_text, foreign_entry, fsync_directory, open_own, read_own

FORMAT_VERSION = 1
#: Of a gallery.json with a storage that the first release would write to wrongly.
_STORAGE_VERSION = 2
SHARD = "shard"
NEXT_SHARD = "shard.next"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_GENERATION = re.compile(r"g-[0-9a-f]{8}")
#: What takes a second and has taken so long is not being made any more.
_ABANDONED_SECONDS = 3600
_MAX_JSON_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class GalleryHeader:
    """What gallery.json says."""

    name: str
    model: ModelRef
    storage: Storage = DEFAULT_STORAGE
    notes: Mapping[str, Any] = field(default_factory=dict)


def check_name(name: str) -> str:
    """The gallery name, if it may be one; raises UsageError otherwise."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name a gallery: use letters, digits, '.', '_' and '-', at most 64, "
            "starting with a letter or digit"
        )
    return name


def no_gallery(name: str, store: str, there: Sequence[str]) -> GalleryNotFoundError:
    """The error of a store that has others. there: these."""
    known = f"it has {', '.join(there)}; name one with --gallery, or" if there else "it is empty;"
    place = f"no gallery {name!r} in store {printable(store)}"
    return GalleryNotFoundError(f"{place}: {known} make it with `sss ingest DIR`")


def is_store(store: Path) -> bool:
    """True for a store, False where there is nothing yet (missing or empty); StoreError for anything else."""
    with os_errors("read", store):
        if not store.exists() and not store.is_symlink():
            return False
        if not store.is_dir():
            raise StoreError(f"{printable(store)} is not a store: it is not a directory; choose another --store")
        if (store / "store.json").is_file():
            read_json(store / "store.json")
            return True
        # Another process may be making the store just now: its unfinished store.json is no foreign file.
        foreign = any(not entry.name.startswith(".store.json.") for entry in store.iterdir())
        if foreign and (store / "store.json").is_file():
            return True  # made between our two looks
        if foreign:
            raise StoreError(
                f"{printable(store)} is not a store: it holds other files; choose an empty or new directory"
            )
    return False


def make_store(store: Path) -> None:
    """Make the directory a store where it is not one yet."""
    if is_store(store):
        return
    with os_errors("write", store):
        document = {"format": FORMAT_VERSION, "kind": "siamese-search store"}
        atomic_write_text(store / "store.json", json.dumps(document) + "\n")


def gallery_names(store: Path) -> list[str]:
    """The galleries of a store, sorted; none where there is no store yet."""
    if not is_store(store):
        return []
    home = store / "galleries"
    with os_errors("read", store):
        if not home.is_dir():
            return []
        return sorted(
            entry.name for entry in home.iterdir() if _NAME.fullmatch(entry.name) and (entry / "CURRENT").exists()
        )


def gallery_directory(store: Path, name: str) -> Path:
    return store / "galleries" / check_name(name)


def find_gallery(store: Path, name: str) -> Path:
    """The directory of an existing gallery; GalleryNotFoundError says which there are and what to run."""
    directory = gallery_directory(store, name)
    is_store(store)  # raises for what is none
    if not (directory / "CURRENT").is_file():
        if not is_store(store):
            raise GalleryNotFoundError(f"there is no store at {printable(store)}: make one with `sss ingest DIR`")
        check_pointer(directory)
        raise no_gallery(name, str(store), gallery_names(store))
    for path in (directory.parent, directory):
        refuse_link(path)
    return directory


def check_pointer(directory: Path) -> None:
    """Raise StoreError where a gallery's vectors are there and CURRENT, which leads to them, is not."""
    if not (directory / "CURRENT").is_file() and any(directory.glob("g-*")):
        raise StoreError(
            f"{printable(directory / 'CURRENT')} is missing or no file, and names the vectors in use: restore it, or"
            f" delete {printable(directory)} and ingest again"
        )


def refuse_link(path: Path) -> None:
    """Raise StoreError for a symbolic link: what lies behind it is no part of the store."""
    if path.is_symlink():
        raise StoreError(
            f"{printable(path)} is a symbolic link, and a store has none: somebody else made it; move the directory"
            " itself there"
        )


def check_own(generation: Path) -> None:
    """Raise StoreError where a generation holds a link, pipe or device: the engine would follow it anywhere.

    Call it before the generation is locked or opened. FileNotFoundError where the generation is gone.
    """
    refuse_link(generation)
    try:
        found = foreign_entry(generation)
    except FileNotFoundError:
        if not generation.exists():
            raise
        return  # an optimisation swapped its shard while we looked: what it put there is its own
    except OSError as error:
        raise StoreError(f"cannot read {printable(generation)}: {error.strerror}") from error
    if found is not None:
        raise StoreError(
            f"{printable(found)} is a link (perhaps a hard one), pipe or device, and a store holds none: somebody else"
            " made it; nothing was opened (`cp -r` makes a copy without hard links)"
        )


def current_generation(gallery: Path) -> Path:
    """The generation that CURRENT points to. Raises as :func:`generation_pointers`."""
    return generation_pointers(gallery)[0]


def generation_pointers(gallery: Path) -> tuple[Path, Path | None]:
    """The current and the previous generation, as CURRENT names them in one reading.

    Raises StoreError when the pointer or its target is damaged, GalleryNotFoundError when there is none.
    """
    pointer = gallery / "CURRENT"
    text = _pointer_text(pointer)
    while True:
        names = text.split()
        if 1 <= len(names) <= 2 and all(_GENERATION.fullmatch(name) for name in names):
            if (gallery / names[0]).is_dir():
                previous = gallery / names[1] if len(names) == 2 else None
                return gallery / names[0], previous if previous is not None and previous.is_dir() else None
            again = _pointer_text(pointer)
            if again != text:  # swapped, and the former generation deleted, since we looked
                text = again
                continue
        raise StoreError(
            f"{printable(pointer)} is damaged (it points to {text!r}): delete {printable(gallery)} and ingest again"
        )


def _pointer_text(pointer: Path) -> str:
    with os_errors("read", pointer):
        try:
            return read_own(pointer, 100).decode("ascii", "replace").strip()
        except FileNotFoundError:
            raise GalleryNotFoundError(
                f"{named(pointer.parent.name, str(pointer.parents[2]))} was deleted meanwhile"
            ) from None


def building_generation(gallery: Path) -> Path | None:
    """The generation that BUILDING points to; None where there is none, or it was published already."""
    try:
        text = _pointer_text(gallery / "BUILDING")
    except GalleryNotFoundError:
        return None
    path = gallery / text
    if not _GENERATION.fullmatch(text) or not path.is_dir() or path in generation_pointers(gallery):
        return None
    return path


def mark_building(gallery: Path, generation: Path | None) -> None:
    """Make ``generation`` the one that is being filled, atomically; None: nothing is."""
    with os_errors("write", gallery):
        if generation is None:
            (gallery / "BUILDING").unlink(missing_ok=True)
            fsync_directory(gallery)
        else:
            atomic_write_text(gallery / "BUILDING", generation.name + "\n")


def stray_generations(gallery: Path) -> list[Path]:
    """Generations that no pointer names: of builders that died, and former ones nobody wants any more."""
    named = {*generation_pointers(gallery), building_generation(gallery)}
    with os_errors("read", gallery):
        return sorted(path for path in gallery.iterdir() if _GENERATION.fullmatch(path.name) and path not in named)


def new_generation(parent: Path, header: GalleryHeader) -> Path:
    """Make an empty generation directory (header and empty schema, no shard yet) and return it."""
    path = parent / f"g-{uuid.uuid4().hex[:8]}"
    with os_errors("write", parent):
        path.mkdir(parents=True)
    write_header(path, header)
    return path


def write_header(generation: Path, header: GalleryHeader) -> None:
    """Write gallery.json, in one step."""
    version = FORMAT_VERSION if header.storage == DEFAULT_STORAGE else _STORAGE_VERSION
    document = {"format": version, **asdict(header)}
    with os_errors("write", generation):
        atomic_write_text(generation / "gallery.json", json.dumps(document, indent=2) + "\n")


def point_to(gallery: Path, current: Path, previous: Path | None = None) -> None:
    """Make these the current and the previous generation, atomically."""
    names = [current.name] if previous is None else [current.name, previous.name]
    with os_errors("write", gallery):
        atomic_write_text(gallery / "CURRENT", "\n".join(names) + "\n")


def publish_gallery(aside: Path, gallery: Path) -> None:
    """Rename a finished gallery directory to its name; ours is removed where another process was first."""
    with os_errors("write", gallery):
        try:
            aside.rename(gallery)
            fsync_directory(gallery.parent)
        except OSError:
            if not (gallery / "CURRENT").is_file():
                raise
            remove_tree(aside)


def read_header(generation: Path) -> GalleryHeader:
    """gallery.json, checked. Raises StoreError naming the file when damaged or of a later format."""
    path = generation / "gallery.json"
    document = read_json(path, newest=_STORAGE_VERSION)
    try:
        model = document["model"]
        name, fingerprint, dim = document["name"], model["fingerprint"], model["dim"]
        label, notes = model.get("name", ""), document.get("notes", {})
        sound = isinstance(name, str) and isinstance(fingerprint, str) and type(dim) is int and 0 < dim <= 65536
        if not sound or not isinstance(label, str) or not isinstance(notes, dict):
            raise ValueError
        storage = read_storage(document.get("storage"))
    except (KeyError, TypeError, AttributeError, ValueError):
        raise _damaged(path, "it lacks name, model or storage") from None
    return GalleryHeader(name, ModelRef(fingerprint, dim, label), storage, notes)


def read_json(path: Path, newest: int = FORMAT_VERSION) -> dict[str, Any]:
    """A JSON object of this release's format. Raises StoreError naming the file otherwise."""
    with os_errors("read", path):
        text = read_own(path, _MAX_JSON_BYTES)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise _damaged(path, "it is not JSON") from None
    version = document.get("format") if isinstance(document, dict) else None
    if type(version) is not int or version < 1:
        raise _damaged(path, "it states no format version")
    if version > newest:
        raise StoreError(
            f"{printable(path)} has format {version}, made by a later release (this one reads up to "
            f"{newest}): upgrade siamese-search"
        )
    return document  # type: ignore[no-any-return]


def read_fields(generation: Path) -> tuple[dict[str, str], list[str]]:
    """The payload schema, and which of its fields a writer has not done with. StoreError for damage."""
    path = generation / "fields.json"
    if not path.exists():
        return {}, []
    document = read_json(path)
    types, pending = document.get("fields"), document.get("pending")
    if isinstance(types, dict) and isinstance(pending, list):
        known = all(kind in ("str", "int", "float", "bool") for kind in types.values())
        if known and all(name in [*types] for name in pending):
            return types, pending
    raise _damaged(path, "it says no types of fields")


def _damaged(path: Path, how: str) -> StoreError:
    return StoreError(f"{printable(path)} is damaged: {how}; delete the gallery's directory and ingest again")


def mark_written(generation: Path) -> None:
    """Change the generation's mark. Call it with the generation's lock, before the write that it announces."""
    with os_errors("write", generation), open(generation / "written", "w", encoding="ascii", opener=open_own) as file:
        file.write(uuid.uuid4().hex)


def read_mark(generation: Path) -> str:
    """The mark of the last write; empty where there was none. Call it with the generation's lock."""
    with os_errors("read", generation / "written"):
        try:
            return read_own(generation / "written", 100).decode("ascii", "replace")
        except FileNotFoundError:
            return ""


def set_aside(path: Path) -> None:
    """Rename a directory so that nobody finds it any more; :func:`remove_dropped` deletes it."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.dropped")
    with os_errors("write", path.parent):
        path.rename(aside)
        fsync_directory(path.parent)


def remove_dropped(parent: Path) -> None:
    """Delete what was set aside in a directory, and what was begun there an hour ago: by us or by who died over it."""
    for path in (*parent.glob(".*.dropped"), *parent.glob(".*.part")):
        with suppress(FileNotFoundError):
            if path.suffix == ".dropped" or time.time() - path.lstat().st_mtime > _ABANDONED_SECONDS:
                remove_tree(path)


def remove_tree(path: Path) -> None:
    """Delete a directory as well as possible; leftovers are harmless and never read."""
    shutil.rmtree(path, ignore_errors=True)


def finish_swap(generation: Path) -> None:
    """Give an optimised shard its name where its swap was cut short between two renames. Call it with the lock."""
    if not (generation / SHARD).exists() and (generation / NEXT_SHARD).is_dir():
        with os_errors("write", generation):
            (generation / NEXT_SHARD).rename(generation / SHARD)
            fsync_directory(generation)


@contextmanager
def os_errors(doing: str, path: Path) -> Iterator[None]:
    """Turn the disk's errors into a StoreError: ``cannot read store PATH``, or whatever else we were doing there."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"cannot {doing} store {printable(path)}: {error.strerror or error}") from error
