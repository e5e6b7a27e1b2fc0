"""Optimising an embedded gallery in a child process: the engine's ``optimize`` holds the interpreter lock for minutes.

``python -m siamese_search.gallery.edge.optimise_child`` is the child; what it does is in optimise.py. It says each
stage on a line of its stdout, and in the end whether something changed.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from siamese_search.errors import SiameseSearchError, StoreBusyError, StoreError
from siamese_search.gallery.contract import OptimiseProgress

_BUSY = 75  # EX_TEMPFAIL
_TICK_SECONDS = 0.2


def run_in_child(
    generation: Path,
    what: str,
    *,
    points: int,
    index: bool | None,
    wait: float,
    progress: OptimiseProgress | None = None,
) -> bool:
    """Optimise the shard of a generation that nobody in this process holds; True if something changed.

    Raises StoreBusyError or StoreError with the child's message. On any exception here (Ctrl-C above all) the
    child is killed, and the gallery is as it was.
    """
    # The child must find this package even when it runs from a source tree.
    root = os.fspath(Path(__file__).resolve().parents[3])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "siamese_search.gallery.edge.optimise_child", os.fspath(generation)]
    command += ["--what", what, "--points", str(points), "--wait", str(wait)]
    if index is not None:
        command += ["--index", "yes" if index else "no"]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        try:
            last = _follow(child.stdout, progress)
            # One line at most, so the pipe cannot have filled up.
            err = child.stderr.read()
            child.wait()
        except BaseException:
            child.kill()
            child.wait()
            _tidy(generation)
            raise
    if child.returncode != 0:
        _tidy(generation)
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        raise StoreError(f"{what}: optimising was interrupted ({name}); the gallery is usable as before")
    if child.returncode != 0:
        lines = err.decode("utf-8", "replace").strip().splitlines()
        message = lines[-1] if lines else f"optimising failed with exit code {child.returncode}"
        raise (StoreBusyError if child.returncode == _BUSY else StoreError)(message)
    return bool(last["changed"])


def _follow(lines: IO[bytes], progress: OptimiseProgress | None) -> dict[str, Any]:
    """Read what the child says until it says no more, reporting progress; its last words."""
    started, stage, rest = time.monotonic(), "starting", b""
    last: dict[str, Any] = {"changed": False}
    with selectors.DefaultSelector() as selector:
        selector.register(lines, selectors.EVENT_READ)
        while True:
            if selector.select(_TICK_SECONDS):
                data = os.read(lines.fileno(), 65536)
                if not data:
                    return last
                *whole, rest = (rest + data).split(b"\n")
                for line in whole:
                    last = json.loads(line)
                    stage = str(last.get("stage", stage))
            if progress is not None:
                progress(stage, time.monotonic() - started)


def _tidy(generation: Path) -> None:
    """Delete what a child that was killed has left, unless another one is at work by now."""
    from siamese_search.gallery.edge.optimise import tidy

    with suppress(SiameseSearchError, OSError):
        tidy(generation)


def main(arguments: Sequence[str] | None = None) -> int:
    # Default handlers: Python's would run only after the engine returns, in minutes.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parser = argparse.ArgumentParser(description="Optimise one generation of an embedded gallery.")
    parser.add_argument("generation", type=Path)
    parser.add_argument("--what", required=True)
    parser.add_argument(
        "--index", choices=["yes", "no"], help="build an HNSW index; by default where it pays"
    )
    parser.add_argument("--points", type=int, required=True)
    parser.add_argument("--wait", type=float, required=True)
    options = parser.parse_args(arguments)
    index = None if options.index is None else options.index == "yes"
    _say({"stage": "opening"})  # from here on a signal ends it, whatever the parent ignores
    from siamese_search.gallery.edge.optimise import optimise

    try:
        changed = optimise(
            options.generation,
            options.what,
            points=options.points,
            index=index,
            wait=options.wait,
            say=lambda stage: _say({"stage": stage}),
        )
    except SiameseSearchError as error:
        print(error, file=sys.stderr)
        return _BUSY if isinstance(error, StoreBusyError) else 1
    _say({"changed": changed})
    return 0


def _say(words: dict[str, Any]) -> None:
    """A line for the parent. Should that have gone, BrokenPipeError ends the child before it changes anything."""
    print(json.dumps(words), flush=True)


if __name__ == "__main__":
    sys.exit(main())
