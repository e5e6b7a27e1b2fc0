"""``sss plot``: a gallery as a map, similar images near each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from siamese_search.cli.options import json_option, place_options
from siamese_search.cli.output import note, safe, write_json, write_pairs
from siamese_search.errors import UsageError

if TYPE_CHECKING:
    from siamese_search.retrieval.map import GalleryMap

EPILOG = """\b
Examples:
  sss plot                              map-default.html: point at a dot to see the image
  sss plot --save map.png               a picture
  sss plot --color camera               do cameras, not identities, keep images apart?
  sss plot --where camera=1,3 --limit 500
  sss plot --method umap --seed 7
  sss plot --json > map.json            the coordinates

t-SNE needs pip install 'siamese-search[analysis]', UMAP the [umap] extra; PCA needs nothing.
"""


@click.command("plot", epilog=EPILOG, short_help="Draw a gallery as a map: similar images near each other.")
@click.option(
    "--method",
    type=click.Choice(["pca", "tsne", "umap"]),
    help="How vectors become places.  [default: tsne if scikit-learn is installed, else pca]",
)
@click.option("--where", multiple=True, metavar="FILTER", help='Such as "camera=2"; may be repeated.')
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=2000,
    metavar="N",
    help="At most so many images, drawn at random where there are more.",
)
@click.option("--color", "--colour", default="identity", metavar="FIELD", help="What the colours stand for.")
@click.option(
    "--save",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to write the map: a page (.html) or a picture (.png).  [default: map-GALLERY.html]",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31 - 1),
    default=0,
    metavar="N",
    help="Of the sample and of the layout.",
)
@place_options
@json_option
def command(
    method: str | None,
    where: tuple[str, ...],
    limit: int,
    color: str,
    save: Path | None,
    seed: int,
    store: str | None,
    gallery: str | None,
    json: bool,
) -> None:
    """Place a gallery's images on a plane by their stored vectors. No image is embedded, and no model is needed.

    With --json the coordinates are printed, and a map is written only where --save names it.
    """
    from siamese_search.api.search import map_gallery

    if save is not None and save.suffix.lower() not in (".png", ".html", ".htm"):
        raise UsageError(f"{safe(save)}: a map is a page or a picture; name the file with .html or .png")
    found = map_gallery(
        store=store,
        gallery=gallery,
        method=method,
        where=where,
        limit=limit,
        color=color,
        seed=seed,
        notify=note,
    )
    if save is None and not json:
        save = Path(f"map-{found.gallery}.html")
    if save is not None:
        _write(found, save)
    if json:
        write_json({**found.to_json(), "saved": None if save is None else str(save)})
        return
    values = {point.value for point in found.points if point.value is not None}
    shown = f"{len(found.points):,}"
    if found.total > len(found.points):
        shown += f" of {found.total:,}, drawn at random (seed {found.seed})"
    write_pairs(
        [
            ("images", shown),
            ("coloured", f"by {found.color}, {len(values):,} different"),
            ("map", save),
        ]
    )


def _write(found: GalleryMap, save: Path) -> None:
    if save.suffix.lower() == ".png":
        from siamese_search.render.map import draw_map

        draw_map(found, save)
    else:
        from siamese_search.render.map import write_map_page

        write_map_page(found, save)
