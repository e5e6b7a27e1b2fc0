"""What a store holds, how it is kept and shown: ``sss info``, ``verify``, ``optimise``, ``drop``, ``serve``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from siamese_search import api
from siamese_search.cli.options import Place, json_option, place_options, store_option
from siamese_search.cli.output import (
    console,
    note,
    safe,
    warn,
    write_answer,
    write_pairs,
    write_sentence,
    write_table,
    write_text,
)
from siamese_search.cli.progress import Bar
from siamese_search.datasets.records import BOOKKEEPING
from siamese_search.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_PARTIAL,
    GalleryNotFoundError,
    StoreError,
    UsageError,
    amount,
    at_place,
)
from siamese_search.options import click_option, click_options
from siamese_search.render.marks import file_size
from siamese_search.settings import load_settings
from siamese_search.web.options import ServeOptions

if TYPE_CHECKING:
    from siamese_search.maintenance.verify import VerifySummary

_INFO_EPILOG = """\b
Examples:
  sss info                     the store in use
  sss info --store demo/.sss   another one, or a server: http://localhost:6333
  sss info --gallery station   all about one gallery
  sss info --model runs/first  a model bundle
"""

_VERIFY_EPILOG = """\b
Examples:
  sss verify                 vectors, and each file's size and time
  sss verify --checksum      each file's content too
  sss verify --vectors-only  where the images are on another machine
"""

_OPTIMISE_EPILOG = """\b
Examples:
  sss optimise              after a large ingest
  sss optimise --index yes  with an HNSW index, for very many searches
"""

_DROP_EPILOG = """\b
Examples:
  sss drop station        asks first
  sss drop station --yes  in a script
"""


@click.command("info", epilog=_INFO_EPILOG)
@place_options
@click_option(Place, "model")
@json_option
def info_command(store: str | None, gallery: str | None, model: str | None, json: bool) -> None:
    """Show the galleries of a store (or only --gallery), and the model that the settings name.

    A store that does not exist yet is shown as empty.
    """
    facts = api.describe(store=store, gallery=gallery, model=model)
    write_answer(facts, partial(_print_info, facts, alone=gallery is not None), json=json)


def _print_info(facts: dict[str, Any], *, alone: bool) -> None:
    galleries, model = facts["galleries"], facts["model"]
    write_pairs([("store", facts["store"] if galleries else f"{facts['store']}  (empty)")])
    if alone:
        _print_gallery(galleries[0])
    elif galleries:
        columns = [("gallery", "text"), ("images", "number"), ("identities", "number"), ("cameras", "number")]
        columns += [("size", "number"), ("model", "path"), ("", "text"), ("filter by", "words")]
        write_table(columns, [_row(item) for item in galleries])
        for item in galleries:
            if item["no_verdict"]:
                which = [] if item["name"] == load_settings().gallery else ["--gallery", item["name"]]
                write_sentence(f"{safe(item['name'])}: {at_place(item['no_verdict'], which)}")
    else:
        write_text("")
    enlarged = f", enlarged {model['enlarge']} times" if model["enlarge"] > 1 else ""
    size = "{}x{} (height x width)".format(*model["input_size"])
    pairs = [("model", model["name"]), ("fingerprint", model["fingerprint"])]
    pairs += [("network", f"{model['backbone']}, {model['dim']}-D"), ("input", f"{size}{enlarged}")]
    pairs += [("held out", amount(model["heldout_identities"], "identity"))]
    figures = {"on those" if name == "heldout" else safe(name): value for name, value in model["metrics"].items()}
    write_pairs([*pairs, *((name, _figures(value)) for name, value in figures.items())])


def _row(item: dict[str, Any]) -> list[str]:
    return [
        item["name"], *_counts(item), file_size(item["size_bytes"]),
        f"{item['model']['name']} ({item['model']['fingerprint'][:12]})".lstrip(),
        "being re-indexed" if item["building"] else "", " ".join(sorted(set(item["fields"]) - BOOKKEEPING)),
    ]  # fmt: skip


def _counts(item: dict[str, Any]) -> list[str]:
    return [f"{item[name]:,}" for name in ("points", "identities", "cameras")]


def _print_gallery(item: dict[str, Any]) -> None:
    """All about one."""
    from siamese_search.gallery.contract import ModelRef

    storage = item["storage"]
    quantised = "" if storage["quantisation"] == "none" else f", searched in {storage['quantisation']}"
    indexed, disk = item["indexed_points"], item["size_bytes"]
    size = f"{file_size(disk)}, about {file_size(item['resident_bytes'])} of it in memory to search"
    judged = f"by the {item['calibration']}'s calibration" if item["calibration"] else "none: not calibrated"
    pairs = [
        ("gallery", item["name"]),
        ("engine", item["engine"]),
        *zip(("images", "identities", "cameras"), _counts(item), strict=True),
        ("vectors", f"{storage['vectors']}{quantised}"),
        ("index", f"HNSW, {amount(indexed, 'image')}" if indexed else "none: exact search"),
        *([("size", size)] if disk is not None else []),  # a server does not say
        ("verdicts", "none, as said below" if item["no_verdict"] else judged),
        ("made by", str(ModelRef(**item["model"]))),
    ]
    if item["previous"]:
        pairs.append(("previous", f"{ModelRef(**item['previous'])}; sss rollback goes back to it"))
    if item["building"]:
        pairs.append(("building", f"{ModelRef(**item['building'])}; sss reindex goes on with it"))
    fields = [f"{name} ({kind})" for name, kind in sorted(item["fields"].items()) if name not in BOOKKEEPING]
    write_pairs([*pairs, ("filter by", ", ".join(fields))])
    write_sentence(item["no_verdict"] and f"\n{item['no_verdict']}\n\n")


def _figures(value: object) -> str:
    """A figure, or those of one data set: ``rank-1 86.2%, mAP 66.6%``."""
    if isinstance(value, dict):
        return ", ".join(
            f"{safe(name).replace('rank1', 'rank-1')} {_figures(figure)}" for name, figure in value.items()
        )
    return f"{value:.1%}" if isinstance(value, float) else safe(value)


@click.command("verify", epilog=_VERIFY_EPILOG)
@place_options
@click.option("--checksum", is_flag=True, help="Compare files by content where that is known. Reads every file.")
@click.option("--vectors-only", is_flag=True, help="Do not look at the files.")
@json_option
def verify_command(store: str | None, gallery: str | None, checksum: bool, vectors_only: bool, json: bool) -> int:
    """Compare every stored vector with its checksum, and every image's file with what was ingested.

    Each problem is named with its reason (exit code 3): a vector that has changed, a file that is gone, changed or
    cannot be looked at. Nothing is mended: `sss ingest --reembed DIR` embeds images again, `--prune` removes those
    that are gone.
    """
    if checksum and vectors_only:
        raise UsageError("--checksum compares files and --vectors-only leaves them out: give one of the two")
    with Bar("verify", "images") as bar:
        summary = api.verify(
            store=store, gallery=gallery, files=not vectors_only, checksum=checksum, progress=bar.update
        )
    for problem in summary.problems:
        warn(f"{problem.kind} {safe(problem.path or problem.key)}: {problem.reason}")
    if summary.wrong - summary.lost > len(summary.problems):
        warn(f"and {amount(summary.wrong - summary.lost - len(summary.problems), 'problem')} more")
    write_answer(summary.to_json(), _describe_check(summary), json=json)
    return EXIT_PARTIAL if summary.wrong else EXIT_DONE


def _describe_check(summary: VerifySummary) -> str:
    kinds = ("lost", "damaged", "missing", "changed", "unreadable")
    counts = [f"{count:,} {kind}" for kind in kinds if (count := getattr(summary, kind))]
    counts += [f"{summary.unchecked:,} without a checksum"] if summary.unchecked else []
    return (
        f"{amount(summary.points, 'image')}: {', '.join(counts) or 'all sound'} ({summary.seconds:.1f} s)\n"
        f"gallery '{safe(summary.collection)}' in {safe(summary.store)}"
    )


@click.command("optimise", epilog=_OPTIMISE_EPILOG)
@place_options
@click.option(
    "--index",
    type=click.Choice(["auto", "yes", "no"]),
    default="auto",
    help="Build an HNSW index: auto does where it pays (from 400,000 images, with int4 from 2,000,000).",
)
@json_option
def optimise_command(store: str | None, gallery: str | None, index: str, json: bool) -> None:
    """Write a gallery's vectors into one compact, read-only part: it opens faster and takes less memory.

    Works on a copy, in a process of its own. Searches and ingests go on; they wait only while the copy is made and
    while it takes the place of the original. Interrupted, the gallery is as it was. Without an index a search
    compares with every vector: quantised to int4 that takes tens of milliseconds for a million.
    """
    with _stages() as show:
        facts = api.optimise(
            store=store, gallery=gallery, index={"auto": None, "yes": True, "no": False}[index], progress=show
        )
    write_answer(facts, _describe_optimised(facts), json=json)


def _describe_optimised(facts: dict[str, Any]) -> str:
    where = f"gallery '{safe(facts['collection'])}' in {safe(facts['store'])}"
    if not facts["changed"]:
        return f"{amount(facts['points'], 'image')}, nothing to do\n{where}"
    index = f", {facts['indexed_points']:,} of them in an index" if facts["indexed_points"] else ""
    done = f"{amount(facts['points'], 'image')} optimised{index} ({facts['seconds']:.1f} s)\n{where}"
    if facts["size_bytes"] is None:
        return done  # a server does not say
    disk, memory = file_size(facts["size_bytes"]), file_size(facts["resident_bytes"])
    return f"{done}: {disk} on disk, {memory} in memory to search"


@contextmanager
def _stages() -> Iterator[Callable[[str, float], None]]:
    """What is being done, with the seconds passed on a terminal, and as a line for each stage elsewhere."""
    if sys.stderr.isatty():
        with console(stderr=True).status("optimise") as status:
            yield lambda stage, seconds: status.update(f"optimise: {stage}, {seconds:.0f} s")
        return
    told: set[str] = set()

    def tell(stage: str, seconds: float) -> None:
        if stage not in told:
            told.add(stage)
            note(f"optimise: {stage} (after {seconds:.0f} s)")

    yield tell


@click.command("drop", epilog=_DROP_EPILOG)
@click.argument("name", metavar="NAME")
@store_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def drop_command(name: str, store: str | None, yes: bool, json: bool) -> int:
    """Delete the gallery NAME with all its vectors, those kept for a rollback too. The images stay.

    Asks first on a terminal; elsewhere it needs --yes.
    """
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"nobody can be asked whether to delete gallery {name!r} here: give --yes")
        if not click.confirm(f"delete gallery '{safe(name)}'{_size(name, store)}?", err=True):
            note("nothing was deleted")
            return EXIT_FAILED
    api.drop(name, store=store)
    write_answer({"dropped": name}, f"gallery '{safe(name)}' deleted", json=json)
    return EXIT_DONE


def _size(name: str, store: str | None) -> str:
    """`` (12,936 images) in .sss``; GalleryNotFoundError before anybody is asked."""
    try:
        (facts,) = api.galleries(store=store, gallery=name)["galleries"]
    except GalleryNotFoundError:
        raise
    except StoreError:
        return " (damaged)"  # all the more reason to drop it
    return f" ({amount(facts['points'], 'image')}) in {safe(facts['store'])}"


_SERVE_EPILOG = """\b
Examples:
  sss serve --open
  sss serve --port 0 --read-only
  SSS_SERVE_KEY=$(openssl rand -hex 24) sss serve --host 0.0.0.0

docs/serve.md has the API, and what keeps strangers out.
"""


@click.command("serve", epilog=_SERVE_EPILOG)
@click_options(ServeOptions)
def serve_command(options: ServeOptions) -> None:
    """Serve a gallery to browsers, and an API under /api/v1, until Ctrl+C or SIGTERM."""
    from siamese_search.web.server import serve

    def started(url: str) -> None:
        write_text(f"Serving at {url} (Ctrl+C ends)\n")
        sys.stdout.flush()

    serve(options, started=started)
