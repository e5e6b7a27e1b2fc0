"""Ten thousand requests that mean no good, from eight connections at once."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
import urllib.parse
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the [web] extra is not installed")

from browsing import serving
from http_client import Client, multipart, snapshot

TEXTS = [
    "../../../../etc/passwd", "%2e%2e%2f" * 8, "\\..\\..", "a" * 5000, "'\";--", "{{7*7}}", "<script>x</script>",
    "%00", "%ff%fe", "\u202e".encode().decode("latin-1"), "-1", "1e999", "null", "*", "=", "camera=", "a=b,c",
    "00000000-0000-0000-0000-000000000000", "identity!=*", "x" * 990 + "=1", "[]", "${jndi:x}", "file:///etc/passwd",
]  # fmt: skip
PATHS = [
    "/", "/identity", "/identities", "/review", "/map", "/gallery", "/login", "/static/", "/search", "/undo",
    "/api/v1/search", "/api/v1/search/images", "/api/v1/labels", "/api/v1/identities", "/api/v1/identity",
    "/api/v1/images/", "/api/v1/points/", "/api/v1/undo", "/api/v1/review", "/api/v1/facets", "/metrics",
    "/api/v1/identities/merge", "/api/v1/identities/split", "/api/v1/identities/rename", "/api/v1/gallery",
]  # fmt: skip
NAMES = ["name", "text", "where", "limit", "start", "size", "color", "k", "like", "back", "edit", "q", "point"]


def hostile(draw, points, image):
    """One request: (method, target, headers, body)."""
    text = lambda: urllib.parse.quote(draw.choice(TEXTS), safe="%")  # noqa: E731
    path = draw.choice(PATHS) + (
        draw.choice([text(), draw.choice(points), "../" + text()]) if draw.random() < 0.4 else ""
    )
    if draw.random() < 0.6:
        path += "?" + "&".join(f"{draw.choice(NAMES)}={text()}" for _ in range(draw.randint(1, 4)))
    method = draw.choice(["GET", "GET", "POST", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "PATCH"])
    headers = {}
    if draw.random() < 0.3:
        headers["host"] = draw.choice(["example.org", "localhost@x", "[::1", "127.0.0.1:x", " "])
    if draw.random() < 0.4:
        headers["origin"] = draw.choice(["http://example.org", "null", "http://127.0.0.1:1", "x", "http://[::1"])
    if draw.random() < 0.3:
        headers["cookie"] = draw.choice(["sss_session=x", "=;=;=", "\xff", "a" * 3000, "sss_session_1=in.1.2.3"])
    if draw.random() < 0.2:
        headers["authorization"] = draw.choice(["Bearer ", "Basic eDp4", "Bearer " + "x" * 2000, "\xfe"])
    if draw.random() < 0.1:
        headers["content-length"] = draw.choice(["-1", "99999999999999", "x", "1e3"])
    body = None
    if method in ("POST", "PUT", "PATCH"):
        kind = draw.randrange(5)
        if kind == 0:
            fields = [*NAMES, "points", "values", "into", "names", "new", "vectors", "undo"]
            values = [draw.choice(TEXTS), -1, 1e308, None, [], {}, [[]], [draw.choice(points)], True]
            values.append({"path": "/etc/passwd"})
            words = {draw.choice(fields): draw.choice(values) for _ in range(draw.randint(0, 4))}
            body, headers["content-type"] = json.dumps(words).encode(), "application/json"
        elif kind == 1:
            body, headers["content-type"] = b"[" * draw.choice([1, 5000]), "application/json"
        elif kind == 2:
            cut = bytearray(image[: draw.randrange(len(image))])
            for _ in range(20):
                if cut:
                    cut[draw.randrange(len(cut))] = draw.randrange(256)
            body, headers["content-type"] = multipart(Path("x.jpg"), bytes(cut))
        elif kind == 3:
            body, headers["content-type"] = (draw.randbytes(draw.randrange(2000)), "multipart/form-data; boundary=x")
        else:
            body = urllib.parse.urlencode({draw.choice(NAMES): draw.choice(TEXTS)}).encode()
            headers["content-type"] = "application/x-www-form-urlencoded"
    return method, path, headers, body


@pytest.mark.slow
def test_ten_thousand_hostile_requests_change_nothing_and_crash_nothing(drawn, copied):
    """None is an inner error (500), none takes for ever, and the server and the store are as before."""
    before = snapshot(copied)
    photo = Path(next(iter(drawn.queries.values()))[0])
    image = photo.read_bytes()
    counts: dict[int | str, int] = {}
    failures = []
    with serving(copied) as address:
        client = Client(address)

        def attack(seed):
            draw = random.Random(seed)
            connection = http.client.HTTPConnection(client.host, timeout=60)
            for _ in range(1250):
                method, path, headers, body = hostile(draw, sorted(before)[:20], image)
                # A browser's page of another site; a program on this machine may write, as its user may.
                headers.setdefault("origin", "http://example.org")
                try:
                    connection.request(method, path, body, headers)
                    answer = connection.getresponse()
                    answer.read()
                    status = answer.status
                    if status >= 500:
                        failures.append((status, method, path, headers, body))
                except (http.client.HTTPException, OSError, ValueError) as error:
                    status = type(error).__name__
                    connection.close()
                    connection = http.client.HTTPConnection(client.host, timeout=60)
                counts[status] = counts.get(status, 0) + 1
            connection.close()

        threads = [threading.Thread(target=attack, args=(seed,)) for seed in range(8)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(570)
        assert not any(thread.is_alive() for thread in threads), f"not done after {time.monotonic() - began:.0f} s"
        assert not failures, failures[:3]
        assert sum(counts.values()) == 10_000
        assert "TimeoutError" not in counts, counts
        assert counts[403] > 1000, counts
        body, kind = multipart(photo)
        assert client.ask("POST", "/api/v1/search/images", body, content_type=kind)[0] == 200
    assert snapshot(copied) == before
