"""``python -m ingest``: the ingest worker as a service. What the containers in ``deploy/`` run."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from siamese_search._version import __version__
from siamese_search.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, SiameseSearchError

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
@click.argument("roots", metavar="ROOT...", nargs=-1)
@click.option("--watch", is_flag=True, help="Go on: ingest what changes, remove what is deleted.")
@click.option("--store", metavar="DIR|URL", help="Directory or URL of the vector store.")
@click.option("--gallery", metavar="NAME", help="Gallery inside the store.")
@click.option("--model", metavar="BUNDLE", help="Model bundle.")
@click.option(
    "--layout",
    type=click.Choice(["auto", "folders", "market1501", "csv", "triplets", "flat"]),
    default="auto",
    help="How identities are named on disk.",
)
@click.option("--source", metavar="NAME", help="Name of the source, in place of each directory's full path.")
@click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help="Images per forward pass.")
@click.option("--threads", type=click.IntRange(min=0), metavar="N", help="CPU threads; 0 takes all.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "openvino", "cuda"]),
    default="auto",
    help="Where the network runs.",
)
@click.option("--reembed", is_flag=True, help="Embed everything again at first, unchanged files too.")
@click.option("--checksum", is_flag=True, help="Compare files by content; moved ones keep their point.")
@click.option("--prune", is_flag=True, help="Full scans remove images whose file has gone.")
@click.option("--prune-anyway", is_flag=True, help="The same, even where it is over a fifth of them.")
@click.option("--follow-links", is_flag=True, help="Follow symbolic links to folders, and out of ROOT.")
@click.option(
    "--storage",
    type=click.Choice(["float32", "float16"]),
    help="How a new gallery stores its vectors; float16 takes half the space.",
)
@click.option(
    "--quantise",
    type=click.Choice(["none", "int8", "int4", "binary"]),
    help="Search in a copy of the vectors of 8, 4 or 1 bits a number; results are scored exactly.",
)
@click.option(
    "--shard",
    metavar="I/N",
    help="Only part I (from 0) of N, by a hash of each file's name; auto/N in an indexed Kubernetes job.",
)
@click.option("--failures", metavar="FILE", help="List every skipped file there, as lines of JSON.")
@click.option(
    "--rescan-minutes",
    type=click.FloatRange(min=0),
    default=60.0,
    metavar="N",
    help="With --watch: time between full scans; 0 for never.",
)
@click.option("--poll", is_flag=True, help="With --watch: for network shares, which tell nobody of changes.")
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Serve Prometheus metrics at /metrics.",
)
@click.option("--metrics-host", metavar="HOST", default="127.0.0.1", help="Address to serve them at.")
@click.option(
    "--health-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Say there how it fares.",
)
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
    "--alive",
    is_flag=True,
    help="With --check: only whether it lives; it may be waiting for its store or a directory.",
)
@click.version_option(__version__, "-V", "--version", prog_name="siamese-search ingest worker")
def command(
    roots: tuple[str, ...],
    watch: bool,
    store: str | None,
    gallery: str | None,
    model: str | None,
    layout: str,
    source: str | None,
    batch_size: int | None,
    threads: int | None,
    device: Any,
    reembed: bool,
    checksum: bool,
    prune: bool,
    prune_anyway: bool,
    follow_links: bool,
    storage: str | None,
    quantise: str | None,
    shard: str | None,
    failures: str | None,
    rescan_minutes: float,
    poll: bool,
    metrics_port: int | None,
    metrics_host: str,
    health_file: Path | None,
    check: Path | None,
    max_age: float,
    alive: bool,
) -> int:
    """Ingest the images under each ROOT (a directory or a .csv file) into a gallery, as a service.

    Log lines on stderr are JSON objects. SIGTERM finishes the batch in hand and commits it.
    """
    if check is not None:
        return _check(check, max_age, alive)
    if not roots:
        raise click.UsageError("nothing to ingest: name a directory of images or a CSV file")
    from ingest.scan import parse_shard
    from ingest.service.service import ServiceOptions, run_service
    from ingest.watching.watch import WatchOptions

    watching = WatchOptions(
        layout=layout,
        source=source,
        reembed=reembed,
        checksum=checksum,
        prune="anyway" if prune_anyway else "safe" if prune else "no",
        follow_links=follow_links,
        rescan_minutes=rescan_minutes,
        poll=poll,
        patient=True,
    )
    options = ServiceOptions(
        roots=roots,
        watch=watch,
        watching=watching,
        store=store,
        gallery=gallery,
        model=model,
        batch_size=batch_size,
        threads=threads,
        device=device,
        storage=storage,
        quantise=quantise,
        shard=None if shard is None else parse_shard(shard),
        failures=failures,
        metrics_port=metrics_port,
        metrics_host=metrics_host,
        health_file=health_file,
    )
    return run_service(options, _log())


def main(args: Sequence[str] | None = None) -> int:
    """Run with these arguments (default: the process's own) and return the exit code; errors are log lines."""
    argv = list(sys.argv[1:] if args is None else args)
    try:
        result = command.main(
            argv, prog_name="python -m ingest", standalone_mode=False, default_map=_defaults(argv)
        )
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


def _check(path: Path, max_age: float, alive: bool) -> int:
    from ingest.service.health import trouble

    reason = trouble(path, max_age, alive=alive)
    click.echo("healthy" if reason is None else f"unhealthy: {reason}")
    return EXIT_DONE if reason is None else EXIT_FAILED


def _fail(message: str, code: int, **fields: str) -> int:
    _log().write("error", "failed", message=" ".join(message.split()), exit_code=code, **fields)
    return code


def _log() -> Any:
    from ingest.service.jsonlog import JsonLog

    return JsonLog(sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
