"""deploy/README.md and the secrets: its commands parse, its settings load, and no file holds what it must not."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest

from ingest.__main__ import command as worker
from ingest.metrics import Metrics
from siamese_search.gallery.qdrant.address import FILE_VARIABLE, KEY_VARIABLE
from siamese_search.settings import ENV_PREFIX, SERVER_KEYS, Settings, load_settings
from siamese_search.web import security

Accepts = Callable[[list[str]], None]
_ASSIGNMENT = re.compile(r"\w+=.*")


@pytest.fixture
def readme(deploy: Path) -> str:
    return (deploy / "README.md").read_text(encoding="utf-8")


def blocks(readme: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", readme, re.S | re.M)


def commands(readme: str) -> Iterator[list[str]]:
    """The words of each simple command in the shell blocks, variables set for it left out."""
    for block in blocks(readme, "sh"):
        for line in block.splitlines():
            for part in line.split(" && "):
                words = shlex.split(part, comments=True)
                while words and _ASSIGNMENT.fullmatch(words[0]):
                    words.pop(0)
                if words:
                    yield words


def composed(words: list[str]) -> tuple[list[str], str, list[str]] | None:
    """(files, verb, its words) of a ``docker compose`` command."""
    if words[:2] != ["docker", "compose"]:
        return None
    rest, files = words[2:], []
    while rest[0] == "-f":
        files.append(rest[1])
        rest = rest[2:]
    return files, rest[0], rest[1:]


def test_sss_takes_every_command(readme: str, sss_accepts: Accepts) -> None:
    count = 0
    for words in commands(readme):
        if words[0] == "sss":
            sss_accepts(words[1:])
            count += 1
    assert count > 10


def test_the_worker_takes_every_command(readme: str, sss_accepts: Accepts, worker_accepts: Accepts) -> None:
    seen = set()
    for words in commands(readme):
        found = composed(words)
        if found and found[1] == "run":
            options, arguments = (found[2][: found[2].index("worker")], found[2][found[2].index("worker") + 1 :])
            if "--entrypoint" in options:
                assert options[options.index("--entrypoint") + 1] == "sss"
                sss_accepts(arguments)
                seen.add(arguments[0])
            else:
                worker_accepts(arguments)
                seen.add("ingest")
    assert {"ingest", "reindex", "info"} <= seen


def test_metrics_that_the_text_explains_exist(readme: str) -> None:
    named = set(re.findall(r"`(sss_ingest_\w+)", readme))
    metrics = Metrics()
    metrics.warned("any")
    text = generate_latest(metrics.registry).decode()
    samples = re.findall(r"^(sss_ingest_\w+?)(_bucket|_sum|_count|_created)?[{ ]", text, re.M)
    served = {name for name, ending in samples if ending != "_created"}
    assert named == served


def test_what_the_text_names_in_passing_exists(readme: str, sss_accepts: Accepts) -> None:
    prose = re.sub(r"^```.*?^```", "", readme, flags=re.S | re.M)
    found = [shlex.split(text) for text in re.findall(r"`sss ([^`]+)`", prose)]
    assert found
    for words in found:
        sss_accepts(words if len(words) > 1 else [*words, "--store", "x", *(["DIR"] * (words == ["push"]))])


def test_docker_compose_finds_its_files_and_services(
    deploy: Path, readme: str, load_compose: Callable[[str], dict[str, Any]]
) -> None:
    verbs = set()
    for words in commands(readme):
        found = composed(words)
        if found is None:
            continue
        files, verb, rest = found
        verbs.add(verb)
        assert files
        services: set[str] = set()
        for file in files:
            assert (deploy.parent / file).is_file()
            services |= set(load_compose(Path(file).name)["services"])
        if verb in ("build", "kill", "start", "rm"):
            assert rest[-1] in services
        if verb == "run":
            assert "worker" in rest
    assert {"build", "up", "run", "down", "kill", "start", "rm"} <= verbs


def test_the_volume_that_is_removed_is_the_dead_nodes(
    readme: str, load_compose: Callable[[str], dict[str, Any]]
) -> None:
    [volume] = [words[-1] for words in commands(readme) if words[:3] == ["docker", "volume", "rm"]]
    stack = load_compose("compose.cluster.yaml")
    assert volume in {f"{stack['name']}_{name}" for name in stack["volumes"]}


def test_settings_in_the_text_load_and_are_those_of_the_file(deploy: Path, readme: str, tmp_path: Path) -> None:
    shown = []
    for text in [*blocks(readme, "toml"), (deploy / "cluster.toml").read_text(encoding="utf-8")]:
        (tmp_path / "sss.toml").write_text(text)
        shown.append(load_settings(tmp_path, {}).server)
    assert len(shown) > 1
    assert all(one == shown[-1] for one in shown)


def test_variables_of_sss_are_known(deploy: Path) -> None:
    known = {ENV_PREFIX + field.name.upper() for field in fields(Settings)} | {KEY_VARIABLE, FILE_VARIABLE}
    known |= {security.VARIABLE, security.METRICS_VARIABLE}
    known |= {f"{ENV_PREFIX}SERVER_{key.upper()}" for key in SERVER_KEYS}
    known |= {f"{ENV_PREFIX}INGEST_{parameter.name.upper()}" for parameter in worker.params if parameter.name}
    for path in deploy.rglob("*"):
        if path.is_file() and path.name not in ("api_key", ".env"):
            used = set(re.findall(r"\bSSS_[A-Z_]+", path.read_text(encoding="utf-8")))
            assert used <= known, path.name


def test_files_that_the_text_names_exist_or_are_made(deploy: Path, readme: str) -> None:
    ignored = (deploy / ".gitignore").read_text(encoding="utf-8").split()
    for name in re.findall(r"\bdeploy/([\w.]*\w)", readme):
        assert (deploy / name).exists() or f"/{name}" in ignored, name


def test_no_file_holds_a_secret(deploy: Path, load_compose: Callable[[str], dict[str, Any]]) -> None:
    ignored = (deploy / ".gitignore").read_text(encoding="utf-8").split()
    assert {"/api_key", "/.env"} <= set(ignored)
    for path in deploy.rglob("*"):
        if f"/{path.name}" in ignored or not path.is_file():
            continue
        text = re.sub(r"^ *path: /\S+$", "", path.read_text(encoding="utf-8"), flags=re.M)  # of JSON patches
        assert not re.search(r"[0-9a-fA-F]{24,}|[A-Za-z0-9+/]{40,}|-----BEGIN", text), path.name
        assert not re.search(r"""(?i)(key|token|password)["']?\s*[:=]\s*["']?\w{12,}""", text), path.name
    for path in deploy.glob("compose*.yaml"):
        stack = load_compose(path.name)
        assert all(set(secret) == {"file"} for secret in stack.get("secrets", {}).values())
        for service in stack["services"].values():
            for name in service.get("environment", {}):
                assert name.endswith("_FILE") or not re.search("KEY|TOKEN|PASSWORD|SECRET", name), name
