"""Options that several commands share, spelled once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from siamese_search import options as shared
from siamese_search.errors import UsageError, printable
from siamese_search.io.files import check_output
from siamese_search.options import Request, click_option

F = TypeVar("F", bound=Callable[..., Any])

#: Of pictures and pages.
DRAWN = (".htm", ".html", ".png")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place(Request):
    """What commands without a request of their own ask alike."""

    store: str | None = shared.store()
    gallery: str | None = shared.gallery()
    model: str | None = shared.model()
    threads: int | None = shared.threads()
    where: Sequence[str] = shared.where()
    null: bool = shared.null()


class OutPath(click.Path):
    """A path to be written: one that cannot be is told before any work is done for it. kinds: suffixes it may have."""

    def __init__(self, *kinds: str, directory: bool = False) -> None:
        super().__init__(path_type=Path)
        self._kinds, self._directory = kinds, directory

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path: Path = super().convert(value, param, ctx)  # type: ignore[assignment]
        if self._kinds and path.suffix.lower() not in self._kinds:
            names = " or ".join(filter(None, (", ".join(self._kinds[:-1]), self._kinds[-1])))
            self.fail(f"{printable(path)}: name the file with {names}", param, ctx)
        try:
            check_output(path, directory=self._directory)
        except OSError as error:
            self.fail(f"{printable(path)}: cannot be written: {error.strerror or error}", param, ctx)
        return path


def insecure_option(command: F) -> F:
    """``--insecure``."""
    return click.option(
        "--insecure",
        is_flag=True,
        expose_value=False,
        callback=_allow_insecure,
        help="Speak plain HTTP to a server that is not this machine.",
    )(command)


def store_option(command: F) -> F:
    """``--store`` and ``--insecure``; ``None`` means: what the settings say, here and below."""
    return click_option(Place, "store")(insecure_option(command))


def _allow_insecure(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    """``--insecure`` is ``SSS_INSECURE=1`` for this command: the settings, far below, are where it is asked for."""
    if value:
        before = os.environ.get("SSS_INSECURE", "")  # an empty variable counts as unset
        os.environ["SSS_INSECURE"] = "1"
        ctx.call_on_close(lambda: os.environ.update(SSS_INSECURE=before))


def place_options(command: F) -> F:
    """``--store`` and ``--gallery``."""
    return store_option(click_option(Place, "gallery")(command))


def json_flag(command: F) -> F:
    """``--json`` alone, where ``--format`` is that of a file."""
    return click.option("--json", is_flag=True, help="Answer as JSON on stdout.")(command)


def format_option(*forms: str) -> Callable[[F], F]:
    """``--format``, the first form by default, and ``--json``, its short form; the command gets ``format``."""

    def decorate(command: F) -> F:
        @wraps(command)
        def call(*args: Any, format: str | None, json: bool, **keywords: Any) -> Any:
            if json and format not in (None, "json"):
                raise UsageError(f"--json is --format json, and --format {format} was given too: leave one out")
            return command(*args, format="json" if json else format or forms[0], **keywords)

        shown = f"Form of the answer.  [default: {forms[0]}]"
        declared = click.option("--json", is_flag=True, help="Short for --format json.")(call)
        return click.option("--format", type=click.Choice(forms), help=shown)(declared)  # type: ignore[return-value]

    return decorate


def json_option(command: F) -> F:
    """:func:`format_option` of a command that answers as text or JSON; it gets ``json``."""

    @wraps(command)
    def call(*args: Any, format: str, **keywords: Any) -> Any:
        return command(*args, json=format == "json", **keywords)

    return format_option("text", "json")(call)  # type: ignore[return-value]
