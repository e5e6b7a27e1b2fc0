"""The compose files: valid, pinned, confined, closed to the network, and true to Qdrant and to ``sss``."""

from __future__ import annotations

import ipaddress
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from siamese_search import __version__
from siamese_search.errors import UsageError
from siamese_search.gallery.qdrant.address import check_encryption, gets_key, parse_address
from siamese_search.gallery.qdrant.connection import OLDEST_VERSION
from siamese_search.settings import Settings, load_settings

Compose = Callable[[str], dict[str, Any]]
STACKS = ["compose.yaml", "compose.cluster.yaml"]
FILES = [*STACKS, "compose.cuda.yaml"]
#: Laid over a stack; what is in it is in test_serve.py.
LAID_OVER = "compose.serve.yaml"


def nodes(stack: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: one for name, one in stack["services"].items() if name.startswith("qdrant")}


def worker_settings(deploy: Path, stack: dict[str, Any], tmp_path: Path) -> Settings:
    """The settings that ``sss`` finds in the worker."""
    worker = stack["services"]["worker"]
    for use in worker.get("configs", []):
        assert use["target"] == f"{worker['working_dir']}/sss.toml"
        text = (deploy / stack["configs"][use["source"]]["file"]).read_text(encoding="utf-8")
        (tmp_path / "sss.toml").write_text(text)
    return load_settings(tmp_path, worker["environment"])


def valid(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("name", [*FILES, LAID_OVER])
def test_a_file_follows_the_compose_specification(deploy: Path, name: str) -> None:
    checked = valid(deploy / name)
    assert checked.returncode == 0, checked.stdout


def test_the_specification_notices_a_key_that_is_none(deploy: Path, tmp_path: Path) -> None:
    text = (deploy / "compose.yaml").read_text(encoding="utf-8")
    (tmp_path / "compose.yaml").write_text(text.replace("mem_limit:", "memory_limit:"))
    assert "memory_limit" in valid(tmp_path / "compose.yaml").stdout


def test_every_compose_file_is_tested(deploy: Path) -> None:
    assert {path.name for path in deploy.glob("*.y*ml")} == {*FILES, LAID_OVER}


@pytest.mark.parametrize("name", FILES)
def test_images_are_pinned(load_compose: Compose, name: str) -> None:
    for service, one in load_compose(name)["services"].items():
        image, _, tag = one["image"].partition(":")
        if service == "worker":
            assert (image, tag.removesuffix("-cuda")) == ("siamese-search", __version__)
        else:
            version = re.fullmatch(r"v(\d+)\.(\d+)\.\d+", tag)
            assert image == "qdrant/qdrant"
            assert version
            assert (int(version[1]), int(version[2])) >= OLDEST_VERSION


@pytest.mark.parametrize("name", FILES)
def test_the_workers_image_is_built_from_a_target_that_exists(deploy: Path, load_compose: Compose, name: str) -> None:
    worker = load_compose(name)["services"]["worker"]
    stages = re.findall(r" AS (\S+)$", (deploy / "Dockerfile").read_text(encoding="utf-8"), re.M)
    assert worker["build"]["target"] in stages
    assert worker["image"].endswith("-cuda") == (worker["build"]["target"] == "cuda")
    if "context" in worker["build"]:
        assert (deploy / worker["build"]["context"] / worker["build"]["dockerfile"]).is_file()


@pytest.mark.parametrize("name", STACKS)
def test_everything_that_is_named_is_defined(deploy: Path, load_compose: Compose, name: str) -> None:
    stack = load_compose(name)
    used: dict[str, set[str]] = {"volumes": set(), "secrets": set(), "networks": set(), "configs": set()}
    for one in stack["services"].values():
        assert set(one.get("depends_on", {})) <= set(stack["services"])
        used["secrets"] |= set(one.get("secrets", []))
        used["networks"] |= set(one["networks"])
        used["configs"] |= {use["source"] for use in one.get("configs", [])}
        used["volumes"] |= {use.split(":")[0] for use in one["volumes"] if isinstance(use, str)}
    for kind, names in used.items():
        assert names == set(stack.get(kind, {})), kind
    for config in stack.get("configs", {}).values():
        assert (deploy / config["file"]).is_file()


@pytest.mark.parametrize("name", STACKS)
def test_services_are_confined_and_limited(load_compose: Compose, name: str) -> None:
    stack = load_compose(name)
    for service in stack["services"].values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not {"privileged", "pid", "ipc", "network_mode", "devices"} & set(service)
        assert {"mem_limit", "cpus", "pids_limit"} <= set(service)
    worker = stack["services"]["worker"]
    assert worker["read_only"] is True
    assert int(worker["user"].split(":")[0]) > 0
    [images] = worker["volumes"]
    assert images["read_only"] is True
    assert images["source"] == images["target"]


@pytest.mark.parametrize("name", STACKS)
def test_ports_are_bound_to_loopback_and_collide_with_no_other(load_compose: Compose, name: str) -> None:
    published = []
    for node in nodes(load_compose(name)).values():
        bound = [re.fullmatch(r"([\d.]+):(\d+):(\d+)", port) for port in node["ports"]]
        assert all(one and ipaddress.ip_address(one[1]).is_loopback and one[2] == one[3] for one in bound)
        assert [one[3] for one in bound if one] == ["6333", "6334"]  # the peers' 6335 stays inside
        published += node["ports"]
    assert len(published) == len(set(published))
    # The worker's metrics, at the port that it serves them at; inside the container on all addresses.
    worker = load_compose(name)["services"]["worker"]
    assert worker["ports"] == ["127.0.0.1:9464:9464"]
    assert {"--metrics-port=9464", "--metrics-host=0.0.0.0"} < set(worker["command"])


@pytest.mark.parametrize("name", STACKS)
def test_the_worker_waits_for_healthy_nodes_and_watches_what_is_mounted(
    load_compose: Compose, name: str, worker_accepts: Callable[[list[str]], None]
) -> None:
    stack = load_compose(name)
    worker = stack["services"]["worker"]
    assert worker["depends_on"] == {node: {"condition": "service_healthy"} for node in nodes(stack)}
    assert not {"entrypoint", "healthcheck", "profiles"} & set(worker)  # the image's own; it runs with `up`
    worker_accepts(worker["command"])
    assert worker["command"][0] == worker["volumes"][0]["target"]
    assert "--watch" in worker["command"]
    assert worker["restart"] == "unless-stopped"
    assert worker["tmpfs"] == ["/tmp"]  # of its read-only file system the place of the health file


@pytest.mark.parametrize("name", STACKS)
def test_the_worker_reaches_its_store_with_the_key(
    deploy: Path, load_compose: Compose, name: str, tmp_path: Path
) -> None:
    stack = load_compose(name)
    worker = stack["services"]["worker"]
    settings = worker_settings(deploy, stack, tmp_path)
    address = parse_address(settings.store)
    aliases = {alias for node in nodes(stack).values() for alias in _aliases(node["networks"], worker["networks"])}
    assert address.host in aliases | set(nodes(stack))
    assert worker["environment"]["NO_PROXY"] == worker["environment"]["no_proxy"] == address.host
    check_encryption(address, settings)
    with pytest.raises(UsageError, match="plain HTTP"):
        check_encryption(address, load_settings(tmp_path, {"SSS_STORE": settings.store}))
    assert gets_key(address, settings)
    [secret] = worker["secrets"]
    assert worker["environment"]["SSS_API_KEY_FILE"] == f"/run/secrets/{secret}"


def _aliases(networks: Any, shared: list[str]) -> list[str]:
    if isinstance(networks, list):
        return []
    return [alias for name in shared for alias in networks[name].get("aliases", [])]


def test_cluster_settings_fit_the_nodes(deploy: Path, load_compose: Compose, tmp_path: Path) -> None:
    stack = load_compose("compose.cluster.yaml")
    server = worker_settings(deploy, stack, tmp_path).server
    count = len(nodes(stack))
    assert count == 3
    assert server.replicas == 2
    assert server.shards % count == 0
    assert server.shards > 0
    assert 0 < server.write_consistency <= server.replicas - 1  # writes outlive a node


@pytest.mark.parametrize("name", STACKS)
def test_nodes_keep_their_data_and_differ_only_where_they_must(load_compose: Compose, name: str) -> None:
    stack = load_compose(name)
    kept = [volume for node in nodes(stack).values() for volume in node["volumes"]]
    assert all(volume.endswith(":/qdrant/storage") for volume in kept)
    assert len(set(kept)) == len(kept) == len(nodes(stack))
    rest = [
        {key: value for key, value in node.items() if key not in ("environment", "ports", "volumes", "depends_on")}
        for node in nodes(stack).values()
    ]
    assert all(one == rest[0] for one in rest)


def started(tmp_path: Path, node: dict[str, Any]) -> list[str]:
    """What the node's entry point hands to Qdrant: the key, then each argument."""
    (tmp_path / "key").write_text("the-key\n")
    stub = tmp_path / "entrypoint.sh"
    stub.write_text('#!/bin/sh\nprintf "%s\\n" "$QDRANT__SERVICE__API_KEY" "$@"\n')
    stub.chmod(0o755)
    *shell, script = node["entrypoint"]
    assert "/run/secrets/api_key" in script
    done = subprocess.run(
        [*shell, script.replace("/run/secrets/api_key", str(tmp_path / "key"))],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", **node["environment"]},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout.splitlines()


def test_one_node_starts_with_the_key_of_the_file(load_compose: Compose, tmp_path: Path) -> None:
    assert started(tmp_path, load_compose("compose.yaml")["services"]["qdrant"]) == ["the-key"]


def test_a_node_without_its_key_does_not_start(load_compose: Compose, tmp_path: Path) -> None:
    node = load_compose("compose.yaml")["services"]["qdrant"]
    node["entrypoint"][-1] = node["entrypoint"][-1].replace("api_key)", "api_key.gone)")
    with pytest.raises(subprocess.CalledProcessError):
        started(tmp_path, node)


def test_the_first_node_founds_the_cluster_and_the_others_join_it(load_compose: Compose, tmp_path: Path) -> None:
    stack = load_compose("compose.cluster.yaml")
    for name, node in nodes(stack).items():
        assert node["environment"]["QDRANT__CLUSTER__ENABLED"] == "true"
        port = node["environment"]["QDRANT__CLUSTER__P2P__PORT"]
        joins = [] if name == "qdrant-1" else ["--bootstrap", f"http://qdrant-1:{port}"]
        assert started(tmp_path, node) == ["the-key", "--uri", f"http://{name}:{port}", *joins]
    first = nodes(stack)["qdrant-1"]
    first["environment"]["JOIN"] = "http://qdrant-2:6335"
    assert started(tmp_path, first)[3:] == ["--bootstrap", "http://qdrant-2:6335"]


@contextmanager
def ready_server(status: int) -> Iterator[int]:
    """The port of a server that answers /readyz with a status, and everything else with 404."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_health_is_what_qdrant_says(load_compose: Compose, name: str, status: int, healthy: bool) -> None:
    for node in nodes(load_compose(name)).values():
        kind, *command = node["healthcheck"]["test"]
        assert kind == "CMD"
        with ready_server(status) as port:
            command[-1] = command[-1].replace("/6333", f"/{port}")
            checked = subprocess.run(command, capture_output=True, timeout=30)
        assert (checked.returncode == 0) == healthy
        assert subprocess.run(command, capture_output=True, timeout=30).returncode != 0  # nobody there
