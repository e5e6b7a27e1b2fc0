"""The deployment files: they parse, pin what they build from, drop privileges, and call commands that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from siamese_search.cli.main import cli

DEPLOY = Path(__file__).parents[2] / "deploy"


def instructions() -> list[tuple[str, str]]:
    """(instruction, rest) of the Dockerfile, continuation lines joined."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"^\s*#.*\n", "", text, flags=re.M).replace("\\\n", " ").splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines if line.strip()]


def arguments_are_accepted(arguments: list[str]) -> None:
    """``sss`` with these arguments parses: the command and its options exist."""
    context = click.Context(cli)
    command = cli.get_command(context, arguments[0])
    assert command is not None, arguments
    try:
        command.make_context(arguments[0], list(arguments[1:]), parent=context)
    except click.exceptions.Exit:  # --help
        return


def test_the_base_image_is_pinned_to_a_release() -> None:
    bases = [rest.split()[0] for word, rest in instructions() if word == "FROM"]
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.1\d\.\d+-slim-[a-z]+", bases[0])


def test_the_container_does_not_run_as_root() -> None:
    words = [word for word, _ in instructions()]
    users = [rest for word, rest in instructions() if word == "USER"]
    assert users == ["10001:10001"]
    assert words.index("USER") < words.index("ENTRYPOINT")


def test_the_containers_commands_exist() -> None:
    found = dict(instructions())
    assert json.loads(found["ENTRYPOINT"]) == ["sss"]
    arguments_are_accepted(json.loads(found["CMD"]))
    check = json.loads(found["HEALTHCHECK"].split("CMD", 1)[1])
    assert check[0] == "sss"
    arguments_are_accepted(check[1:])


def test_everything_that_is_copied_exists_and_enters_the_build() -> None:
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [
        name
        for word, rest in instructions()
        if word == "COPY" and not rest.startswith("--from")
        for name in rest.split()[:-1]
    ]
    assert copied
    for name in copied:
        assert (DEPLOY.parent / name).exists(), name
        assert f"!{name}" in ignore


@pytest.fixture
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    return loaded


def test_compose_services_are_confined_and_call_commands_that_exist(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {"ingest", "search"}
    for service in compose["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        entry = service.get("entrypoint", ["sss"])
        arguments_are_accepted([*entry[1:], *service["command"]])


def test_compose_volumes_are_declared_and_images_are_mounted_read_only(compose: dict[str, Any]) -> None:
    named = set(compose["volumes"])
    for service in compose["services"].values():
        sources = [volume.rsplit(":/", 1)[0] for volume in service["volumes"]]
        assert all(source in named or source.startswith(("$", ".", "/")) for source in sources)
    images = [v for v in compose["services"]["ingest"]["volumes"] if ":/data" in v]
    assert all(volume.endswith(":ro") for volume in images)


def test_the_image_is_tagged_with_the_version(compose: dict[str, Any]) -> None:
    from siamese_search import __version__

    for service in compose["services"].values():
        assert service["image"] == f"siamese-search:{__version__}"
