"""The verbs against a URL, as a user types them, in processes of their own.

The endpoint is the gallery tests' stub (qdrant-client's in-memory mode behind sockets): what is shown is that every
verb takes a URL, not how a server answers.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import warnings
from pathlib import Path

import pytest

GALLERY_TESTS = Path(__file__).resolve().parents[1] / "gallery"
KEY = "s3cret-of-the-server"


def load(name):
    spec = importlib.util.spec_from_file_location(f"gallery_tests_{name}", GALLERY_TESTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def server():
    warnings.simplefilter("ignore")
    memory, wire = load("memory"), load("wire")
    running = wire.Server(memory.memory_client(), key=KEY)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def env(server, tmp_path_factory):
    """A user who has told his settings where gRPC is, and has the key in a private file."""
    home = tmp_path_factory.mktemp("home")
    (home / "sss").mkdir()
    (home / "sss" / "sss.toml").write_text(f"[server]\ngrpc_port = {server.grpc_port}\nwait = 5\n")
    (home / "key").write_text(KEY)
    (home / "key").chmod(0o600)
    return {
        "XDG_CONFIG_HOME": str(home),
        "SSS_API_KEY_FILE": str(home / "key"),
        "SSS_STORE": f"http://127.0.0.1:{server.rest_port}",
    }


def answer(result, code=0):
    assert result.returncode == code, result.stderr
    assert KEY not in result.stdout + result.stderr
    return json.loads(result.stdout)


def test_every_verb_takes_a_url(sss, demo, tiny_bundle, env, server, tmp_path):
    def run(*args):
        return sss(*args, env=env, cwd=tmp_path)

    first = answer(run("ingest", demo / "gallery", "--model", tiny_bundle.path, "--json"))
    assert first["new"] == first["seen"] > 0
    assert first["store"] == env["SSS_STORE"]
    again = answer(run("ingest", demo / "gallery", "--json"))
    assert (again["new"], again["unchanged"]) == (0, first["seen"])

    query = sorted((demo / "queries").glob("*.jpg"))[0]
    there = answer(run("search", query, "-k", "3", "--format", "json"))
    local = tmp_path / "local"
    answer(run("ingest", demo / "gallery", "--model", tiny_bundle.path, "--store", local, "--json"))
    here = answer(run("search", query, "-k", "3", "--format", "json", "--store", local))
    assert [one["key"] for one in there[0]["results"]] == [one["key"] for one in here[0]["results"]]

    assert answer(run("info", "--json"))["galleries"][0]["points"] == first["seen"]
    listed = answer(run("info", "--json"))["galleries"][0]
    assert (listed["engine"], listed["size_bytes"], listed["resident_bytes"]) == ("qdrant", None, None)
    for shown in (run("info"), run("info", "--gallery", "default")):
        assert (shown.returncode, " 0 B" in shown.stdout) == (0, False), shown.stderr
    assert not list(tmp_path.glob(".sss"))


def test_failures_are_one_line_without_the_key(sss, env, server, tmp_path):
    url = env["SSS_STORE"]
    wrong = {"XDG_CONFIG_HOME": env["XDG_CONFIG_HOME"], "SSS_API_KEY": "not-" + KEY[:8]}
    (tmp_path / "sss.toml").write_text(f'store = "{url}"\n')
    cases = [
        (sss("info", "--store", url, env=wrong), 1, "the key is wrong"),
        (sss("info", "--store", url, env=wrong, cwd=tmp_path), 1, "was not sent"),
        (sss("info", "--store", "http://192.0.2.1:6333", env=env), 2, "--insecure"),
        (sss("info", "--store", f"https://me:{KEY}@host", env=env), 2, "holds credentials"),
        (sss("info", "--store", "ftp://host", env=env), 2, "http:// or https://"),
    ]
    for result, code, words in cases:
        assert (result.returncode, result.stdout) == (code, ""), result.stderr
        lines = result.stderr.strip().splitlines()
        assert len(lines) == 1, result.stderr
        assert words in lines[0]
        assert KEY not in result.stderr
        assert wrong["SSS_API_KEY"] not in result.stderr
