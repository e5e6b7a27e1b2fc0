"""Options that several commands share, spelled once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def store_options(command: F) -> F:
    """``--store``, ``--gallery`` and ``--model``; ``None`` means: what the settings say."""
    command = click.option(
        "--model", metavar="BUNDLE", help="Model bundle.  [default: the gallery's own, else the bundled one]"
    )(command)
    command = click.option(
        "--gallery", metavar="NAME", help="Gallery inside the store.  [default: default; SSS_GALLERY]"
    )(command)
    return click.option(
        "--store", metavar="DIR", help="Directory of the vector store.  [default: .sss; SSS_STORE]"
    )(command)


def layout_option(command: F) -> F:
    """``--layout``, named as in :mod:`siamese_search.datasets.layouts`."""
    return click.option(
        "--layout",
        type=click.Choice(["auto", "folders", "market1501", "csv", "triplets", "flat"]),
        default="auto",
        help="How identities are named on disk: folders (one per identity), market1501 (file names),"
        " csv, triplets (Anchor,Positive,Negative), flat (no identities).",
    )(command)


def device_option(command: F) -> F:
    """``--device``."""
    return click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
        help="Where the network runs; auto takes a CUDA GPU if torch is installed and sees one.",
    )(command)


def json_option(command: F) -> F:
    """``--json``."""
    return click.option("--json", is_flag=True, help="Answer as JSON on stdout.")(command)


class Positive(click.IntRange):
    """A whole number from 1."""

    def __init__(self) -> None:
        super().__init__(min=1)
