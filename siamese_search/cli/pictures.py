"""``sss plot``: a gallery as a map; ``sss compare``: are two images the same identity?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from siamese_search import api, render
from siamese_search.cli import output
from siamese_search.cli.options import format_option, insecure_option, json_option, save_option
from siamese_search.cli.output import note, safe, write_csv, write_json, write_pairs, write_table, write_text
from siamese_search.errors import UsageError, amount
from siamese_search.options import click_options
from siamese_search.render.marks import percent
from siamese_search.retrieval.options import CompareOptions, MapOptions

if TYPE_CHECKING:
    from siamese_search.retrieval.comparison import Comparison


_PLOT_EPILOG = """\b
Examples:
  sss plot                  map-default.html: point at a dot to see the image
  sss plot --save map.png   a picture
  sss plot --color camera   do cameras, not identities, keep images apart?

t-SNE needs pip install 'siamese-search[analysis]', UMAP the [umap] extra; PCA needs nothing.
"""

#: As of ``grep`` and ``diff``: 0 the same, 1 different, 2 could not tell. An error must never read as "different".
EXIT_SAME, EXIT_DIFFERENT, EXIT_TROUBLE = 0, 1, 2

#: Columns of a table that a terminal can still show.
_MAX_COLUMNS = 12

_COMPARE_EPILOG = """\b
Examples:
  sss compare a.jpg b.jpg                    the same identity?
  sss compare a.jpg b.jpg --fmr 0.001        at one false match in a thousand
  sss compare a.jpg photos/ --save who.png   one against many, as a picture
  sss compare anna/ photos/ --save all.html  every pair, as a page
  if sss compare door.jpg anna.jpg > /dev/null; then echo open; fi

Needs a calibration (sss calibrate) or --threshold.
Exit codes: 0 the same (of several pairs: at least one), 1 different, 2 could not tell.
"""


@click.command("plot", epilog=_PLOT_EPILOG)
@click_options(
    MapOptions,
    after={
        "color": [
            save_option("Where to write the map: a page (.html) or a picture (.png).  [default: map-GALLERY.html]")
        ],
        "store": [insecure_option],
    },
)
@json_option
def plot_command(options: MapOptions, save: Path | None, json: bool) -> None:
    """Place a gallery's images on a plane by their stored vectors. No image is embedded, and no model is needed.

    With --json the coordinates are printed, and a map is written only where --save names it.
    """
    found = api.map_gallery(options=options, notify=note)
    if save is None and not json:
        save = Path(f"map-{found.gallery}.html")
    if save is not None:
        (render.draw_map if save.suffix.lower() == ".png" else render.write_map_page)(found, save)
    if json:
        write_json({**found.to_json(), "saved": save})
        return
    values = {point.value for point in found.points if point.value is not None}
    shown = f"{len(found.points):,}"
    if found.total > len(found.points):
        shown += f" of {found.total:,}, drawn at random (seed {found.seed})"
    write_pairs([("images", shown), ("coloured", f"by {found.color}, {len(values):,} different"), ("map", save)])


@click.command("compare", epilog=_COMPARE_EPILOG)
@click.argument("a", type=click.Path(), metavar="A")
@click.argument("b", type=click.Path(), metavar="B")
@click_options(CompareOptions, after={"store": [insecure_option]})
@format_option("table", "json", "csv")
@save_option("Also draw the pairs with their scores: a screenful as a picture (.png), or all as a page (.html).")
def compare_command(a: str, b: str, options: CompareOptions, format: str, save: Path | None) -> int:
    """Compare image A with image B. A directory on either side stands for all images in it: then every pair.

    The probability is the one that a search in the gallery in use gives such a pair; without a gallery, the prior is 1
    in 100.
    """
    try:
        found = api.compare(a, b, options=options)
        output.warn_skipped(found.failed)
        _print_comparison(found, format)
        output.write_drawn(render.draw_comparison, found, save)
        if found.any_same is None:
            reason = found.judge.why or "the model is not calibrated; with labels: sss calibrate"
            raise UsageError(f"there is no threshold to decide by (--threshold sets one): {reason}")
    except Exception as error:  # whatever it was, it is not the answer "another identity"
        error.exit_code = EXIT_TROUBLE  # type: ignore[attr-defined]
        raise
    return EXIT_SAME if found.any_same else EXIT_DIFFERENT


def _print_comparison(found: Comparison, format: str) -> None:
    if format == "json":
        write_json(found.to_json())
    elif format == "csv":
        pairs = found.to_json()["pairs"]
        columns = ["a", "b", "score", "probability", "same"]
        write_csv(columns, ([pair[name] for name in columns] for pair in pairs))
    elif found.scores.size == 1:
        _print_pair(found)
    else:
        _print_matrix(found)


def _print_pair(found: Comparison) -> None:
    chance = None
    if found.probabilities is not None:
        judge = found.judge
        whose = f"prior 1 in {1 / judge.prior:,.3g}; the {judge.origin}'s calibration"
        chance = f"{percent(float(found.probabilities[0, 0]))}  ({whose}{f'; {judge.doubt}' if judge.doubt else ''})"
    verdict = {True: "same", False: "different", None: "not decided"}[found.any_same]
    pairs = [("verdict", verdict), ("score", f"{found.scores[0, 0]:.4f}")]
    write_pairs([*pairs, ("threshold", _threshold(found)), ("probability", chance)])


def _threshold(found: Comparison) -> str | None:
    if found.threshold is None:
        return None
    origin = "" if found.false_match_rate is None else f"  (false match rate {found.false_match_rate:.2g})"
    return f"{found.threshold:.4f}{origin}"


def _print_matrix(found: Comparison) -> None:
    """Scores, those of the same identity marked; a row per image of A, a column per image of B."""
    shown, same = found.nearest(len(found.left), _MAX_COLUMNS), found.same

    def cell(row: int, column: int) -> str:
        mark = "*" if shown.same is not None and shown.same[row, column] else " "
        return f"{shown.scores[row, column]:.3f}{mark}"

    columns = range(len(shown.right))
    write_table(
        [("A", "path"), *((f"B{column + 1}", "number") for column in columns)],
        [[path.name, *(cell(row, column) for column in columns)] for row, path in enumerate(found.left)],
    )
    for number, path in enumerate(shown.right, start=1):
        write_text(f" B{number:<3} {safe(path.name)}")
    if len(columns) < len(found.right):
        note(f"the nearest {len(columns)} of {len(found.right)} columns; --format csv has every pair")
    if same is not None:
        told = f"* the same identity: {int(same.sum()):,} of {amount(same.size, 'pair')} at {_threshold(found)} or more"
        note("; ".join(filter(None, [told, found.judge.doubt])))
