"""Model bundles: ``model.json``, ``model.onnx`` and ``model.safetensors`` in one directory; of an int8 model, no
weights beside its graph.

A bundle may come from a stranger: it is read and checked without torch and ONNX Runtime, and without pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siamese_search.errors import BundleError, in_words, printable
from siamese_search.io.files import read_json, read_regular
from siamese_search.model.calibration import Calibration
from siamese_search.model.centres import Centres
from siamese_search.model.graph import check_graph, completed, read_weights, tensors

#: torch's names of safetensors' types.
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool", "U8": "uint8",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
}  # fmt: skip


def weights_fingerprint(data: bytes, network: Mapping[str, Any]) -> str:
    """sha256 over weights and preprocessing, hex: the same network and input give the same fingerprint.

    data: safetensors, read without torch. network: the description in model.json. Raises ValueError for another file.
    """
    try:
        digest = hashlib.sha256(json.dumps(network, sort_keys=True).encode())
        for name, dtype, shape, content in tensors(data):
            digest.update(f"{name} torch.{_DTYPES[dtype]} {shape}\n".encode())
            digest.update(content)
    except KeyError as error:
        raise ValueError("not a file of safetensors") from error
    return digest.hexdigest()


# ONNX Runtime would tell its maker of each run, under a number for this user that it keeps in HOME.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
#: Graphs of the first format hold their weights themselves.
FORMAT_VERSION, _READABLE = 2, (1, 2)
META_NAME = "model.json"
ONNX_NAME = "model.onnx"
WEIGHTS_NAME = "model.safetensors"
#: Of a model that was adapted to cameras: its centres, float32 in little-endian bytes.
CENTRES_NAME = "centres.f32"

#: Of one image that a network takes: batches of it are held in memory.
_MOST_PIXELS = 1 << 20


@dataclass(frozen=True, slots=True)
class Bundle:
    """A readable model bundle. ``meta`` is the whole of ``model.json``."""

    path: Path
    meta: dict[str, Any]

    @property
    def name(self) -> str:
        """For people: ``bundled``, ``fast`` or the directory."""
        return next((name for name, path in PACKAGED.items() if self.path == path), str(self.path))

    @property
    def int8(self) -> bool:
        """Whether it computes in 8-bit integers: only ONNX Runtime runs it, and there is nothing to train further."""
        return bool(self.meta.get("precision", "float32") != "float32")

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
        return self._calibration("calibration")

    @property
    def adapted_calibration(self) -> Calibration | None:
        """What its scores mean with statistics and centres of the cameras that are searched. Raises BundleError."""
        return self._calibration("adapted_calibration")

    def _calibration(self, name: str) -> Calibration | None:
        saved = self.meta.get(name)
        if saved is None:
            return None
        try:
            return Calibration.from_json(saved)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            raise BundleError(
                f"{printable(self.path)}: the calibration in {META_NAME} is damaged: measure it with `sss calibrate`"
            ) from None

    @property
    def file_names(self) -> tuple[str, ...]:
        """Its files beside model.json."""
        weights = () if self.int8 else (WEIGHTS_NAME,)
        return (ONNX_NAME, *weights, *([CENTRES_NAME] if "centres" in self.meta else ()))

    def read_centres(self) -> Centres | None:
        """What its vectors are less, camera by camera; ``None`` of a model that was adapted to none."""
        if "centres" not in self.meta:
            return None
        means = np.frombuffer(self.read_checked(CENTRES_NAME), "<f4").reshape(-1, self.dim)
        if not np.isfinite(means).all():
            raise BundleError(f"{printable(self.path / CENTRES_NAME)}: not all finite: adapt the model again")
        return Centres(tuple(self.meta["centres"]), means.astype(np.float32))

    @property
    def onnx_path(self) -> Path:
        return self.path / ONNX_NAME

    @property
    def weights_path(self) -> Path:
        """Not there of an int8 model."""
        return self.path / WEIGHTS_NAME

    def read_checked(self, name: str) -> bytes:
        """The bytes of one of the bundle's files, after checking them against the sha256 in model.json."""
        try:
            data = read_regular(self.path / name, int(self.meta["files"][name]["bytes"]))
        except OSError as error:
            raise BundleError(f"{printable(self.path / name)}: {error.strerror}: copy the whole bundle") from None
        if hashlib.sha256(data).hexdigest() != self.meta["files"][name]["sha256"]:
            raise BundleError(
                f"{printable(self.path / name)}: does not match its checksum in {META_NAME}: "
                "the bundle is damaged, copy or train it again"
            )
        return data

    def read_graph(self) -> bytes:
        """The ONNX graph with its weights, to be run: it wants no other file, it ends, and the bundle is what it says.

        Raises BundleError for any other graph, and where the fingerprint is another's. A forged fingerprint would mix
        vectors of two models in one gallery.
        """
        data, weights = self.read_checked(ONNX_NAME), self.check_fingerprint()
        named = self.meta.get("graph", {})
        try:
            check_graph(data)
            return completed(data, named, read_weights(weights)) if named else data
        except ValueError as error:
            raise BundleError(f"{printable(self.onnx_path)}: {error}: the bundle is damaged, copy it again") from None

    def check_fingerprint(self) -> bytes:
        """The weights, safetensors; none of an int8 model. Raises BundleError unless the fingerprint is theirs."""
        if self.int8:
            data = b""
            if WEIGHTS_NAME in self.meta["files"]:
                raise BundleError(f"{printable(self.path)}: an int8 model of a former release: `sss quantise` it again")
            found = quantised_fingerprint(self.meta.get("network", {}), self.meta["files"][ONNX_NAME]["sha256"])
        else:
            data = self.read_checked(WEIGHTS_NAME)
            if self.path in PACKAGED.values():  # which came with this very code
                return data
            try:
                found = weights_fingerprint(data, self.meta.get("network", {}))
            except ValueError as error:
                shown = printable(self.path / WEIGHTS_NAME)
                raise BundleError(f"{shown}: {error}: the bundle is damaged") from None
        if "centres" in self.meta:
            found = centred_fingerprint(found, self.meta["centres"], self.meta["files"][CENTRES_NAME]["sha256"])
        if found != self.fingerprint:
            raise BundleError(
                f"{printable(self.path)}: its weights have the fingerprint {found[:12]}, and {META_NAME} says"
                f" {printable(self.fingerprint[:12])}: it is damaged or forged; copy it again from where it was trained"
            )
        return data


class OfBundle:
    """What an embedder says of itself, as its bundle does."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.dim = bundle.dim
        self.input_size = bundle.input_size
        self.fingerprint = bundle.fingerprint
        self.centres = bundle.read_centres()


def quantised_fingerprint(network: Mapping[str, Any], graph: str) -> str:
    """Of a bundle in int8. network: its description in model.json. graph: sha256 of the ONNX file."""
    return hashlib.sha256(f"{json.dumps(network, sort_keys=True)} int8 {graph}".encode()).hexdigest()


def centred_fingerprint(fingerprint: str, cameras: Sequence[str], centres: str) -> str:
    """Of a bundle with centres. fingerprint: that of the weights. centres: sha256 of their file."""
    return hashlib.sha256(f"{fingerprint} centres {centres} {json.dumps(list(cameras))}".encode()).hexdigest()


_HERE = Path(__file__).resolve().parent
#: The models that come with the package, by name: the one that is taken where none is asked for, and one for CPUs.
PACKAGED = {"bundled": _HERE / "weights", "fast": _HERE / "fast"}


def as_named(path: Path) -> str:
    """How a command names this directory: ``./fast`` is not the package's ``fast``."""
    return f"./{path}" if os.fspath(path) in PACKAGED else os.fspath(path)


def load_bundle(path: Path | str | None = None) -> Bundle:
    """Open the bundle in directory ``path``, or the one of :data:`PACKAGED` of that name; ``None`` is ``"bundled"``.

    A ``Path`` is always a directory. Raises BundleError; contents are checked when they are read.
    """
    name = "bundled" if path is None else os.fspath(path)
    try:
        named = name in PACKAGED and not isinstance(path, Path)
        directory = PACKAGED[name] if named else Path(name).resolve()
        shown, is_there = printable(directory), directory.is_dir()
        if named and path is not None and Path(name, META_NAME).exists():
            raise BundleError(f"{name}: a model of the package, and a directory here: say which, ./{name} is this one")
    except (OSError, ValueError):  # a name that no file can have
        raise BundleError(f"{printable(name)[:80]}: no such model bundle") from None
    meta_path = directory / META_NAME
    if not is_there:
        raise BundleError(f"{shown}: no such model bundle: give the directory that `sss train` wrote")
    try:
        meta = read_json(meta_path)
    except FileNotFoundError:
        hint = (
            f"training has not finished; continue it with: sss train --resume {quote(shown)}"
            if (directory / "checkpoint.safetensors").exists()
            else "a bundle is a directory that `sss train` wrote"
        )
        raise BundleError(f"{shown}: not a model bundle, {META_NAME} is missing: {hint}") from None
    except OSError as error:
        raise BundleError(f"{shown}: {META_NAME} cannot be read: {error.strerror}") from None
    except ValueError:
        raise BundleError(f"{shown}: {META_NAME} is not valid JSON: the bundle is damaged") from None
    _check(meta, directory)
    return Bundle(directory, meta)


def bundle_of(init: str) -> Bundle:
    """The bundle that ``--init`` names; ``bundled`` is the package's, whatever a directory here is called."""
    return load_bundle(None if init == "bundled" else init)


def _check(meta: Any, directory: Path) -> None:
    shown = printable(directory)
    if not isinstance(meta, dict) or "format" not in meta:
        raise BundleError(f"{shown}: {META_NAME} does not describe a model bundle")
    if meta["format"] not in _READABLE:
        raise BundleError(
            f"{shown}: bundle format {meta['format']!r}, this version reads {FORMAT_VERSION}: "
            "update siamese-search or train again"
        )
    try:
        bundle, files = Bundle(directory, meta), meta["files"]
        sizes = {name: int(files[name]["bytes"]) for name in bundle.file_names}
        cameras = meta.get("centres", [])
        height, width = bundle.input_size
        all(len(str(files[name]["sha256"])) == 64 for name in files)
        plausible = (
            len(bundle.fingerprint) == 64
            and 1 <= bundle.dim <= 65_536
            and 8 <= height <= 4096
            and 8 <= width <= 4096
            and height * width <= _MOST_PIXELS
            and all(isinstance(meta.get(name, {}), dict) for name in ("network", "graph", "metrics"))
            and 1 <= meta.get("network", {}).get("enlarge", 1) <= 8
            and all(isinstance(origin, list) for origin in meta.get("graph", {}).values())
            and isinstance(meta.get("heldout_identities", []), list)
            and isinstance(cameras, list)
            and all(isinstance(camera, str) for camera in cameras)
            and sizes.get(CENTRES_NAME) in (None, 4 * (len(cameras) + 1) * bundle.dim)
        )
    except (KeyError, TypeError, ValueError, OverflowError):  # OverflowError: of an infinity
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
            raise BundleError(f"{shown}: {name} has {found} bytes instead of {size}: it is truncated, copy it again")


@contextmanager
def loading(bundle: Bundle, engine: str, what: str = "load") -> Iterator[None]:
    """Whatever an engine raises at a graph becomes a BundleError."""
    try:
        yield
    except BundleError:
        raise
    except Exception as error:
        raise BundleError(f"{printable(bundle.onnx_path)}: {engine} cannot {what} it: {in_words(error)}") from None


def check_images(images: NDArray[np.uint8], size: tuple[int, int]) -> None:
    """Raise ValueError unless ``images`` is uint8 [N, H, W, 3] of this (H, W)."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (*size, 3):
        raise ValueError(f"expected uint8 [N, {size[0]}, {size[1]}, 3], got {images.dtype} {images.shape}")


def check_shapes(bundle: Bundle, taken: Sequence[Sequence[object]], given: Sequence[Sequence[object]]) -> None:
    """Raise BundleError unless a graph takes and gives what model.json says, and nothing more.

    taken, given: the shapes of its inputs and of its outputs; what is no number is open, as the batch must be.
    """
    wanted = ((None, *bundle.input_size, 3), (None, bundle.dim))
    for said, found in zip(wanted, (taken, given), strict=True):
        fits = len(found) == 1 and len(said) == len(found[0])
        if not fits or any(isinstance(b, int) and a != b for a, b in zip(said, found[0], strict=True)):
            raise BundleError(
                f"{printable(bundle.path)}: the graph takes {taken} and gives {given}, and {META_NAME} says"
                f" {bundle.input_size[0]}x{bundle.input_size[1]} and {bundle.dim}: the bundle is damaged, copy it again"
            )
