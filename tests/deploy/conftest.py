"""What the tests of the deployment files share: the files, and whether ``sss`` and the worker take a command line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from ingest.__main__ import command as worker
from siamese_search.cli.main import cli

#: What deploy/.env says, as step 1 of deploy/README.md writes it.
DOT_ENV = {"IMAGES": "/home/me/images", "WORKER_USER": "1000:1000"}


@pytest.fixture(scope="session")
def deploy() -> Path:
    return Path(__file__).parents[2] / "deploy"


@pytest.fixture(scope="session")
def sss_accepts() -> Callable[[list[str]], None]:
    """Raises unless ``sss`` with these arguments parses: the command, its options and their values exist."""

    def accept(arguments: list[str]) -> None:
        context = click.Context(cli)
        assert arguments, "sss without a command"
        command = cli.get_command(context, arguments[0])
        assert command is not None, arguments
        command.make_context(arguments[0], list(arguments[1:]), parent=context).close()

    return accept


@pytest.fixture(scope="session")
def worker_accepts() -> Callable[[list[str]], None]:
    """The same for ``python -m ingest``."""

    def accept(arguments: list[str]) -> None:
        context = worker.make_context("python -m ingest", list(arguments))
        assert context.params["roots"] or context.params["check"], arguments
        context.close()

    return accept


@pytest.fixture(scope="session")
def load_compose(deploy: Path) -> Callable[[str], dict[str, Any]]:
    """A compose file as Compose sees it: merge keys and variables resolved, ``$$`` unescaped."""

    def load(name: str) -> dict[str, Any]:
        loaded: dict[str, Any] = _resolved(yaml.safe_load((deploy / name).read_text(encoding="utf-8")))
        return loaded

    return load


def _resolved(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _resolved(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item) for item in value]
    return _VARIABLE.sub(_substitute, value) if isinstance(value, str) else value


_VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)(:[?-])?([^}]*)\}|)")


def _substitute(found: re.Match[str]) -> str:
    escaped, name, operator, word = found.groups()
    if escaped:
        return "$"
    assert name, f"an unescaped $ in {found.string!r}"
    if operator == ":-":
        return DOT_ENV.get(name) or word
    assert operator == ":?", f"{found[0]}: say what an unset variable means"
    return DOT_ENV[name]
