"""Options that several commands share, spelled once."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def store_option(command: F) -> F:
    """``--store`` and ``--insecure``; ``None`` means: what the settings say, here and below."""
    command = click.option(
        "--insecure",
        is_flag=True,
        expose_value=False,
        callback=_allow_insecure,
        help="Speak plain HTTP to a server that is not this machine.",
    )(command)
    return click.option(
        "--store", metavar="DIR|URL", help="Directory or URL of the vector store.  [default: .sss; SSS_STORE]"
    )(command)


def _allow_insecure(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    """``--insecure`` is ``SSS_INSECURE=1`` for this command: the settings, far below, are where it is asked for."""
    if value:
        before = os.environ.get("SSS_INSECURE", "")  # an empty variable counts as unset
        os.environ["SSS_INSECURE"] = "1"
        ctx.call_on_close(lambda: os.environ.update(SSS_INSECURE=before))


def place_options(command: F) -> F:
    """``--store`` and ``--gallery``."""
    command = click.option(
        "--gallery", metavar="NAME", help="Gallery inside the store.  [default: default; SSS_GALLERY]"
    )(command)
    return store_option(command)


def store_options(command: F) -> F:
    """``--store``, ``--gallery`` and ``--model``."""
    command = click.option(
        "--model", metavar="BUNDLE", help="Model bundle.  [default: the gallery's own, else the bundled one]"
    )(command)
    return place_options(command)


def storage_options(command: F) -> F:
    """``--storage`` and ``--quantise``, named as in :mod:`siamese_search.gallery.storage`."""
    command = click.option(
        "--quantise",
        type=click.Choice(["none", "int8", "int4", "binary"]),
        help="Search in a copy of the vectors of 8, 4 or 1 bits a number; results are scored exactly.",
    )(command)
    return click.option(
        "--storage",
        type=click.Choice(["float32", "float16"]),
        help="How a new gallery stores its vectors; float16 takes half the space.",
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
    """``--device`` where a network is trained."""
    return click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
        help="Where the network runs; auto takes a CUDA GPU if torch is installed and sees one.",
    )(command)


def embedding_device_option(command: F) -> F:
    """``--device`` where a network only embeds."""
    return click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "openvino", "cuda"]),
        default="auto",
        help="Where the network runs: auto takes a CUDA GPU if torch is installed and sees one, else the CPU."
        " openvino: the CPU in bfloat16, faster where the processor has instructions for it.",
    )(command)


def json_option(command: F) -> F:
    """``--json``."""
    return click.option("--json", is_flag=True, help="Answer as JSON on stdout.")(command)


class Positive(click.IntRange):
    """A whole number from 1."""

    def __init__(self) -> None:
        super().__init__(min=1)
