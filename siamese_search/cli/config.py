"""Option defaults from ``sss.toml``: the table ``[search]`` with ``k = 20`` is ``sss search -k 20``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from siamese_search.cli.commands import COMMANDS, command_of


def command_defaults(name: str) -> Mapping[str, Any]:
    """The settings files' defaults for one command's options.

    All command tables are checked, so that a mistake in one is found by the first command that runs; the
    commands' modules are loaded only if there are tables at all. Raises SettingsError.
    """
    from siamese_search.settings import load_settings

    settings = load_settings()
    if not settings.commands:
        return {}
    settings.check_commands(_known_options(settings.commands))
    return settings.commands.get(name, {})


def _known_options(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    known: dict[str, list[str]] = {name: [] for name in COMMANDS}
    for name in set(tables) & set(COMMANDS):
        command = command_of(name)
        known[name] = [str(p.name) for p in command.params if p.param_type_name == "option"]
    return known
