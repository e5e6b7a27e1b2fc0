"""Options that several commands share, spelled once; those of a training, generated, and the help of so many."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import click

from siamese_search import options as shared
from siamese_search.errors import SiameseSearchError, UsageError, printable
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
        except SiameseSearchError as error:
            self.fail(str(error), param, ctx)
        return path


def save_option(help: str, *more: str, former: Sequence[str] = ()) -> Callable[[F], F]:
    """``--save FILE`` of a command that draws: a page, a picture, or of a suffix in ``more``. former: other names."""
    return click.option("--save", *former, type=OutPath(*DRAWN, *more), metavar="FILE", help=help)


def _allow_insecure(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    """``--insecure`` is ``SSS_INSECURE=1`` for this command: the settings, far below, are where it is asked for."""
    if value:
        before = os.environ.get("SSS_INSECURE", "")  # an empty variable counts as unset
        os.environ["SSS_INSECURE"] = "1"
        ctx.call_on_close(lambda: os.environ.update(SSS_INSECURE=before))


insecure_option = click.option(
    "--insecure",
    is_flag=True,
    expose_value=False,
    callback=_allow_insecure,
    help="Speak plain HTTP to a server that is not this machine.",
)
#: ``--json`` alone, where ``--format`` is that of a file.
json_flag = click.option("--json", is_flag=True, help="Answer as JSON on stdout.")


def store_option(command: F) -> F:
    """``--store`` and ``--insecure``; ``None`` means: what the settings say, here and below."""
    return click_option(Place, "store")(insecure_option(command))


def place_options(command: F) -> F:
    """``--store`` and ``--gallery``."""
    return store_option(click_option(Place, "gallery")(command))


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


class HyperparameterOption(click.Option):
    """An option that stands under "Hyperparameters" in the help."""


class LongCommand(click.Command):
    """A command whose ``--help`` shows the options named in ``often``, and whose ``--help-all`` shows them all."""

    def __init__(self, *args: Any, often: Sequence[str], **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self.often = frozenset((*often, "json", "help", "help_all"))
        count = sum(isinstance(parameter, click.Option) for parameter in self.params)
        how: dict[str, Any] = {"is_flag": True, "is_eager": True, "expose_value": False, "callback": _show_all}
        self.params.append(click.Option(["--help-all"], **how, help=f"Show all {count} options."))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        everything = bool(ctx.meta.get("sss.help_all"))
        groups: dict[str, list[tuple[str, str]]] = {"Options": [], "Hyperparameters": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None and (everything or parameter.name in self.often):
                hyper = everything and isinstance(parameter, HyperparameterOption)
                groups["Hyperparameters" if hyper else "Options"].append(record)
        for title, records in groups.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def _show_all(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.meta["sss.help_all"] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


class IntChoice(click.Choice):  # type: ignore[type-arg]  # generic only from click 8.2 on
    """One of a few whole numbers."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return int(super().convert(str(value), param, ctx))


class ValueList(click.ParamType):  # type: ignore[type-arg]  # generic only from click 8.3 on
    """Values with commas between them, as text; a list in ``sss.toml`` will do. They are parsed with the grid."""

    name = "values"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002
        return ",".join(str(one) for one in value) if isinstance(value, (list, tuple)) else str(value)


def hyperparameter_options(command: F, *, adapting: bool = False, several: bool = False) -> F:
    """Add one option per field of TrainConfig (of AdaptConfig where ``adapting``); one that is not given is ``None``.
    several: each takes several values."""
    from siamese_search.training.config import AdaptConfig, TrainConfig, adapt_fields, option_fields

    cls = AdaptConfig if adapting else TrainConfig
    kinds = get_type_hints(cls)
    texts = {name: text for name, _, text in option_fields(cls)}
    for name in reversed(adapt_fields() if adapting else list(texts)):
        flag, kind, text = "--" + name.replace("_", "-"), kinds[name], texts[name]
        values = "|".join(map(str, get_args(kind))) or {bool: "true|false"}.get(kind) or _metavar(kind)
        command = click.option(
            f"{flag}/--no-{flag[2:]}" if kind is bool and not several else flag,
            name,
            cls=HyperparameterOption,
            default=None,
            show_default=False,
            type=ValueList() if several else _click_type(kind),
            metavar=f"{values},..." if several else _metavar(kind),
            help=f"{text[:1].upper()}{text[1:]}.  [default: {_default(name, adapting)}]",
        )(command)
    return command


def _click_type(kind: Any) -> Any:
    if get_origin(kind) is not Literal:
        return kind
    values = get_args(kind)
    return (IntChoice if isinstance(values[0], int) else click.Choice)(list(map(str, values)))


def _metavar(kind: Any) -> str | None:
    return {int: "N", float: "X", str: "NAME"}.get(kind)


def _default(name: str, adapting: bool) -> str:
    """``60; apn: 15``: the default preset's value, then each preset that differs."""
    from siamese_search.training.config import ADAPT, PRESETS, SPEC

    if adapting:
        return "as the model" if name in SPEC else str(getattr(ADAPT, name))
    usual, *others = ((preset, str(getattr(config, name)) or "none") for preset, config in PRESETS.items())
    return f"{usual[1]}" + "".join(f"; {preset}: {value}" for preset, value in others if value != usual[1])
