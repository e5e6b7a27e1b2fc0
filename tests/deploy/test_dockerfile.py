"""The Dockerfile: it is pinned, has its two targets, drops privileges, and calls commands that exist."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest

Stage = list[tuple[str, str]]


@pytest.fixture
def stages(deploy: Path) -> dict[str, Stage]:
    """Stage -> its (instruction, rest), continuation lines joined; FROM is each stage's first."""
    text = (deploy / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"^\s*#.*\n", "", text, flags=re.M).replace("\\\n", " ").splitlines()
    found: dict[str, Stage] = {}
    for line in filter(str.strip, lines):
        word, rest = line.split(None, 1)
        if word == "FROM":
            _, name = rest.split(" AS ")
            found[name] = []
        found[name].append((word, rest))
    return found


def whole(stages: dict[str, Stage], name: str) -> Stage:
    """The instructions of a stage after those of the stages that it stands on."""
    base = stages[name][0][1].split()[0]
    return (whole(stages, base) if base in stages else []) + stages[name]


def copied(stages: dict[str, Stage]) -> list[str]:
    """Everything that is taken from the build's context."""
    return [
        name
        for stage in stages.values()
        for word, rest in stage
        if word in ("COPY", "ADD") and not rest.startswith("--from")
        for name in rest.split()[:-1]
    ]


def enters_build(path: str, patterns: list[str]) -> bool:
    """Docker's rule: the last pattern that matches the path, or a directory above it, decides."""
    here = [path, *(parent.as_posix() for parent in Path(path).parents if parent.name)]
    enters = True
    for pattern in patterns:
        plain = pattern.removeprefix("!")
        names = [plain, plain.removeprefix("**/"), f"*/{plain.removeprefix('**/')}"]
        if any(fnmatch(one, name) for one in here for name in (names if "**" in plain else [plain])):
            enters = pattern.startswith("!")
    return enters


@pytest.fixture
def ignored(deploy: Path) -> list[str]:
    lines = (deploy / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_every_stage_stands_on_one_pinned_release(stages: dict[str, Stage]) -> None:
    bases = {stage[0][1].split()[0] for stage in stages.values()} - set(stages)
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.1\d\.\d+-slim-[a-z]+", bases.pop())


def test_every_copied_stage_exists(stages: dict[str, Stage]) -> None:
    text = "\n".join(rest for stage in stages.values() for _, rest in stage)
    sources = re.findall(r"--from=(\S+)", text)
    assert sources
    assert set(sources) <= set(stages)


def test_both_have_the_services_and_cuda_has_torch_from_one_pip_command(stages: dict[str, Stage]) -> None:
    installed = {}
    for target in ("cpu", "cuda"):
        [source] = [rest for word, rest in stages[target] if word == "COPY"]
        build = stages[re.findall(r"--from=(\S+)", source)[0]]
        [installed[target]] = [rest for word, rest in build if word == "RUN" and "pip" in rest]
    assert installed["cpu"].split()[-1] == '".[service,web]"'
    assert installed["cuda"].split()[-1] == '".[torch,service,web]"'
    assert list(stages)[-1] == "cpu"  # of a build that names no target


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_a_target_runs_as_nobody_special_and_calls_commands_that_exist(
    stages: dict[str, Stage], target: str, worker_accepts: Callable[[list[str]], None]
) -> None:
    found = whole(stages, target)
    assert [rest for word, rest in found if word == "USER"] == ["10001:10001"]
    last = dict(found)
    run = ["python", "-m", "ingest"]
    assert json.loads(last["ENTRYPOINT"]) == run
    worker_accepts(json.loads(last["CMD"]))
    check = json.loads(last["HEALTHCHECK"].split("CMD", 1)[1])
    assert check[:3] == run
    worker_accepts(check[3:])
    # The probe reads the file that the worker is told to write.
    environment = " ".join(rest for word, rest in found if word == "ENV").split()
    assert f"SSS_INGEST_HEALTH_FILE={check[check.index('--check') + 1]}" in environment


def test_what_the_package_is_built_from_is_copied_and_enters_the_build(
    deploy: Path, stages: dict[str, Stage], ignored: list[str]
) -> None:
    project = tomllib.loads((deploy.parent / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    assert set(copied(stages)) == needed | set(wheel["packages"])
    for name in copied(stages):
        assert (deploy.parent / name).exists(), name
        assert enters_build(name, ignored), name
    assert enters_build("siamese_search/model/weights/model.json", ignored)


@pytest.mark.parametrize(
    "path", ["deploy/api_key", "deploy/.env", ".sss/default", "tests/conftest.py", "ingest/__pycache__/a.pyc"]
)
def test_keys_stores_and_leftovers_stay_out_of_the_build(ignored: list[str], path: str) -> None:
    assert not enters_build(path, ignored)
