"""``sss evaluate``: how far to trust the answers; ``sss calibrate``: what scores mean in a gallery."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from siamese_search import api, render
from siamese_search.cli import output
from siamese_search.cli.options import OutPath, json_option, place_options, save_option
from siamese_search.cli.output import note, safe, warn_skipped, write_answer, write_pairs, write_table, write_text
from siamese_search.cli.progress import Bar
from siamese_search.errors import EXIT_DONE, EXIT_PARTIAL, UsageError, amount
from siamese_search.evaluation.options import EvaluateOptions
from siamese_search.options import click_options
from siamese_search.render.marks import decimal, rate

if TYPE_CHECKING:
    from siamese_search.evaluation.findings import PairedReport
    from siamese_search.evaluation.report import EvaluationReport
    from siamese_search.model.calibration import Calibration

_EPILOG = """\b
Examples:
  sss evaluate                                  the newest run under runs/
  sss evaluate photos/ --model runs/first       a model, on labelled images
  sss evaluate gallery/ --queries queries/      two sets, as in Market-1501
  sss evaluate faces/ --save roc.png            also the curves
  sss evaluate --quantise int8                  what fewer bits lose
  sss evaluate photos/ --compare runs/a runs/b  which is better, or luck?

Matches from the query's own camera do not count, unless --no-cameras says so.
"""

_CALIBRATE_EPILOG = """\b
Examples:
  sss calibrate                    by the labels of the gallery in use
  sss calibrate --gallery station  of another one
  sss calibrate --undo             take the last one back
  sss evaluate photos/ --calibrate by labelled images that are in no gallery
"""


@click.command("evaluate", epilog=_EPILOG)
@click.argument("data", type=click.Path(), required=False, metavar="[DATA]")
@click_options(
    EvaluateOptions,
    after={
        "calibrate": [
            click.option(
                "--compare",
                nargs=2,
                metavar="RUN_A RUN_B",
                help="Measure two models on the same queries, and how sure the difference is.",
            )
        ]
    },
)
@save_option(
    "Also draw the curves (.png, .svg), or write the page of --report (.html).", ".svg", former=("--plot", "save")
)
@click.option(
    "--report",
    type=OutPath(directory=True),
    metavar="DIR",
    help="Also write report.json and report.html, a page with curves, cameras and the worst queries.",
)
@json_option
def evaluate_command(
    data: str | None,
    options: EvaluateOptions,
    compare: tuple[str, str] | None,
    save: Path | None,
    report: Path | None,
    json: bool,
) -> int:
    """Embed the labelled images in DATA, search for each among the others, and count the right answers.

    Without DATA: the newest model under runs/, on the identities that its training held out.
    """
    if compare is not None and (options.model is not None or save is not None or report is not None):
        raise UsageError(
            "--compare names its two models itself and draws nothing: leave out --model, --save and --report"
        )
    with Bar("embed", "images") as embedding, Bar("rank", "queries") as ranking:

        def show(stage: str, done: int, total: int) -> None:
            if stage != "embed":
                embedding.close()
            (embedding if stage == "embed" else ranking).update(done, total)

        if compare is not None:
            pair = api.compare_models(*compare, data, options=options, progress=show, notify=note)
            warn_skipped(pair.a.failed)
            write_answer(pair.to_json, partial(_print_compared, pair), json=json)
            return EXIT_PARTIAL if pair.a.failed else EXIT_DONE
        found = api.evaluate(data, options=options, progress=show, notify=note)
    warn_skipped(found.failed)
    write_answer(found.to_json, partial(_print, found), json=json)
    # Last: the figures must not be lost to a directory that cannot be written.
    typed = shlex.join(["sss", *sys.argv[1:]])
    as_page = save is not None and save.suffix.lower() in (".htm", ".html")
    output.write_drawn(partial(render.write_report_page, command=typed) if as_page else render.draw_curves, found, save)
    if report is not None:
        note(f"wrote {safe(render.write_report(found, report, typed))}")
    return EXIT_PARTIAL if found.failed else EXIT_DONE


def _print_compared(pair: PairedReport) -> None:
    """Two models side by side."""
    write_text(f"A  {safe(pair.a.model_name)}\nB  {safe(pair.b.model_name)}")
    names = {"rank1": "rank-1", "mAP": "mAP", "mINP": "mINP"}
    write_table(
        [("", "text"), *((name, "number") for name in ("A", "B", "B - A", "95% interval", "B ahead"))],
        [
            [names[name], rate(one.a), rate(one.b), f"{one.difference:+.1%}",
             f"{one.low:+.1%} to {one.high:+.1%}", rate(one.better)]
            for name, one in pair.differences.items()
        ],
    )  # fmt: skip
    tested = f"{amount(pair.a.ranking.queries, 'query')} of {amount(len(set(pair.a.plan.query_ids)), 'identity')}"
    write_text(f"{tested}; intervals by bootstrap over identities")


def _print(report: EvaluationReport) -> None:
    ranking, verification = report.ranking, report.verification
    rates = "  ".join(f"{far}: {rate(tar)}" for far, tar in verification.tar_at_far.items())
    behind = "  ".join(
        f"{far}: {'n/a' if point is None else f'{point.false_accepts:,}'}" for far, point in verification.at_far.items()
    )
    points = report.open_set_points().items()
    missed = "  ".join(f"{far}: {rate(None if point is None else point.fnir)}" for far, point in points)
    threshold = "n/a"
    if verification.threshold is not None:
        threshold = f"{verification.threshold:.4f} (false matches {rate(verification.false_match_rate)})"
    filtered = "" if report.filtered_recall is None else f", filtered by camera {rate(report.filtered_recall)}"
    cut = f"@{report.depth}" if report.depth is not None else ""
    again = None if report.reranked is None else report.reranked.metrics
    write_pairs(
        [
            ("queries", f"{ranking.queries:,} against {amount(ranking.gallery, 'image')}"),
            ("", f"{ranking.invalid_queries:,} of them invalid") if ranking.invalid_queries else ("", None),
            ("rank-1", rate(ranking.rank1)),
            ("rank-5", rate(ranking.rank5)),
            ("rank-10", rate(ranking.rank10)),
            (f"mAP{cut}", f"{rate(ranking.mAP)}  (trapezoidal {rate(ranking.mAP_trapezoid)})"),
            ("mINP", rate(ranking.mINP)),
            ("re-ranked", f"rank-1 {rate(again.rank1)}, mAP {rate(again.mAP)}") if again else ("", None),
            ("same or not", f"AUC {decimal(verification.auc)}, equal error rate {rate(verification.eer)}"),
            ("pairs", f"{verification.genuine:,} of the same identity, {verification.impostor:,} of different ones"),
            ("TAR at FAR", rates),
            ("resting on", f"{behind}  false pairs" if verification.impostor else None),
            ("threshold", threshold),
            ("open set", f"missed where strangers raise a false alarm at  {missed}"),
            ("index recall", f"{rate(report.ann_recall)}{filtered}"),
            *_quantised(report),
            *_calibrated(report),
        ]
    )  # fmt: skip
    for line in report.notes():
        output.write_sentence(f"- {line}", indent="  ")


def _quantised(report: EvaluationReport) -> list[tuple[str, str]]:
    """What searching in fewer bits loses."""
    return [
        (
            f"in {one.quantisation}",
            f"rank-1 {rate(one.rank1)} ({one.rank1 - one.exact_rank1:+.1%}), mAP@{one.depth} {rate(one.mAP)}"
            f" ({one.mAP - one.exact_mAP:+.1%}), of the nearest ten found {rate(one.recall)}",
        )
        for one in report.quantised
    ]


def _calibrated(report: EvaluationReport) -> list[tuple[str, str | None]]:
    """The thresholds that the model now has, or how those that it came with hold here."""
    found = report.calibration
    if found is None:
        kept = "  ".join(f"{far:g}: {point.false_accept_rate:.2%}" for far, point in report.kept_points().items())
        return [("calibration", f"pairs that the model's thresholds let pass  {kept}")] if kept else []
    undo = "; sss calibrate --undo takes it back" if report.calibrated_place.startswith("gallery") else ""
    return [
        ("calibrated", f"least score at a false match rate of  {_thresholds(found)}"),
        ("written to", f"{report.calibrated_place}{undo}"),
    ]


def _thresholds(found: Calibration) -> str:
    """The least scores at the rates that are shown."""
    from siamese_search.evaluation.report import CALIBRATED_RATES

    points = []
    for far in CALIBRATED_RATES:
        try:
            points.append(f"{far:g}: {found.threshold(far):.4f}")
        except UsageError:
            points.append(f"{far:g}: n/a")
    return "  ".join(points)


@click.command("calibrate", epilog=_CALIBRATE_EPILOG)
@click.option("--undo", is_flag=True, help="Take the last calibration back; again: put it in its place.")
@place_options
@json_option
def calibrate_command(undo: bool, store: str | None, gallery: str | None, json: bool) -> None:
    """Measure what scores mean on the labelled images of a gallery, and keep that in the gallery.

    From then on its searches say match or no match by that. No image is read; the model stays as it is. The former
    calibration is kept, for --undo.
    """
    found = api.calibrate(store=store, gallery=gallery, undo=undo)
    place = f"gallery '{safe(found.gallery)}' in {safe(found.store)}"
    if found.calibration is None:
        text = f"{place}: back to the calibration of its model"
    else:
        text = f"least score at a false match rate of  {_thresholds(found.calibration)}\n"
        if undo:
            text += f"{place}: back to the calibration on {safe(found.calibration.data)}"
        else:
            text += f"measured on {amount(found.images, 'image')} of {amount(found.identities, 'identity')}\n"
            text += f"written to {place}; sss calibrate --undo takes it back"
    write_answer(found.to_json(), text, json=json)
