"""deploy/compose.serve.yaml: the web service, laid over the other stacks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from siamese_search import __version__
from siamese_search.cli.main import command_of

Compose = Callable[[str], dict[str, Any]]


@pytest.fixture
def serve(load_compose: Compose) -> dict[str, Any]:
    found: dict[str, Any] = load_compose("compose.serve.yaml")["services"]["serve"]
    return found


def test_it_runs_a_command_that_exists_with_options_that_it_has(serve: dict[str, Any]) -> None:
    assert serve["entrypoint"] == ["sss", "serve"]
    context = command_of("serve").make_context("sss serve", list(serve["command"]))
    assert context.params["host"] == "0.0.0.0"
    assert serve["ports"] == [f"127.0.0.1:{context.params['port']}:{context.params['port']}"]
    [key] = [name for name in serve["secrets"] if name != "api_key"]
    assert context.params["key_file"] == f"/run/secrets/{key}"
    assert f":{context.params['port']}/healthz" in " ".join(serve["healthcheck"]["test"])


@pytest.mark.parametrize("stack", ["compose.yaml", "compose.cluster.yaml"])
def test_it_reaches_the_store_and_the_images_as_the_worker_does(
    load_compose: Compose, serve: dict[str, Any], stack: str
) -> None:
    whole = load_compose(stack)
    worker = whole["services"]["worker"]
    assert serve["environment"] == worker["environment"]
    for shared in ("user", "volumes", "networks", "cap_drop", "security_opt", "read_only", "tmpfs", "image"):
        assert serve[shared] == worker[shared], shared
    assert set(serve["depends_on"]) <= set(whole["services"])
    laid = load_compose("compose.serve.yaml")
    assert set(serve["secrets"]) == set(whole["secrets"]) | set(laid["secrets"])
    published = [port for one in whole["services"].values() for port in one.get("ports", [])]
    assert not set(serve["ports"]) & set(published)
    assert {"mem_limit", "cpus", "pids_limit"} <= set(serve)


def test_its_image_has_what_it_imports_and_no_key_enters_the_build(deploy: Path, serve: dict[str, Any]) -> None:
    assert serve["image"] == f"siamese-search:{__version__}"
    text = (deploy / "Dockerfile").read_text(encoding="utf-8")
    installs = [line for line in text.splitlines() if "pip install" in line]
    assert installs
    assert all("web]" in line for line in installs)
    ignored = (deploy / ".gitignore").read_text(encoding="utf-8").split()
    assert "/serve_key" in ignored
