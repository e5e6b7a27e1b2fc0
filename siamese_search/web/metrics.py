"""The metrics of the server, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_KINDS = (
    ("/api/", "api"),
    ("/static/", "static"),
    ("/image", "image"),
    ("/healthz", "probe"),
    ("/readyz", "probe"),
)


class Metrics:
    """Counters in a registry of their own, so that several can live in one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "sss_serve_requests", "Requests by kind and status.", ["kind", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "sss_serve_request_seconds", "Seconds until the answer was sent.", ["kind"], buckets=_BUCKETS,
            registry=self._registry,
        )  # fmt: skip
        self._ready = Gauge("sss_serve_ready", "Whether the gallery answers.", registry=self._registry)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """One request has its answer."""
        kind = next((kind for start, kind in _KINDS if path.startswith(start)), "page")
        self._requests.labels(kind, str(status)).inc()
        self._seconds.labels(kind).observe(seconds)

    def text(self, *, ready: bool) -> bytes:
        """In Prometheus' format."""
        self._ready.set(ready)
        return generate_latest(self._registry)
