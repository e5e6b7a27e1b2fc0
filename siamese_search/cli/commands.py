"""Which commands there are, where each is, and the defaults that ``sss.toml`` has for its options.

The modules are imported one by one, when they are called. ``k = 20`` in the table ``[search]`` is ``sss search -k 20``.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

#: Group of ``sss --help`` → command → (module that defines ``NAME_command``, its line there).
GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "Start": {
        "demo": ("siamese_search.cli.demo", "Draw a small synthetic data set to try things on."),
        "ingest": ("siamese_search.cli.ingest", "Embed directories of images into a gallery."),
        "search": ("siamese_search.cli.search", "Find who is in an image, and where else they were seen."),
    },
    "Look": {
        "serve": ("siamese_search.cli.serve", "Search and care for a gallery in a browser."),
        "info": ("siamese_search.cli.store", "Show what a store holds, and the model in use."),
        "compare": ("siamese_search.cli.pictures", "Tell whether two images show the same identity."),
        "plot": ("siamese_search.cli.pictures", "Draw a gallery as a map: similar images near each other."),
        "cluster": ("siamese_search.cli.curate", "Propose identities for images without one."),
        "duplicates": ("siamese_search.cli.curate", "Find images that are in a gallery twice."),
    },
    "Train and measure": {
        "evaluate": ("siamese_search.cli.evaluate", "Measure a model on identities it has never seen."),
        "calibrate": ("siamese_search.cli.evaluate", "Measure what scores mean in a gallery."),
        "train": ("siamese_search.cli.train", "Train a model on your own identities."),
        "adapt": ("siamese_search.cli.adapt", "Adapt a model to your images, without labels."),
        "sweep": ("siamese_search.cli.train", "Train with several values of an option and compare them."),
        "quantise": ("siamese_search.cli.quantise", "Make an int8 copy of a model."),
    },
    "Maintain": {
        "label": ("siamese_search.cli.curate", "Set labels by hand, from a reviewed CSV."),
        "reindex": ("siamese_search.cli.reindex", "Embed a gallery's images again, with another model."),
        "rollback": ("siamese_search.cli.reindex", "Go back to the vectors from before a reindex."),
        "verify": ("siamese_search.cli.store", "Check a gallery's vectors and files."),
        "optimise": ("siamese_search.cli.store", "Make a large gallery open and answer faster."),
        "drop": ("siamese_search.cli.store", "Delete a gallery."),
    },
    "Scale": {
        "plan": ("siamese_search.cli.plan", "Size a store: memory, disk, nodes, hours."),
        "push": ("siamese_search.cli.transfer", "Copy a gallery into another store."),
        "pull": ("siamese_search.cli.transfer", "Copy a gallery out of another store."),
        "export": ("siamese_search.cli.transfer", "Write a gallery to a file for other programs."),
    },
}

#: Command → (module, line), of all groups.
COMMANDS: dict[str, tuple[str, str]] = {
    name: where for group in GROUPS.values() for name, where in group.items()
}

#: Former name of a command → the one that does its work now, so that scripts go on.
FORMER = {"galleries": "info"}


def command_of(name: str) -> click.Command:
    """The command of this name, its module imported."""
    command: click.Command = getattr(import_module(COMMANDS[name][0]), f"{name}_command")
    return command


def command_defaults(name: str) -> Mapping[str, Any]:
    """The settings files' defaults for one command's options. Raises SettingsError for a mistake in any command's
    table.
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
