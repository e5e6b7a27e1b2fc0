"""``sss calibrate``: what scores mean in a gallery, by its own labels."""

from __future__ import annotations

import click

from siamese_search.cli.options import json_option, place_options
from siamese_search.cli.output import safe, write_json, write_text

EPILOG = """\b
Examples:
  sss calibrate                    by the labels of the gallery in use
  sss calibrate --gallery station  of another one
  sss calibrate --undo             take the last one back
  sss evaluate photos/ --calibrate by labelled images that are in no gallery
"""


@click.command("calibrate", epilog=EPILOG, short_help="Measure what scores mean in a gallery.")
@click.option("--undo", is_flag=True, help="Take the last calibration back; again: put it in its place.")
@place_options
@json_option
def calibrate_command(undo: bool, store: str | None, gallery: str | None, json: bool) -> None:
    """Measure what scores mean on the labelled images of a gallery, and keep that in the gallery.

    From then on its searches say match or no match by that. No image is read; the model stays as it is. The former
    calibration is kept, for --undo.
    """
    from siamese_search.api.calibration import calibrate
    from siamese_search.cli.evaluate import thresholds

    found = calibrate(store=store, gallery=gallery, undo=undo)
    if json:
        write_json(found.to_json())
        return
    place = f"gallery '{safe(found.gallery)}' in {safe(found.store)}"
    if found.calibration is None:
        write_text(f"{place}: back to the calibration of its model")
        return
    lines = [f"least score at a false match rate of  {thresholds(found.calibration)}"]
    if undo:
        lines.append(f"{place}: back to the calibration on {safe(found.calibration.data)}")
    else:
        lines.append(f"measured on {found.images:,} images of {found.identities:,} identities")
        lines.append(f"written to {place}; sss calibrate --undo takes it back")
    write_text("\n".join(lines))
