"""``sss duplicates``: which images are in a gallery more than once, and which of each to keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from siamese_search.cli.options import place_options
from siamese_search.cli.output import (
    LIST_FORMATS,
    note,
    write_csv,
    write_json,
    write_paths,
    write_table,
    write_text,
)
from siamese_search.errors import EXIT_DONE

if TYPE_CHECKING:
    from siamese_search.curation.duplicates import Group, Member

EPILOG = """\b
Examples:
  sss duplicates                                   what is there twice
  sss duplicates --where camera=2 --format json    for a script
  sss duplicates --format paths | xargs -d '\\n' mv -t aside/
                                                   all but the one to keep of each

\b
identical: the same bytes. similar: the same picture, re-encoded or resized, by its pixels.
unconfirmed: a file cannot be read, and the vectors agree; --format paths leaves those out.
"""


@click.command("duplicates", epilog=EPILOG, short_help="Find images that are in a gallery twice.")
@click.option("--where", multiple=True, metavar="FILTER", help='Such as "camera=2"; may be repeated.')
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="S",
    help="Least cosine similarity of two images that are compared.  [default: 0.9]",
)
@click.option("--format", type=click.Choice(LIST_FORMATS), default="table", help="Form of the answer.")
@place_options
def command(
    where: tuple[str, ...], threshold: float | None, format: str, store: str | None, gallery: str | None
) -> int:
    """Find the same picture under several names, by vectors first and then by the files themselves.

    The first of each group is the one to keep: that of most pixels, then of most bytes, then the oldest. Two people
    who merely look alike to the model are not reported, and nothing is ever deleted.
    """
    from siamese_search.api import curation
    from siamese_search.cli.progress import Bar

    with Bar("duplicates", "blocks") as bar:
        groups = curation.duplicates(
            threshold=threshold, where=where, store=store, gallery=gallery, progress=bar.update
        )
    _print(groups, format)
    return EXIT_DONE


def _print(groups: Sequence[Group], format: str) -> None:
    if format == "json":
        write_json([_shape(group) for group in groups])
    elif format == "jsonl":
        for group in groups:
            write_json(_shape(group), lines=True)
    elif format == "csv":
        header = [
            "group",
            "kind",
            "keep",
            "path",
            "key",
            "source",
            "identity",
            "score",
            "size",
            "width",
            "height",
        ]
        write_csv(
            header,
            (
                [number, group.kind, index == 0, one.path, one.key, one.source, one.identity, f"{one.score:.6f}",
                 one.size, one.width, one.height]
                for number, group in enumerate(groups, 1)
                for index, one in enumerate(group.members)
            ),
        )  # fmt: skip
    elif format == "paths":
        sure = [group for group in groups if group.kind != "unconfirmed"]
        write_paths(one.path for group in sure for one in group.members[1:])
        if len(sure) < len(groups):
            note(f"{len(groups) - len(sure):,} groups left out: files that cannot be read")
    else:
        _print_table(groups)


def _print_table(groups: Sequence[Group]) -> None:
    if not groups:
        write_text("no duplicates")
        return
    rows: list[list[Any]] = [
        [number if index == 0 else "", group.kind if index == 0 else "", "keep" if index == 0 else "",
         f"{one.score:.4f}", _pixels(one), f"{one.size:,}" if one.size is not None else "", one.identity, one.path]
        for number, group in enumerate(groups, 1)
        for index, one in enumerate(group.members)
    ]  # fmt: skip
    columns = [("#", "number"), ("kind", "text"), ("", "text"), ("score", "number"), ("pixels", "number")]
    write_table([*columns, ("bytes", "number"), ("identity", "text"), ("image", "path")], rows)
    spare = sum(len(group.members) - 1 for group in groups)
    plural = "" if len(groups) == 1 else "s"
    write_text(
        f"{len(groups):,} group{plural}, {spare:,} image{'' if spare == 1 else 's'} to spare; nothing was deleted"
    )


def _pixels(one: Member) -> str:
    return "" if one.width is None else f"{one.width}×{one.height}"


def _shape(group: Group) -> dict[str, Any]:
    """The JSON contract of ``sss duplicates``."""
    from siamese_search.retrieval.results import json_path

    return {
        "kind": group.kind,
        "keep": json_path(group.members[0].path),
        "images": [
            {
                "path": json_path(one.path),
                "key": one.key,
                "source": one.source,
                "identity": one.identity,
                "score": round(one.score, 6),
                "same_bytes": one.same_bytes,
                "size": one.size,
                "width": one.width,
                "height": one.height,
            }
            for one in group.members
        ],
    }
