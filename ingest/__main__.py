"""``python -m ingest``: the ingest worker as a service. What the containers in ``deploy/`` run."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ingest.options import ServiceOptions
from siamese_search._version import __version__
from siamese_search.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, SiameseSearchError
from siamese_search.options import click_options

EPILOG = """\b
Examples:
  python -m ingest /images --store http://qdrant:6333
  python -m ingest /images --shard auto/4        in a Kubernetes job with completionMode: Indexed
  python -m ingest /cam1 /cam2 --watch --metrics-port 9464 --health-file /tmp/health.json
  python -m ingest --check /tmp/health.json --max-age 300

Store, gallery, model, threads and batch size come from SSS_* variables and sss.toml as for `sss`, and the other
options from SSS_INGEST_* and the table [ingest] of sss.toml. Exit codes: 0 done, or stopped while watching; 1 failed;
2 wrong usage; 3 done but some images failed; 130 stopped before the first ingest was complete.
"""


@click.command(
    "python -m ingest",
    epilog=EPILOG,
    context_settings={
        "auto_envvar_prefix": "SSS_INGEST",
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
        "show_default": True,
    },
)
@click.argument("roots", metavar="DIR...", nargs=-1)
@click_options(ServiceOptions, without=("engine",))
@click.option(
    "--check",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Only look at a worker's health file: exit code 0 if it is healthy, else 1.",
)
@click.option(
    "--max-age",
    type=click.FloatRange(min=0, min_open=True),
    default=300.0,
    metavar="SECONDS",
    help="With --check: how old the file may be.",
)
@click.option(
    "--alive", is_flag=True, help="With --check: only whether it lives; it may be waiting for its store or a directory."
)
@click.version_option(__version__, "-V", "--version", prog_name="siamese-search ingest worker")
def command(roots: tuple[str, ...], options: ServiceOptions, check: Path | None, max_age: float, alive: bool) -> int:
    """Ingest the images under each DIR (a directory or a .csv file) into a gallery, as a service.

    Log lines on stderr are JSON objects. SIGTERM and SIGHUP finish the batch in hand and commit it.
    """
    if check is not None:
        from ingest.service import trouble

        reason = trouble(check, max_age, alive=alive)
        click.echo("healthy" if reason is None else f"unhealthy: {reason}")
        return EXIT_DONE if reason is None else EXIT_FAILED
    if not roots:
        raise click.UsageError("nothing to ingest: name a directory of images or a CSV file")
    from ingest.service import run_service

    return run_service(replace(options, roots=roots, patient=True), _log())


def main(args: Sequence[str] | None = None) -> int:
    """Run with these arguments (default: the process's own) and return the exit code; errors are log lines."""
    argv = list(sys.argv[1:] if args is None else args)
    try:
        result = command.main(argv, prog_name="python -m ingest", standalone_mode=False, default_map=_defaults(argv))
        return result if isinstance(result, int) else EXIT_DONE
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted", EXIT_INTERRUPTED)
    except click.ClickException as error:
        return _fail(f"{error.format_message()} (see python -m ingest --help)", error.exit_code)
    except SiameseSearchError as error:
        return _fail(str(error), error.exit_code)
    except Exception as error:
        from traceback import format_exc

        return _fail(f"unexpected {type(error).__name__}: {error}", EXIT_FAILED, traceback=format_exc())


def _defaults(argv: Sequence[str]) -> Mapping[str, Any]:
    """The table [ingest] of the settings files; of it what this command has, the rest is for ``sss ingest``."""
    if any(word.startswith("--check") for word in argv):
        return {}  # a probe runs every minute, and needs none of them
    from siamese_search.settings import load_settings

    mine = {parameter.name for parameter in command.params}
    return {name: value for name, value in load_settings().commands.get("ingest", {}).items() if name in mine}


def _fail(message: str, code: int, **fields: str) -> int:
    _log().write("error", "failed", message=" ".join(message.split()), exit_code=code, **fields)
    return code


def _log() -> Any:
    from ingest.service import JsonLog

    return JsonLog(sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
