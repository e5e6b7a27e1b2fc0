"""Optimising an embedded gallery in a child process.

The engine's ``optimize`` holds the interpreter lock for its whole run (minutes at 100,000 points), so nothing
else in the process would move, Ctrl-C included. ``python -m siamese_search.gallery.optimiser`` is the child.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import siamese_search
from siamese_search.errors import SiameseSearchError, StoreBusyError, StoreError

_BUSY = 75  # EX_TEMPFAIL


def run_in_child(
    generation: Path,
    what: str,
    *,
    dim: int,
    index_from: int,
    wait: float,
    progress: Callable[[float], None] | None = None,
) -> bool:
    """Optimise the shard of a generation that nobody in this process holds; True if something changed.

    Raises StoreBusyError or StoreError with the child's message. On any exception here (Ctrl-C above all) the
    child is killed: the engine survives that, and removes the half-made segment when it opens next.
    """
    # The child must find this package even when it runs from a source tree.
    root = os.fspath(Path(siamese_search.__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "siamese_search.gallery.optimiser", os.fspath(generation)]
    command += ["--what", what, "--dim", str(dim), "--index-from", str(index_from), "--wait", str(wait)]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    ) as child:
        started = time.monotonic()
        try:
            while True:
                try:
                    # The child says one line at most on each stream, so the pipes cannot fill up.
                    out, err = child.communicate(timeout=0.2)
                    break
                except subprocess.TimeoutExpired:
                    if progress is not None:
                        progress(time.monotonic() - started)
        except BaseException:
            child.kill()
            raise
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        raise StoreError(f"{what}: optimising was interrupted ({name}); the gallery is usable as before")
    if child.returncode != 0:
        lines = err.decode("utf-8", "replace").strip().splitlines()
        message = lines[-1] if lines else f"optimising failed with exit code {child.returncode}"
        raise (StoreBusyError if child.returncode == _BUSY else StoreError)(message)
    return bool(json.loads(out)["changed"])


def main(arguments: Sequence[str] | None = None) -> int:
    # Default handlers: Python's would run only after the engine returns, in minutes.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parser = argparse.ArgumentParser(description="Optimise one generation of an embedded gallery.")
    parser.add_argument("generation", type=Path)
    parser.add_argument("--what", required=True)
    parser.add_argument("--dim", type=int, required=True)
    parser.add_argument(
        "--index-from", type=int, required=True, help="build an HNSW index from this many points"
    )
    parser.add_argument("--wait", type=float, required=True)
    options = parser.parse_args(arguments)
    try:
        changed = _optimise(options.generation, options.what, options.dim, options.index_from, options.wait)
    except SiameseSearchError as error:
        print(error, file=sys.stderr)
        return _BUSY if isinstance(error, StoreBusyError) else 1
    print(json.dumps({"changed": changed}))
    return 0


def _optimise(generation: Path, what: str, dim: int, index_from: int, wait: float) -> bool:
    import qdrant_edge as edge

    from siamese_search.gallery import layout
    from siamese_search.gallery.convert import shard_config, translated
    from siamese_search.gallery.locks import Turnstile

    lock = Turnstile(generation, what)
    try:
        lock.acquire(wait)
    except FileNotFoundError:
        raise StoreError(f"{what} was replaced meanwhile: run the command again") from None
    try:
        with translated(what):
            shard = edge.EdgeShard.load(os.fspath(generation / layout.SHARD), shard_config(dim, index_from))
            try:
                changed = shard.optimize()
                shard.flush()
            finally:
                shard.close()
        return changed
    finally:
        lock.release()


if __name__ == "__main__":
    sys.exit(main())
