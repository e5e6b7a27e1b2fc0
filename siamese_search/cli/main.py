"""The command ``sss``: which commands there are, where each is, and errors as one line each.

The module of a command is imported when it is called (``sss --help`` must feel instant).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from traceback import walk_tb
from typing import Any

import click

from siamese_search._version import __version__
from siamese_search.cli.output import stand_at, with_place
from siamese_search.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, SiameseSearchError, printable
from siamese_search.io.resources import own_signals

#: Group of ``sss --help`` → command → (module here that defines ``NAME_command``, its line there).
GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "Start": {
        "demo": ("start", "Draw a small synthetic data set to try things on."),
        "ingest": ("ingest", "Embed directories of images into a gallery."),
        "search": ("search", "Find who is in an image, and where else they were seen."),
    },
    "Look": {
        "serve": ("store", "Search and care for a gallery in a browser."),
        "info": ("store", "Show what a store holds, and the model in use."),
        "compare": ("pictures", "Tell whether two images show the same identity."),
        "plot": ("pictures", "Draw a gallery as a map: similar images near each other."),
        "cluster": ("curate", "Propose identities for images without one."),
        "duplicates": ("curate", "Find images that are in a gallery twice."),
    },
    "Train and measure": {
        "evaluate": ("evaluate", "Measure a model on identities it has never seen."),
        "calibrate": ("evaluate", "Measure what scores mean in a gallery."),
        "train": ("train", "Train a model on your own identities."),
        "adapt": ("train", "Adapt a model to your images, without labels."),
        "sweep": ("train", "Train with several values of an option and compare them."),
        "quantise": ("train", "Make an int8 copy of a model."),
    },
    "Maintain": {
        "label": ("curate", "Set labels by hand, from a reviewed CSV."),
        "reindex": ("maintain", "Embed a gallery's images again, with another model."),
        "rollback": ("maintain", "Go back to the vectors from before a reindex."),
        "verify": ("store", "Check a gallery's vectors and files."),
        "optimise": ("store", "Make a large gallery open and answer faster."),
        "drop": ("store", "Delete a gallery."),
    },
    "Scale": {
        "plan": ("start", "Size a store: memory, disk, nodes, hours."),
        "push": ("maintain", "Copy a gallery into another store."),
        "pull": ("maintain", "Copy a gallery out of another store."),
        "export": ("maintain", "Write a gallery to a file for other programs."),
    },
}

#: Command → (module, line), of all groups.
COMMANDS: dict[str, tuple[str, str]] = {name: where for group in GROUPS.values() for name, where in group.items()}

#: Former name of a command → the one that does its work now, so that scripts go on.
FORMER = {"galleries": "info"}


def command_of(name: str) -> click.Command:
    """The command of this name, its module imported."""
    module, line = COMMANDS[name]
    command: click.Command = getattr(import_module(f"siamese_search.cli.{module}"), f"{name}_command")
    command.short_help = line
    return command


def command_defaults(name: str) -> Mapping[str, Any]:
    """The settings files' defaults for one command's options. Raises SettingsError for a mistake in any table."""
    from siamese_search.settings import load_settings

    settings = load_settings()
    if not settings.commands:
        return {}
    known: dict[str, list[str]] = {command: [] for command in COMMANDS}
    for command in set(settings.commands) & set(COMMANDS):
        known[command] = [str(p.name) for p in command_of(command).params if p.param_type_name == "option"]
    settings.check_commands(known)
    values = settings.commands.get(name, {})
    several = {p.name for p in command_of(name).params if p.multiple} if values else set()
    return {k: [v] if k in several and not isinstance(v, list) else v for k, v in values.items()}


def misspelt(name: str, env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Variables that look like some of this command, or of all, and are none, with those that may be meant."""
    strays = [one for one, value in env.items() if one.startswith("SSS_") and value]
    if not strays or name not in COMMANDS:
        return
    from difflib import get_close_matches

    from siamese_search.settings import variables

    prefix = f"SSS_{name.replace('-', '_').upper()}_"
    known = {*variables(), "SSS_API_KEY", "SSS_API_KEY_FILE", "SSS_DEBUG", "SSS_GRAPHICS"}
    own = {f"{prefix}{str(param.name).upper()}" for param in command_of(name).params}
    others = tuple(f"SSS_{other.replace('-', '_').upper()}_" for other in COMMANDS if other != name)
    for one in sorted(set(strays) - known - own):
        if (full := prefix + one.removeprefix("SSS_")) in own:
            yield one, full
        elif not one.startswith(others) and (near := get_close_matches(one, known | own, 1, 0.85)):
            yield one, near[0]


#: 128 + SIGPIPE, as for any Unix tool whose reader has gone.
EXIT_BROKEN_PIPE = 141

#: Set by a shell that wants to know how a line may go on, or how to ask: ``bash_source``, ``bash_complete`` …
COMPLETE = "_SSS_COMPLETE"

EPILOG = """\b
Start here:
  sss demo demo                       draw a demo set
  sss ingest demo/gallery             embed it into ./.sss
  sss search demo/queries/*.jpg -k 5  who is it?
  sss evaluate demo/gallery           how far to trust the answer

Every option also has a variable (SSS_STORE, SSS_SEARCH_K, ...) and a key in sss.toml.
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done but some inputs failed, 130 interrupted.
"""


class LazyGroup(click.Group):
    """A group that imports a subcommand's module only when that subcommand is called or asked for help."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        command = command_of(cmd_name) if cmd_name in COMMANDS else None
        if command is not None and not any(p.name == "debug" for p in command.params):
            # "Run again with --debug" must also work for who appends it to the end of the line.
            command.params.append(_debug_option(hidden=True))
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        args = [FORMER.get(one, one) for one in args[:1]] + args[1:]
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from difflib import get_close_matches

            close = get_close_matches(args[0], COMMANDS, n=1, cutoff=0.65)
            hint = f"did you mean '{close[0]}'?" if close else f"commands: {', '.join(COMMANDS)}"
            raise click.UsageError(f"no such command '{printable(args[0])}'; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        width = max(map(len, COMMANDS))
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), line) for name, (_, line) in commands.items()])


def _debug_option(*, hidden: bool = False) -> click.Option:
    return click.Option(
        ["--debug"],
        is_flag=True,
        expose_value=False,
        hidden=hidden,
        # None of its own: the variable is SSS_DEBUG, read by main(), not SSS_SEARCH_DEBUG.
        envvar="SSS_DEBUG",
        callback=_remember_debug,
        help="Show a traceback when something fails.",
    )


def _remember_debug(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        ctx.find_root().meta["sss.debug"] = True


@click.command(
    cls=LazyGroup,
    context_settings={
        "auto_envvar_prefix": "SSS",
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "show_default": True,
    },
    epilog=EPILOG,
    params=[_debug_option()],
)
@click.version_option(__version__, "-V", "--version", prog_name="sss")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Re-identification search: a directory of images goes in, the right identity comes out."""
    if ctx.invoked_subcommand is not None:
        ctx.default_map = {ctx.invoked_subcommand: command_defaults(ctx.invoked_subcommand)}
        for stray, meant in misspelt(ctx.invoked_subcommand, os.environ):
            sys.stderr.write(f"sss: warning: {_one_line(stray)} is no variable of sss; did you mean {meant}?\n")


def main(args: Sequence[str] | None = None) -> int:
    """Run ``sss`` with these arguments (default: the process's own) and return the exit code."""
    argv = list(sys.argv[1:] if args is None else args)
    # What was closed by whoever started us would be the place of the next files to be opened, and written into.
    while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(spare)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 - for good
    if sys.stdout is None:
        return _fail("the standard output is closed: nobody could read the answer", EXIT_FAILED)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # never die of a character that the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    try:
        # However it is ended, what is half made is taken away.
        with own_signals(signal.default_int_handler):
            code = _run(argv)
        sys.stdout.flush()  # waits for who reads; a signal ends that at once
        return code
    except (KeyboardInterrupt, OSError) as error:
        # The interpreter flushes stdout once more on its way out; let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, KeyboardInterrupt):  # the second, while the first was told
            return EXIT_INTERRUPTED
        if isinstance(error, BrokenPipeError):
            return EXIT_BROKEN_PIPE
        return _fail(f"the output could not be written: {error.strerror or error}", EXIT_FAILED)


def _files_with_dashes(argv: list[str]) -> list[str]:
    """The arguments, with ``./`` before image files that a shell made of ``*.jpg`` and that begin like an option."""
    ends = argv.index("--") if "--" in argv else len(argv)
    named = []
    for at, argument in enumerate(argv[:ends]):
        if argument.startswith("-") and "." in argument and os.path.isfile(argument):  # noqa: PTH113
            from siamese_search.io.images import is_image_name

            if is_image_name(argument):
                argv[at] = f"./{argument}"
                named.append(argument)
    if named:
        more = f" (and {len(named) - 1} more)" if len(named) > 1 else ""
        sys.stderr.write(f"sss: {_one_line(named[0])}{more} is read as a file, like ./{_one_line(named[0])}\n")
    return argv


def _run(argv: list[str]) -> int:
    if asked := os.environ.get(COMPLETE):
        from click.shell_completion import shell_complete

        return shell_complete(cli, {}, "sss", COMPLETE, asked)
    debug = False
    try:
        os.getcwd()  # noqa: PTH109
    except OSError:
        return _fail("the working directory is gone: change to one that exists (cd), and try again", EXIT_FAILED)
    argv = _files_with_dashes(argv)
    stand_at(argv)
    try:
        with cli.make_context("sss", argv) as ctx:
            try:
                result: Any = cli.invoke(ctx)
            finally:
                debug = bool(ctx.meta.get("sss.debug"))
        return result if isinstance(result, int) else EXIT_DONE
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted", EXIT_INTERRUPTED)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "", err=True)
        return EXIT_USAGE
    except click.ClickException as error:
        path = getattr(getattr(error, "ctx", None), "command_path", "sss")
        message = " ".join(error.format_message().split()).rstrip(".")
        message = message[:1].lower() + message[1:]
        begun = error.option_name if isinstance(error, click.NoSuchOption) else None
        if begun and any(one.startswith(begun) and os.path.lexists(one) for one in argv):
            message += "; a file whose name begins with a dash is written ./-NAME, or comes after --"
        return _fail(f"{message} (see '{path} --help')", error.exit_code)
    except SiameseSearchError as error:
        return _fail(with_place(str(error)), error.exit_code, traceback=debug)
    except Exception as error:
        if isinstance(error, BrokenPipeError) or _is_of_output(error):
            raise
        what = ": ".join(filter(None, (type(error).__name__, " ".join(str(error).split()))))
        advice = "" if debug else " (run again with --debug for the traceback)"
        code = getattr(error, "exit_code", EXIT_FAILED)
        if isinstance(error, MemoryError):
            return _fail("there is not enough memory: free some, or raise the limit (ulimit -v)", code, traceback=debug)
        return _fail(f"unexpected {what[:300]}{advice}", code, traceback=debug)


def _is_of_output(error: Exception) -> bool:
    """Whether it was a stream of ours that could not be written: nothing else is written by these modules."""
    *_, (frame, _line) = walk_tb(error.__traceback__)
    ours = str(frame.f_globals.get("__name__")).startswith(("siamese_search.cli.", "click.", "rich."))
    return ours and isinstance(error, OSError) and error.filename is None


def _fail(message: str, code: int, *, traceback: bool = False) -> int:
    if traceback:
        from traceback import format_exc

        sys.stderr.write("".join(f"{printable(line)}\n" for line in format_exc().splitlines()))
    sys.stderr.write(f"sss: {'error: ' if code != EXIT_INTERRUPTED else ''}{_one_line(message)}\n")
    return code


def _one_line(message: str) -> str:
    """No message may move the cursor, recolour the terminal or pretend to be a second line."""
    return printable(" ".join(message.split()))
