"""``sss serve`` as its own process on loopback: who gets in, what is refused, and how it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.parse
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the [web] extra is not installed")

from browsing import serving
from http_client import Client, multipart, snapshot

import siamese_search as sss
from siamese_search.web import server
from siamese_search.web.options import Limits, ServeOptions
from siamese_search.web.security import Security
from siamese_search.web.service import GalleryService

KEY = "correct-horse-battery"
METRICS_KEY = "count-the-horses"


@pytest.fixture(scope="module")
def open_server(drawn):
    with serving(drawn.store, "--read-only") as address:
        yield Client(address)


@pytest.fixture(scope="module")
def locked(drawn):
    variables = {"SSS_SERVE_KEY": KEY, "SSS_SERVE_METRICS_KEY": METRICS_KEY}
    with serving(drawn.store, "--read-only", **variables) as address:
        yield Client(address)


def query(drawn):
    return Path(next(iter(drawn.queries.values()))[0])


def test_a_search_over_http_is_that_of_the_command(drawn, open_server):
    body, kind = multipart(query(drawn))
    status, headers, answer = open_server.ask("POST", "/api/v1/search/images", body, content_type=kind)
    assert status == 200, answer
    (found,) = json.loads(answer)
    (expected,) = sss.search(query(drawn), store=drawn.store)
    wanted = expected.to_json() | {"query": query(drawn).name}
    for one in found["results"]:
        del one["id"]
    assert found == wanted
    assert headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("search", b"{", "the body is not JSON: expecting property name enclosed in double quotes, at character 2"),
        ("search", b"", "the body must be a JSON object, sent as application/json"),
        ("search", b"[]", "the body must be a JSON object, sent as application/json"),
        ("search", b'{"nope": 1}', "nope: nothing is called so here"),
        ("search", b'{"k": "x"}', "k: it must be a whole number"),
        ("search", b'{"k": 1.5}', "k: it must be a whole number"),
        ("search", b'{"k": 0}', "k: it must be greater than or equal to 1"),
        ("search", b'{"flip": "q"}', "flip: it must be true or false"),
        ("search", b'{"fmr": []}', "fmr: it must be a number"),
        ("search", b'{"keys": "x"}', "keys: it must be a list"),
        ("search", b'{"keys": [1]}', "keys.0: it must be text"),
        ("search", b'{"keys": ["%s"]}' % (b"x" * 1001), "keys.0: it must have at most 1000 characters"),
        ("search", b'{"keys": [%s"x"]}' % (b'"x",' * 16), "keys: it must have at most 16 items"),
        ("search", b'{"group_by": "x"}', "group_by: it must be 'identity'"),
        ("labels", b'{"points": ["x"], "values": []}', "values: it must be an object"),
        ("labels", b'{"points": ["x"]}', "values: it is missing"),
        ("review", b'{"point": "x", "answer": "x"}', "answer: it must be 'yes', 'no', 'new' or 'skip'"),
    ],
)
def test_what_a_request_lacks_is_said_in_our_words(open_server, path, body, said):
    answer = open_server.ask("POST", f"/api/v1/{path}", body, content_type="application/json")
    assert (answer[0], json.loads(answer[2])) == (422, {"error": said})


def test_what_a_form_lacks_is_said_alike(open_server):
    def form(*parts):
        lines = [f'--x\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{text}\r\n' for name, text in parts]
        body = "".join(lines) + "--x--\r\n"
        _, _, told = open_server.ask(
            "POST", "/api/v1/search/images", body, content_type="multipart/form-data; boundary=x"
        )
        return json.loads(told)["error"]

    assert form(("k", "3")) == "image: it is missing"
    assert form(("image", "a.jpg")) == "image.0: an image is sent as a file, not as text"
    assert form(("k", "")) == "image: it is missing", "what is empty is not given"
    assert open_server.json("GET", "/api/v1/facets?values=x") == (422, {"error": "values: it must be a whole number"})


def test_every_answer_has_the_headers_of_safety(open_server):
    for path in ("/", "/api/v1/facets", "/static/pages.css", "/nothing", "/healthz", "/api/v1/images/x"):
        _, headers, _ = open_server.ask("GET", path)
        policy = headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "server" not in headers


def test_head_is_what_get_says_without_the_body(open_server):
    paths = (
        "/",
        "/gallery",
        "/identity?name=nobody",
        "/healthz",
        "/static/pages.css",
        "/api/v1/facets",
        "/api/v1/undo",
    )
    for path in paths:
        (status, headers, _), (wanted, others, _) = (open_server.ask(method, path) for method in ("HEAD", "GET"))
        assert (status, headers["content-type"]) == (wanted, others["content-type"]), path
        assert headers["content-length"] == others["content-length"] or path == "/"


def test_a_page_beyond_the_last_leads_to_the_first(open_server):
    """Merges and answers make lists shorter while somebody has their last page open."""
    beyond = {
        "/identities?start=600": "/identities",
        "/identities?text=00&start=60": "/identities?text=00",
        "/review/clusters?start=120": "/review/clusters",
    }
    for path, first in beyond.items():
        status, headers, _ = open_server.ask("GET", path)
        assert (status, headers["location"]) == (303, first)
    assert b"Nobody by that name" in open_server.ask("GET", "/identities?text=xyz")[2]


def test_errors_are_one_line(open_server):
    for method, path, value, status in [
        ("GET", "/api/v1/identity?name=nobody", None, 404),
        ("GET", "/api/v1/facets?where=what", None, 400),
        ("GET", "/api/v1/images/..%2f..%2fetc%2fpasswd", None, 404),
        ("GET", "/api/v1/images/00000000-0000-0000-0000-000000000000", None, 404),
        ("POST", "/api/v1/search", {}, 400),
        ("POST", "/api/v1/search", {"points": [1]}, 422),
        ("POST", "/api/v1/undo", {"undo": "x"}, 409),
        ("DELETE", "/api/v1/gallery", None, 405),
        ("GET", "/api/v1/nothing", None, 404),
    ]:
        got, answer = open_server.json(method, path, value)
        assert (got, list(answer)) == (status, ["error"]), (path, answer)
        assert "\n" not in answer["error"]


@pytest.mark.skipif(find_spec("umap") is not None, reason="UMAP is installed")
def test_what_is_not_installed_is_the_callers_mistake(open_server):
    status, answer = open_server.json("GET", "/api/v1/map?method=umap")
    assert status == 400
    assert "needs the [umap] extra" in answer["error"]


def test_a_server_of_this_machine_is_not_reached_by_another_name(open_server):
    for host in ("example.org", "example.org:80", "127.0.0.1.example.org", "", "localhost.", "a" * 300):
        assert open_server.ask("GET", "/", host=host)[0] == 421
    for host in (open_server.host, "localhost", "LOCALHOST:99"):
        assert open_server.ask("GET", "/healthz", host=host)[0] == 200


def test_prometheus_scrapes_by_address_with_the_key_alone(open_server, locked):
    bearer = {"authorization": f"Bearer {KEY}"}
    status, _, text = locked.ask("GET", "/metrics", host="10.1.2.3:8000", **bearer)
    assert status == 200
    assert b"sss_serve_ready" in text
    assert locked.ask("GET", "/metrics", host="10.1.2.3:8000")[0] == 401
    assert locked.ask("GET", "/", host="10.1.2.3:8000", **bearer)[0] == 421
    assert open_server.ask("GET", "/metrics", host="10.1.2.3:8000")[0] == 421


def test_prometheus_needs_no_key_that_opens_more(locked):
    bearer = {"authorization": f"Bearer {METRICS_KEY}"}
    assert locked.ask("GET", "/metrics", host="10.1.2.3:8000", **bearer)[0] == 200
    for path in ("/", "/api/v1/facets", "/metrics/"):
        assert locked.ask("GET", path, **bearer)[0] == 401, path
    assert locked.json("POST", "/api/v1/undo", {"undo": "x"}, **bearer)[0] == 401


def test_pages_of_other_sites_neither_read_nor_write(drawn, open_server):
    here = f"http://{open_server.host}"
    body, kind = multipart(query(drawn))
    for headers in (
        {"origin": "http://example.org"},
        {"origin": "null"},
        {"origin": "http://[::1"},
        {"sec_fetch_site": "cross-site"},
    ):
        status, _, _ = open_server.ask("POST", "/api/v1/search/images", body, content_type=kind, **headers)
        assert status == 403
    assert open_server.ask("GET", "/api/v1/facets", sec_fetch_site="cross-site")[0] == 403
    assert open_server.ask("GET", "/", sec_fetch_site="cross-site", sec_fetch_mode="navigate")[0] == 200
    assert open_server.ask("GET", "/api/v1/facets", sec_fetch_site="same-origin", origin=here)[0] == 200


def test_a_browsers_write_needs_the_token(open_server):
    """What a page of ours sends has a cookie and a token; one without the other is refused before anything else."""
    here = f"http://{open_server.host}"
    _, headers, page = open_server.ask("GET", "/")
    cookie = headers["set-cookie"].partition(";")[0]
    assert "HttpOnly" in headers["set-cookie"]
    assert "SameSite=Strict" in headers["set-cookie"]
    token = page.decode().partition('name="csrf_token" value="')[2].partition('"')[0]
    undo = {"undo": "x"}
    assert open_server.json("POST", "/api/v1/undo", undo, origin=here)[0] == 403
    assert open_server.json("POST", "/api/v1/undo", undo, origin=here, cookie=cookie)[0] == 403
    assert open_server.json("POST", "/api/v1/undo", undo, origin=here, x_csrf_token=token)[0] == 403
    got = open_server.json("POST", "/api/v1/undo", undo, origin=here, cookie=cookie, x_csrf_token=token)
    assert got[0] == 409, "read-only, and that far it came"


def test_requests_are_bounded(drawn, open_server):
    body, kind = multipart(query(drawn), b"x" * (33 << 20))
    try:
        status, _, _ = open_server.ask("POST", "/api/v1/search/images", body, content_type=kind)
    except (BrokenPipeError, ConnectionResetError):
        status = 413  # it did not wait for the rest
    assert status == 413
    with socket.create_connection(open_server.host.split(":"), timeout=60) as raw:  # no length: counted as it comes
        raw.sendall(
            f"POST /api/v1/search HTTP/1.1\r\nhost: {open_server.host}\r\ntransfer-encoding: chunked\r\n"
            "content-type: application/json\r\n\r\n".encode()
        )
        chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
        try:
            for _ in range(40):
                raw.sendall(chunk)
        except OSError:
            pass
        else:
            assert b" 413 " in raw.recv(100)
    assert open_server.ask("GET", "/healthz")[0] == 200


def test_metrics_and_readiness(open_server):
    status, _, text = open_server.ask("GET", "/metrics")
    assert status == 200
    assert b'sss_serve_requests_total{kind="page",status="200"}' in text
    assert b"sss_serve_ready 1.0" in text
    assert open_server.ask("GET", "/readyz")[0] == 200


def test_nobody_gets_in_without_the_key(locked):
    assert locked.ask("GET", "/healthz")[0] == locked.ask("GET", "/readyz")[0] == 200
    for path in ("/api/v1/facets", "/api/v1/openapi.json", "/metrics", "/api/v1/images/x"):
        status, headers, _ = locked.ask("GET", path)
        assert (status, headers["www-authenticate"]) == (401, "Bearer")
    status, headers, _ = locked.ask("GET", "/identity?name=a%20b")
    assert (status, headers["location"]) == (303, "/login?back=%2Fidentity%3Fname%3Da%2520b")
    assert locked.ask("GET", "/api/v1/facets", authorization=f"Bearer {KEY}")[0] == 200
    assert locked.ask("GET", "/metrics", authorization=f"bearer {KEY}")[0] == 200


def test_signing_in_and_out(locked):
    here = f"http://{locked.host}"
    _, headers, page = locked.ask("GET", "/login?back=/map")
    cookie = headers["set-cookie"].partition(";")[0]
    token = page.decode().partition('name="csrf_token" value="')[2].partition('"')[0]
    form = {"content_type": "application/x-www-form-urlencoded", "origin": here, "cookie": cookie}

    def sign_in(**fields):
        return locked.ask(
            "POST", "/login", urllib.parse.urlencode({"csrf_token": token, "back": "/map", **fields}), **form
        )

    assert locked.ask("GET", "/", cookie=cookie)[0] == 303, "a session that is not signed in is none"
    assert sign_in(key="wrong")[0] == 403
    assert sign_in(key=KEY, csrf_token="")[0] == 403
    status, headers, _ = sign_in(key=KEY)
    assert (status, headers["location"]) == (303, "/map")
    form["cookie"] = headers["set-cookie"].partition(";")[0]
    status, _, page = locked.ask("GET", "/gallery", cookie=form["cookie"])
    assert status == 200
    token = page.decode().partition('name="csrf_token" value="')[2].partition('"')[0]
    status, headers, _ = locked.ask("POST", "/logout", urllib.parse.urlencode({"csrf_token": token}), **form)
    assert status == 303
    assert locked.ask("GET", "/gallery", cookie=form["cookie"])[0] == 303, "the old cookie is worth nothing"


def test_keys_cannot_be_tried_for_long(locked):
    """The last test of that server: this address has to wait then."""
    tried = [locked.ask("GET", "/api/v1/facets", authorization=f"Bearer wrong-{n}")[0] for n in range(15)]
    assert set(tried) == {401, 429}
    assert tried[-1] == 429
    assert locked.ask("GET", "/api/v1/facets", authorization=f"Bearer {KEY}")[0] == 429


def started(store, *options, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SSS_")}
    command = [sys.executable, "-m", "siamese_search", "serve", "--store", str(store), *options]
    return subprocess.Popen(
        command, env=clean | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip


@pytest.mark.parametrize(("options", "environment", "said"), [
    (["--host", "0.0.0.0"], {}, "is reached from other machines: set SSS_SERVE_KEY"),
    (["--host", "0.0.0.0"], {"SSS_SERVE_KEY": "short"}, "at least 16 letters"),
    (["--host", "192.0.2.1"], {"SSS_SERVE_KEY": KEY}, "cannot listen at 192.0.2.1"),
    ([], {"SSS_SERVE_METRICS_KEY": METRICS_KEY}, "set SSS_SERVE_KEY, too, to another one"),
    (["--port", "70000"], {}, "70000"),
])  # fmt: skip
def test_it_refuses_to_start_in_one_line(drawn, options, environment, said):
    process = started(drawn.store, *options, **environment)
    out, err = process.communicate(timeout=120)
    assert process.returncode in (1, 2)
    assert said in err
    assert err.count("\n") == 1
    assert out == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_free_port_is_named_a_taken_one_refused_and_signals_end_it(drawn, number):
    process = started(drawn.store, "--port", "0")
    try:
        address = process.stdout.readline().split()[2]
        port = urllib.parse.urlsplit(address).port
        second = started(drawn.store, "--port", str(port))
        _, err = second.communicate(timeout=120)
        assert second.returncode == 1
        assert f"port {port}: address already in use" in err
        assert err.count("\n") == 1
        assert Client(address).ask("GET", "/readyz")[0] == 200
    finally:
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")


def test_a_store_that_is_not_there_is_said_and_found_once_it_is(drawn, tmp_path):
    process = started(tmp_path / "later", "--port", "0")
    try:
        client = Client(process.stdout.readline().split()[2])
        status, _, text = client.ask("GET", "/readyz")
        assert status == 503
        assert b"later" in text
        assert client.json("GET", "/api/v1/facets")[0] == 503
        shutil.copytree(drawn.store, tmp_path / "later")
        assert client.ask("GET", "/readyz")[0] == 200
        assert client.json("GET", "/api/v1/facets")[0] == 200
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_a_gallery_that_is_dropped_under_it_makes_it_not_ready_until_there_is_one_again(drawn, copied):
    with serving(copied) as address:
        client = Client(address)
        shutil.move(copied, copied.with_name("aside"))
        assert client.ask("GET", "/gallery")[0] == 503
        status, _, said = client.ask("GET", "/readyz")
        assert (status, b"no store" in said) == (503, True)
        assert b"sss_serve_ready 0.0" in client.ask("GET", "/metrics")[2]
        shutil.move(copied.with_name("aside"), copied)
        assert client.ask("GET", "/readyz")[0] == 200
        assert client.ask("GET", "/gallery")[0] == 200


def test_nobody_is_asked_for_a_key_where_there_is_none(open_server):
    status, headers, _ = open_server.ask("GET", "/login?back=/map")
    assert (status, headers["location"]) == (303, "/map")


def test_others_write_under_it_and_it_is_stopped_and_started_meanwhile(drawn, copied, tmp_path):
    more = tmp_path / "more"
    more.mkdir()
    for number, path in enumerate(sorted((drawn.place / "demo" / "gallery").glob("*.jpg"))[:30]):
        (more / f"again{number}.jpg").write_bytes(path.read_bytes())
    before = len(snapshot(copied))
    ingest = [sys.executable, "-m", "siamese_search", "ingest", str(more), "--store", str(copied)]
    with subprocess.Popen([*ingest, "--batch-size", "2"], stderr=subprocess.DEVNULL) as writer:
        for _ in range(2):
            with serving(copied) as address:
                client = Client(address)
                status, found = client.json("GET", "/api/v1/identities?limit=1")
                assert status == 200
                name = found["identities"][0]["name"]
                status, edit = client.json("POST", "/api/v1/identities/rename", {"name": name, "new": "somebody"})
                assert status == 200, edit
                assert client.json("POST", "/api/v1/undo", {"undo": edit["undo"]})[0] == 200
        assert writer.wait(120) == 0
    assert len(snapshot(copied)) == before + 30
    with serving(copied) as address:
        client = Client(address)
        assert client.json("GET", "/api/v1/gallery")[1]["facts"]["points"] == before + 30
        sss.reindex(store=copied, keep_vectors=True, storage="float16")
        sss.drop_old(store=copied)
        facts = client.json("GET", "/api/v1/gallery")[1]["facts"]
        assert facts["points"] == before + 30
        assert facts["storage"]["dtype" if "dtype" in facts["storage"] else "vectors"] == "float16"
        body, kind = multipart(query(drawn))
        assert client.ask("POST", "/api/v1/search/images", body, content_type=kind)[0] == 200


def test_who_sends_no_whole_request_keeps_no_place(drawn, monkeypatch):
    monkeypatch.setattr(server, "own_signals", lambda _: nullcontext())
    service = GalleryService(ServeOptions(store=str(drawn.store)), Limits(arrival=0.3))
    running = server._server(service, Security(None))
    starts = (b"", b"GET / HTTP/1.1\r\nhost: localhost\r\n", b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\nGET /")
    with server._listen("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            for start in starts:
                with socket.create_connection(listening.getsockname(), timeout=20) as visitor:
                    visitor.sendall(start)
                    answer = b"".join(iter(lambda: visitor.recv(65536), b""))
                    assert answer.startswith(b"HTTP/1.1 200 OK" if start.endswith(b"GET /") else b""), answer
        finally:
            running.should_exit = True
            thread.join(20)
            service.close()
