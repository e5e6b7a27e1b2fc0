"""Care for a gallery's contents: ``sss label``, ``sss duplicates``, ``sss cluster``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from siamese_search import api, render
from siamese_search.cli.options import OutPath, Place, format_option, insecure_option, json_option, place_options
from siamese_search.cli.output import (
    LIST_FORMATS,
    note,
    safe,
    warn,
    write_answer,
    write_csv,
    write_drawn,
    write_json_list,
    write_paths,
    write_table,
    write_text,
)
from siamese_search.cli.progress import Bar
from siamese_search.curation.options import ClusterOptions, LabelOptions
from siamese_search.errors import EXIT_DONE, EXIT_PARTIAL, UsageError, amount
from siamese_search.options import click_option, click_options

if TYPE_CHECKING:
    from siamese_search.api.curation import LabelSummary
    from siamese_search.curation.duplicates import Group
    from siamese_search.curation.identities import Proposals
    from siamese_search.curation.labels import LabelPlan


_LABEL_EPILOG = """\b
Examples:
  sss label review.csv --dry-run            what would change
  sss label review.csv --undo-file undo.csv apply it; undo.csv is the way back
  sss label undo.csv                        take it back

The CSV names each image by key and source, or by path; its other columns are labels: identity, camera, any field.
An empty cell leaves a label as it is, <none> takes it away. The review of `sss cluster` is such a file.
"""

_SHOWN = 20

_DUPLICATES_EPILOG = """\b
Examples:
  sss duplicates                                   what is there twice
  sss duplicates --format paths --null | xargs -0 mv -t aside/
                                                   all but one of each

\b
identical: the same bytes. similar: the same picture, by its pixels.
unconfirmed: the vectors agree, a file cannot be read; not in --format paths.
"""

_CLUSTER_EPILOG = """\b
Examples:
  sss cluster review.csv                       images without identity
  sss cluster review.csv --save sheet.png      and a picture of each cluster
  sss cluster review.csv --all                 those with an identity, too
  sss cluster review.csv --where camera=1
then edit the column 'proposed identity' and apply it:
  sss label review.csv --dry-run
"""


@click.command("label", epilog=_LABEL_EPILOG)
@click.argument("table", metavar="FILE.csv", type=click.Path(path_type=Path))
@click_options(LabelOptions, after={"store": [insecure_option]})
@json_option
def label_command(table: Path, options: LabelOptions, json: bool) -> None:
    """Set labels by hand: those of FILE.csv, for the images that its rows name.

    Every row is checked first, and nothing is changed unless all of them can be applied. Labels that were set in this
    way stay when the images are ingested again, whatever their directory says. Interrupted, the same command goes on.
    """
    if options.dry_run and options.undo is not None:
        raise UsageError("--dry-run changes nothing, so there is nothing to undo: leave --undo-file out")
    with Bar("label", "images") as bar:
        summary = api.label(table, options=options, progress=bar.update, on_plan=_tell)
    write_answer(summary.to_json, partial(_print_label, summary), json=json)


def _tell(plan: LabelPlan) -> None:
    for text in plan.notes:
        note(text)
    for problem in plan.problems[:_SHOWN]:
        warn(f"{safe(plan.file)}: {problem}")
    if len(plan.problems) > _SHOWN:
        warn(f"and {amount(len(plan.problems) - _SHOWN, 'row')} more")


def _print_label(summary: LabelSummary) -> None:
    from siamese_search.curation.labels import shown_path

    changes = summary.plan.changes
    rows: list[list[Any]] = [
        [shown_path(change), name, _cell(change.before[name]), _cell(after)]
        for change in changes[:_SHOWN]
        for name, after in change.after.items()
    ]
    if rows:
        write_table([("image", "path"), ("field", "text"), ("was", "text"), ("is", "text")], rows[:_SHOWN])
    if len(changes) > _SHOWN:
        write_text(f"… and {amount(len(changes) - _SHOWN, 'image')} more")
    done = "would change" if summary.dry_run else "changed"
    write_text(f"{amount(len(changes), 'image')} {done}, {summary.plan.unchanged:,} are so already")
    if summary.undo is not None:
        write_text(f"to take it back: sss label {quote(safe(summary.undo))}")
    write_text(f"gallery '{safe(summary.gallery)}' in {safe(summary.store)}")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)


@click.command("duplicates", epilog=_DUPLICATES_EPILOG)
@click_option(Place, "where")
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="S",
    help="Least cosine similarity of two images that are compared.  [default: 0.9]",
)
@format_option(*LIST_FORMATS)
@click_option(Place, "null")
@place_options
def duplicates_command(
    where: tuple[str, ...], threshold: float | None, format: str, null: bool, store: str | None, gallery: str | None
) -> int:
    """Find the same picture under several names, by vectors first and then by the files themselves.

    The first of each group is the one to keep: that of most pixels, then of most bytes, then the oldest. Two people
    who merely look alike to the model are not reported, and nothing is ever deleted.
    """
    with Bar("duplicates", "blocks") as bar:
        groups = api.duplicates(threshold=threshold, where=where, store=store, gallery=gallery, progress=bar.update)
    return EXIT_PARTIAL if _print_duplicates(groups, format, null) else EXIT_DONE


def _print_duplicates(groups: Sequence[Group], format: str, null: bool) -> int:
    """Returns how many paths had to be left out."""
    left_out = 0
    if format in ("json", "jsonl"):
        write_json_list(map(_shape, groups), lines=format == "jsonl")
    elif format == "csv":
        columns = ("kind", "keep", "path", "key", "source", "identity", "score", "size", "width", "height")
        write_csv(
            ["group", *columns],
            (
                [number, group.kind, index == 0, one.path, one.key, one.source, one.identity, f"{one.score:.6f}",
                 one.size, one.width, one.height]
                for number, group in enumerate(groups, 1)
                for index, one in enumerate(group.members)
            ),
        )  # fmt: skip
    elif format == "paths":
        sure = [group for group in groups if group.kind != "unconfirmed"]
        left_out = write_paths((one.path for group in sure for one in group.members[1:]), null=null)
        if len(sure) < len(groups):
            note(f"{amount(len(groups) - len(sure), 'group')} left out: files that cannot be read")
    elif groups:
        _print_table(groups)
    else:
        write_text("no image is a duplicate of another")
    several = sum(len({one.identity for one in group.members} - {None}) > 1 for group in groups)
    if several and format in ("paths", "table"):
        note(f"{amount(several, 'group')} of several identities: one picture, so look who it is before any is moved")
    return left_out


def _print_table(groups: Sequence[Group]) -> None:
    rows: list[list[Any]] = [
        [number if index == 0 else "", group.kind if index == 0 else "", "keep" if index == 0 else "",
         f"{one.score:.4f}", "" if one.width is None else f"{one.width}×{one.height}",
         "" if one.size is None else f"{one.size:,}", one.identity, one.path]
        for number, group in enumerate(groups, 1)
        for index, one in enumerate(group.members)
    ]  # fmt: skip
    columns = [("#", "number"), ("kind", "text"), ("", "text"), ("score", "number"), ("pixels", "number")]
    write_table([*columns, ("bytes", "number"), ("identity", "text"), ("image", "path")], rows)
    spare = sum(len(group.members) - 1 for group in groups)
    write_text(f"{amount(len(groups), 'group')}, {amount(spare, 'image')} to spare; nothing was deleted")


def _shape(group: Group) -> dict[str, Any]:
    """The JSON contract of ``sss duplicates``."""
    names = ("path", "key", "source", "identity", "score", "same_bytes", "size", "width", "height")
    images: list[dict[str, Any]] = [
        {name: getattr(one, name) for name in names} | {"path": str(one.path), "score": round(one.score, 6)}
        for one in group.members
    ]
    return {"kind": group.kind, "keep": images[0]["path"], "images": images}


@click.command("cluster", epilog=_CLUSTER_EPILOG)
@click.argument("out", metavar="OUT.csv", type=OutPath())
@click_options(
    ClusterOptions,
    after={
        "labelled": [click.option("--save", type=OutPath(".png"), metavar="FILE.png", help="Also draw the clusters.")],
        "store": [insecure_option],
    },
)
@json_option
def cluster_command(out: Path, options: ClusterOptions, save: Path | None, json: bool) -> None:
    """Group images that seem to show one identity, by their stored vectors, and write OUT.csv for a person to review.

    Nothing in the gallery is changed. Clusters come largest first, the surest images of each first; single images are
    at the end. At most 20,000 images at once.
    """
    from siamese_search.curation.identities import write_review

    prefix = options.prefix
    if not prefix.strip() or not prefix.isprintable() or prefix.isdecimal():
        raise UsageError(f"--prefix {safe(prefix)!r} must be a printable name, and not a number")
    started = time.monotonic()
    found = api.propose_identities(options=options)
    write_review(found, out)
    write_drawn(render.draw_clusters, found, save)
    if found.cosine is None:
        note("the model has no calibration, so only neighbourhoods decide; --min-score sets a least similarity")
    told = _cluster_shape(found, out, time.monotonic() - started)
    text = (
        f"{amount(told['images'], 'image')}: {amount(told['new'], 'new identity')}, {told['known']:,} known ones,"
        f" {told['conflicts']:,} conflicts, {amount(told['single'], 'single image')}\n"
    )
    after = f"review {quote(safe(out))}, then: sss label {quote(safe(out))} --dry-run"
    text += after if found.images else "each has an identity; --all groups them too"
    write_answer(told, text, json=json)


def _cluster_shape(found: Proposals, out: Path, seconds: float) -> dict[str, Any]:
    """The JSON contract of ``sss cluster --json``."""
    return {
        "out": str(out),
        "images": len(found.images),
        "new": found.count("new"),
        "known": found.count("known"),
        "conflicts": found.count("conflict"),
        "single": found.count("single"),
        "neighbours": found.neighbours,
        "least": found.least,
        "min_score": None if found.cosine is None else round(found.cosine, 6),
        "seconds": round(seconds, 3),
    }
