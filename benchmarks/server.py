"""How fast points are converted and sent to a Qdrant server: into a sink that parses them and forgets them.

    python benchmarks/server.py [--points 60000] [--dim 512] [--out benchmarks/results/server.json]

The sink is a process of its own behind gRPC, so that what is measured is our side: checks, checksums, field types,
conversion, sending. qdrant-client's ``upload_points`` sends the same points to the same sink for comparison, from
numpy rows and plain dicts as a caller holds them. Rounds alternate; the table shows the best of each and all.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from siamese_search.gallery.contract import ModelRef
from siamese_search.gallery.qdrant.store import connect
from siamese_search.io.files import atomic_write_text
from siamese_search.settings import ServerSettings, Settings

PROJECT = Path(__file__).resolve().parents[1]
HELLO = {"title": "qdrant - vector search engine", "version": "1.16.0"}


def sink(dim: int) -> None:
    """Answer as little of the protocol as a writer needs; print the two ports; end with standard input."""
    import grpc
    from qdrant_client import QdrantClient, models
    from qdrant_client import grpc as pb
    from qdrant_client.conversions.conversion import RestToGrpc

    empty = QdrantClient(":memory:")
    empty.create_collection("x", vectors_config=models.VectorParams(size=dim, distance=models.Distance.DOT))
    info = RestToGrpc.convert_collection_info(empty.get_collection("x"))
    metadata: dict[str, Any] = {}
    done = pb.PointsOperationResponse(result=pb.UpdateResult(status=pb.UpdateStatus.Completed))

    def create(request: Any) -> Any:
        metadata.update(request.metadata)
        return pb.CollectionOperationResponse(result=True)

    def get(request: Any) -> Any:
        if not metadata:
            raise KeyError(request.collection_name)
        reply = pb.GetCollectionInfoResponse(result=info)
        for key, value in metadata.items():
            reply.result.config.metadata[key].CopyFrom(value)
        return reply

    handlers: dict[str, tuple[Any, Callable[[Any], Any]]] = {
        "/qdrant.Qdrant/HealthCheck": (pb.HealthCheckRequest, lambda _: pb.HealthCheckReply(**HELLO)),
        "/qdrant.Points/Upsert": (pb.UpsertPoints, lambda _: done),
        "/qdrant.Points/CreateFieldIndex": (pb.CreateFieldIndexCollection, lambda _: done),
        "/qdrant.Collections/Create": (pb.CreateCollection, create),
        "/qdrant.Collections/Update": (pb.UpdateCollection, create),
        "/qdrant.Collections/Get": (pb.GetCollectionInfoRequest, get),
        "/qdrant.Collections/List": (pb.ListCollectionsRequest, lambda _: pb.ListCollectionsResponse()),
        "/qdrant.Collections/UpdateAliases": (pb.ChangeAliases, lambda _: pb.CollectionOperationResponse(result=True)),
    }

    class Calls(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            message, action = handlers[details.method]

            def answer(request: Any, context: Any) -> Any:
                try:
                    return action(request)
                except KeyError:
                    context.abort(grpc.StatusCode.NOT_FOUND, "Not found: the sink is empty")

            return grpc.unary_unary_rpc_method_handler(
                answer,
                request_deserializer=message.FromString,
                response_serializer=lambda reply: reply.SerializeToString(),
            )

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(HELLO).encode())

        def log_message(self, *_args: object) -> None:
            pass

    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((Calls(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    pages = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    print(port, pages.server_address[1], flush=True)
    sys.stdin.read()


def make(points: int, dim: int) -> tuple[list[str], np.ndarray, list[dict[str, Any]]]:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((points, dim), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ids = [str(uuid.UUID(bytes=rng.bytes(16))) for _ in range(points)]
    payloads = [
        {
            "identity": f"{i % 751:05d}",
            "camera": str(i % 6),
            "source": "/data/gallery",
            "key": f"{i % 751:05d}/{i:08d}.jpg",
            "path": f"/data/gallery/{i % 751:05d}/{i:08d}.jpg",
            "size": 2000 + i % 5000,
            "mtime_ns": 1_700_000_000_000_000_000 + i,
        }
        for i in range(points)
    ]
    return ids, rows, payloads


def measure(points: int, dim: int, rounds: int, ports: tuple[int, int]) -> dict[str, Any]:
    from qdrant_client import QdrantClient, models

    ids, rows, payloads = make(points, dim)
    settings = Settings(server=ServerSettings(grpc_port=ports[0]))
    url = f"http://127.0.0.1:{ports[1]}"
    store = connect(url, settings=settings)
    client = QdrantClient(url=url, grpc_port=ports[0], prefer_grpc=True, check_compatibility=False)
    gallery = store.open("benchmark", model=ModelRef("0" * 64, dim, "benchmark"), create=True, mode="w")

    def ours() -> None:
        for start in range(0, points, 1000):
            part = slice(start, start + 1000)
            gallery.upsert(ids[part], rows[part], payloads[part])

    def theirs() -> None:
        structs = (models.PointStruct(id=i, vector=v, payload=p) for i, v, p in zip(ids, rows, payloads))
        client.upload_points("benchmark", structs, batch_size=1000, parallel=1, wait=True)

    actions = {"ServerGallery.upsert": ours, "upload_points": theirs}
    rates: dict[str, list[float]] = {name: [] for name in actions}
    cpu: dict[str, list[float]] = {name: [] for name in actions}
    for action in actions.values():
        action()  # warm
    for _ in range(rounds):
        for name, action in actions.items():
            started, worked = time.perf_counter(), time.process_time()
            action()
            cpu[name].append((time.process_time() - worked) / points * 1e6)
            rates[name].append(points / (time.perf_counter() - started))
    gallery.close()
    return {
        "points": points,
        "dim": dim,
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "points_per_second": {name: [round(one) for one in values] for name, values in rates.items()},
        # This process's processor time, which suffers little from a busy machine.
        "cpu_microseconds_per_point": {name: round(min(values), 1) for name, values in cpu.items()},
        "best": {name: round(max(values)) for name, values in rates.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=60_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=PROJECT / "benchmarks" / "results" / "server.json")
    parser.add_argument("--sink", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.sink:
        sink(options.dim)
        return
    command = [sys.executable, __file__, "--sink", "--dim", str(options.dim)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        grpc_port, rest_port = map(int, process.stdout.readline().split())
        result = measure(options.points, options.dim, options.rounds, (grpc_port, rest_port))
        process.stdin.close()
    for name, best in result["best"].items():
        cpu = result["cpu_microseconds_per_point"][name]
        print(f"{name:22}{best:>9,} points/s  {cpu:>6.1f} us cpu  {result['points_per_second'][name]}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(options.out, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
