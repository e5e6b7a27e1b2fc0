"""Model bundles: ``model.json``, ``model.onnx`` and ``model.safetensors`` in one directory.

Reading a bundle needs neither torch nor ONNX Runtime. No pickle anywhere.
"""

from __future__ import annotations

import hashlib
import json
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siamese_search.errors import BundleError, printable
from siamese_search.io.files import read_regular
from siamese_search.model.calibration import Calibration

FORMAT_VERSION = 1
META_NAME = "model.json"
ONNX_NAME = "model.onnx"
WEIGHTS_NAME = "model.safetensors"

#: A bundle's JSON is read whole; a stranger's must not fill the memory.
MAX_META_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Bundle:
    """A readable model bundle. ``meta`` is the whole of ``model.json``."""

    path: Path
    meta: dict[str, Any]

    @property
    def name(self) -> str:
        """For people: ``bundled`` or the directory."""
        return "bundled" if self.path == bundled_path() else str(self.path)

    @property
    def fingerprint(self) -> str:
        """sha256 over weights and preprocessing, hex."""
        return str(self.meta["fingerprint"])

    @property
    def dim(self) -> int:
        return int(self.meta["embedding_dim"])

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return int(self.meta["input"]["height"]), int(self.meta["input"]["width"])

    @property
    def heldout_identities(self) -> list[str]:
        """Identities that training never saw; empty when it saw all."""
        return [str(identity) for identity in self.meta.get("heldout_identities", [])]

    @property
    def calibration(self) -> Calibration | None:
        """What its scores mean (``sss evaluate --calibrate``); ``None`` until then. Raises BundleError."""
        saved = self.meta.get("calibration")
        if saved is None:
            return None
        try:
            return Calibration.from_json(saved)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            raise BundleError(
                f"{printable(self.path)}: the calibration in {META_NAME} is damaged: run `sss evaluate --calibrate`"
            ) from None

    @property
    def onnx_path(self) -> Path:
        return self.path / ONNX_NAME

    @property
    def weights_path(self) -> Path:
        return self.path / WEIGHTS_NAME

    def read_checked(self, name: str) -> bytes:
        """The bytes of one of the bundle's files, after checking them against the sha256 in model.json."""
        try:
            data = read_regular(self.path / name, int(self.meta["files"][name]["bytes"]))
        except OSError as error:
            raise BundleError(
                f"{printable(self.path / name)}: {error.strerror}: copy the whole bundle"
            ) from None
        if hashlib.sha256(data).hexdigest() != self.meta["files"][name]["sha256"]:
            raise BundleError(
                f"{printable(self.path / name)}: does not match its checksum in {META_NAME}: "
                "the bundle is damaged, copy or train it again"
            )
        return data


def bundled_path() -> Path:
    """Where the weights that come with the package are."""
    return Path(__file__).resolve().parent / "weights"


def load_bundle(path: Path | str | None = None) -> Bundle:
    """Open the bundle in directory ``path``; ``None`` or ``"bundled"`` means the bundled model.

    Checks the format version, the fields and the sizes of the files (contents are checked when they are
    read). Raises BundleError.
    """
    directory = bundled_path() if path is None or path == "bundled" else Path(path).resolve()
    shown = printable(directory)
    meta_path = directory / META_NAME
    if not directory.is_dir():
        raise BundleError(f"{shown}: no such model bundle: give the directory that `sss train` wrote")
    try:
        meta = json.loads(read_regular(meta_path, MAX_META_BYTES).decode("utf-8"))
    except FileNotFoundError:
        hint = (
            "training has not finished; continue it with `sss train --resume`"
            if (directory / "checkpoint.safetensors").exists()
            else "a bundle is a directory that `sss train` wrote"
        )
        raise BundleError(f"{shown}: not a model bundle, {META_NAME} is missing: {hint}") from None
    except OSError as error:
        raise BundleError(f"{shown}: {META_NAME} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise BundleError(f"{shown}: {META_NAME} is not valid JSON: the bundle is damaged") from None
    _check(meta, directory)
    return Bundle(directory, meta)


def _check(meta: Any, directory: Path) -> None:
    shown = printable(directory)
    if not isinstance(meta, dict) or "format" not in meta:
        raise BundleError(f"{shown}: {META_NAME} does not describe a model bundle")
    if meta["format"] != FORMAT_VERSION:
        raise BundleError(
            f"{shown}: bundle format {meta['format']!r}, this version reads {FORMAT_VERSION}: "
            "update siamese-search or train again"
        )
    try:
        files = meta["files"]
        sizes = {name: int(files[name]["bytes"]) for name in (ONNX_NAME, WEIGHTS_NAME)}
        all(len(str(files[name]["sha256"])) == 64 for name in files)
        plausible = (
            len(str(meta["fingerprint"])) == 64
            and 1 <= int(meta["embedding_dim"]) <= 65_536
            and 8 <= int(meta["input"]["height"]) <= 4096
            and 8 <= int(meta["input"]["width"]) <= 4096
            and isinstance(meta.get("heldout_identities", []), list)
            and isinstance(meta.get("metrics", {}), dict)
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        plausible = False
    if not plausible:
        raise BundleError(f"{shown}: {META_NAME} lacks fields of a model bundle: it is damaged")
    for name, size in sizes.items():
        try:
            known = (directory / name).stat()
        except OSError:
            raise BundleError(f"{shown}: {name} is missing: copy the whole bundle") from None
        if not stat.S_ISREG(known.st_mode):
            raise BundleError(f"{shown}: {name} is not a regular file: copy the whole bundle")
        found = known.st_size
        if found != size:
            raise BundleError(
                f"{shown}: {name} has {found} bytes instead of {size}: it is truncated, copy it again"
            )
