"""The help of a command with many options: the few that a first use needs, and all of them on demand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click


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
