"""Every field of the training presets as an option, generated; and the help of a command with so many of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import click

from siamese_search.training.config import ADAPT, PRESETS, SPEC, AdaptConfig, TrainConfig, adapt_fields, option_fields


class HyperparameterOption(click.Option):
    """An option that stands under "Hyperparameters" in the help."""


class LongCommand(click.Command):
    """A command whose ``--help`` shows the options named in ``often``, and whose ``--help-all`` shows them all."""

    def __init__(self, *args: Any, often: Sequence[str], **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self.often = frozenset(often)
        self.params.append(
            click.Option(
                ["--help-all"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_show_all,
                help=f"Show all {self._count()} options.",
            )
        )

    def _count(self) -> int:
        return sum(isinstance(parameter, click.Option) for parameter in self.params)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        everything = bool(ctx.meta.get("sss.help_all"))
        groups: dict[str, list[tuple[str, str]]] = {"Options": [], "Hyperparameters": []}
        for parameter in self.get_params(ctx):
            if not isinstance(parameter, click.Option) or not (everything or self._shown(parameter)):
                continue
            record = parameter.get_help_record(ctx)
            if record is not None:
                hyper = everything and isinstance(parameter, HyperparameterOption)
                groups["Hyperparameters" if hyper else "Options"].append(record)
        for title, records in groups.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def _shown(self, option: click.Option) -> bool:
        return option.name in self.often or option.name in ("json", "help", "help_all")


def _show_all(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.meta["sss.help_all"] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


F = TypeVar("F", bound=Callable[..., Any])

#: The preset whose values are the dataclass's own.
DEFAULT_PRESET = "reid"


class IntChoice(click.Choice):  # type: ignore[type-arg]  # generic only from click 8.2 on
    """One of a few whole numbers."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return int(super().convert(str(value), param, ctx))


def hyperparameter_options(command: F) -> F:
    """Add one option per field of TrainConfig; an option that is not given is ``None``."""
    return _options(TrainConfig, [name for name, _, _ in option_fields()], _defaults)(command)


def adaptation_options(command: F) -> F:
    """The same of AdaptConfig, for ``sss adapt``."""

    def default(name: str) -> str:
        value = getattr(ADAPT, name)
        return f"[default: {'as the model' if name in SPEC else value}]"

    return _options(AdaptConfig, adapt_fields(), default)(command)


class ValueList(click.ParamType):  # type: ignore[type-arg]  # generic only from click 8.3 on
    """Values with commas between them, as text; a list in ``sss.toml`` will do. They are parsed with the grid."""

    name = "values"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002
        return ",".join(str(one) for one in value) if isinstance(value, (list, tuple)) else str(value)


def value_list_options(command: F) -> F:
    """Add one option per field of TrainConfig that takes several values; one that is not given is ``None``."""
    return _options(TrainConfig, [name for name, _, _ in option_fields()], _defaults, several=True)(command)


def _options(
    cls: type[TrainConfig], names: list[str], default_of: Callable[[str], str], *, several: bool = False
) -> Callable[[F], F]:
    kinds = get_type_hints(cls)
    texts = {name: text for name, _, text in option_fields(cls)}

    def decorate(command: F) -> F:
        for name in reversed(names):
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
                help=f"{text[:1].upper()}{text[1:]}.  {default_of(name)}",
            )(command)
        return command

    return decorate


def _click_type(kind: Any) -> Any:
    if get_origin(kind) is Literal:
        values = get_args(kind)
        choice = IntChoice if isinstance(values[0], int) else click.Choice
        return choice([str(value) for value in values])
    return bool if kind is bool else {int: int, float: float, str: str}[kind]


def _metavar(kind: Any) -> str | None:
    return {int: "N", float: "X", str: "NAME"}.get(kind)


def _defaults(name: str) -> str:
    """``[default: 60; apn: 15]``: the default preset's value, then each preset that differs."""
    usual = getattr(PRESETS[DEFAULT_PRESET], name)
    others = [
        f"; {preset}: {getattr(config, name)}" for preset, config in PRESETS.items() if getattr(config, name) != usual
    ]
    return f"[default: {usual}{''.join(others)}]"
