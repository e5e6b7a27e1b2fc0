"""Searches over HTTP (``sss serve``) against embedding alone: latency, memory, and start to first answer.

    python benchmarks/serve.py [--images 13000] [--requests 40] [--threads 1] [--starts 3]

Fills a gallery with random unit vectors of the bundled model's dimension (no images are embedded for it) and sends
drawn photographs to ``/api/v1/search/images``, from 1, 4 and 16 clients that each keep one connection and wait for
each answer, to its last byte. Embedding alone is the same network in a process of its own with as many threads: one
file read, decoded and embedded. It takes turns with the searches of the one client, image by image, for a machine that
others use is fast for a minute and slow for the next. Both are given as CPU time, too. A start is from the process's
first instruction to a whole answer of its first search, which is asked for as soon as the port is named; the store's
files are in the page cache, and modules compiled, as they are where a wheel was installed.

Prints a table and writes benchmarks/results/serve.json; ``--requests 0`` measures starts alone, and leaves the rest of
that file as it is.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from handle import drawn_photos, fill  # noqa: E402

RESULTS = HERE / "results" / "serve.json"
CLIENTS = (1, 4, 16)
#: Of the processes: they may keep compiled modules, whatever holds for this one.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
ENVIRONMENT["PYTHONPATH"] = str(HERE.parent)
_EMBED = """
import json, sys, time
import numpy as np
from siamese_search.io.images import read_image
from siamese_search.model.bundle import load_bundle
from siamese_search.workspace import load
bundle = load_bundle(None)
network = load(bundle, "cpu", int(sys.argv[1]))
for line in sys.stdin:
    began, used = time.perf_counter(), time.process_time()
    network.embed(read_image(line.strip(), bundle.input_size)[None])
    print(json.dumps([time.perf_counter() - began, time.process_time() - used]), flush=True)
"""


class Embedding:
    """The network alone, in a process of its own."""

    def __init__(self, threads: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _EMBED, str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT,
        )  # fmt: skip
        self.seconds: list[tuple[float, float]] = []  # of each image, passed and of CPU

    def embed(self, photo: Path) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(photo, file=self._process.stdin, flush=True)
        self.seconds.append(json.loads(self._process.stdout.readline()))

    def stop(self) -> None:
        self._process.communicate()


def body_of(photo: Path) -> bytes:
    head = f'--x\r\ncontent-disposition: form-data; name="image"; filename="{photo.name}"\r\n\r\n'
    return head.encode() + photo.read_bytes() + b"\r\n--x--\r\n"


class Server:
    """``sss serve`` in a process of its own. started, started_cpu: seconds to its first answer."""

    def __init__(self, store: str, threads: int, photo: Path) -> None:
        began = time.perf_counter()
        command = [sys.executable, "-m", "siamese_search", "serve", "--store", store, "--port", "0"]
        self._process = subprocess.Popen(
            [*command, "--threads", str(threads), "--read-only"],
            stdout=subprocess.PIPE, text=True, env=ENVIRONMENT,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.place = urlsplit(self._process.stdout.readline().split()[2]).netloc
        self.search(http.client.HTTPConnection(self.place, timeout=120), photo)
        self.started, self.started_cpu = time.perf_counter() - began, self.cpu()

    def search(self, connection: http.client.HTTPConnection, photo: Path) -> float:
        began = time.perf_counter()
        headers = {"content-type": "multipart/form-data; boundary=x"}
        connection.request("POST", "/api/v1/search/images", body_of(photo), headers)
        answer = connection.getresponse()
        text = answer.read()
        seconds = time.perf_counter() - began
        if answer.status != 200 or len(json.loads(text)[0]["results"]) != 10:
            raise SystemExit(f"{answer.status}: {text[:300]!r}")
        return seconds

    def load(self, clients: int, photos: list[Path], between: Callable[[Path], None]) -> list[float]:
        """Seconds of each request; each photo is asked for once. between: done before each."""
        seconds: list[float] = []
        waiting = iter(photos)
        turn = threading.Lock()

        def ask() -> None:
            connection = http.client.HTTPConnection(self.place, timeout=120)
            while True:
                with turn:
                    photo = next(waiting, None)
                if photo is None:
                    return connection.close()
                between(photo)
                seconds.append(self.search(connection, photo))

        threads = [threading.Thread(target=ask) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return seconds

    def cpu(self) -> float:
        """Seconds of CPU so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> dict[str, int]:
        """MiB: what is its own alone (unique), and all that is resident, mapped files too."""
        text = Path(f"/proc/{self._process.pid}/smaps_rollup").read_text()
        kib = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines()[1:]}
        return {"unique": (kib["Private_Clean"] + kib["Private_Dirty"]) >> 10, "resident": kib["Rss"] >> 10}

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)


def machine() -> dict[str, Any]:
    cores = f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores"
    return {"machine": f"{platform.machine()}, {cores}", "load_average": round(os.getloadavg()[0], 1)}


def quantile(seconds: list[float], share: float) -> float:
    return sorted(seconds)[min(len(seconds) - 1, int(share * len(seconds)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=13_000)
    parser.add_argument("--requests", type=int, default=40, help="for each number of clients; 0: starts only")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--starts", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sss-serve-") as directory:
        store = os.path.join(directory, "store")  # noqa: PTH118
        fill(store, arguments.images)
        photos = drawn_photos(Path(directory), max(arguments.requests, 1))
        ENVIRONMENT["PYTHONPYCACHEPREFIX"] = os.path.join(directory, "compiled")  # noqa: PTH118
        started = []
        for _ in range(arguments.starts + 1):  # the first compiles
            server = Server(store, arguments.threads, photos[0])
            started.append((server.started, server.started_cpu))
            server.stop()
        starts, used = zip(*started[1:], strict=True)
        print(f"start to first answer: {min(starts):.2f} s, {min(used):.2f} s of CPU (least of {len(starts)})")
        document = json.loads(RESULTS.read_text()) | {
            "start": {
                "images": arguments.images,
                "threads": arguments.threads,
                "seconds": [round(one, 2) for one in starts],
                "cpu_seconds": [round(one, 2) for one in used],
                **machine(),
            }
        }
        if not arguments.requests:
            RESULTS.write_text(json.dumps(document, indent=2) + "\n")
            return
        alone = Embedding(arguments.threads)
        server = Server(store, arguments.threads, photos[0])
        for photo in photos[:3]:  # to warm up
            alone.embed(photo)
            server.load(1, [photo], lambda _: None)
        alone.seconds.clear()
        results: dict[str, Any] = {}
        for clients in CLIENTS:
            used_before = server.cpu()
            seconds = server.load(clients, photos, alone.embed if clients == 1 else lambda _: None)
            results[str(clients)] = {
                "p50_ms": round(1000 * statistics.median(seconds), 1),
                "p95_ms": round(1000 * quantile(seconds, 0.95), 1),
                "per_second": round(clients / statistics.mean(seconds), 1),
                "cpu_ms": round(1000 * (server.cpu() - used_before) / len(seconds), 1),
            }
        memory = server.memory()
        server.stop()
        alone.stop()
    embed, embed_cpu = (1000 * statistics.median(column) for column in zip(*alone.seconds, strict=True))
    for one in results.values():
        one["p50_to_embedding"] = round(one["p50_ms"] / embed, 2)
        one["cpu_to_embedding"] = round(one["cpu_ms"] / embed_cpu, 2)
    print(f"{'clients':>8} {'p50 ms':>8} {'p95 ms':>8} {'/s':>6} {'p50 / embedding':>16} {'CPU / embedding':>16}")
    for name, one in results.items():
        print(
            f"{name:>8} {one['p50_ms']:8.1f} {one['p95_ms']:8.1f} {one['per_second']:6.1f}"
            f" {one['p50_to_embedding']:16.2f} {one['cpu_to_embedding']:16.2f}"
        )
    print(f"embedding alone {embed:.1f} ms; memory {memory['unique']} MiB, {memory['resident']} MiB with files")
    document |= {
        "images": arguments.images,
        "requests": arguments.requests,
        "threads": arguments.threads,
        **machine(),
        "embedding_p50_ms": round(embed, 1),
        "embedding_p95_ms": round(1000 * quantile([one for one, _ in alone.seconds], 0.95), 1),
        "embedding_cpu_ms": round(embed_cpu, 1),
        "clients": results,
        "memory_mib": memory,
    }
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
