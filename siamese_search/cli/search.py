"""``sss search``: who is in an image, and where else were they seen?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import click

from siamese_search import api, render
from siamese_search.cli.options import DRAWN, OutPath, insecure_option
from siamese_search.cli.output import (
    LIST_FORMATS,
    note,
    safe,
    shown_path,
    warn,
    write_csv,
    write_drawn,
    write_json_list,
    write_paths,
    write_sentence,
    write_table,
    write_text,
)
from siamese_search.datasets.records import NO_METADATA
from siamese_search.errors import EXIT_DONE, EXIT_FAILED, EXIT_PARTIAL, amount
from siamese_search.options import Request, Switch, click_option, click_options, null, option
from siamese_search.render.marks import match_heading, missing, percent, reranking_sentence, verdict_sentence
from siamese_search.retrieval.options import SearchOptions, TimelineOptions

if TYPE_CHECKING:
    from siamese_search.api.handle import GalleryHandle
    from siamese_search.cli.search_screen import Terminal
    from siamese_search.retrieval.results import QueryResult, SearchResult
    from siamese_search.retrieval.timeline import Timeline

EPILOG = """\b
Examples:
  sss search query.jpg                          the ten nearest images
  sss search query.jpg --group-by identity -k 3 the three likeliest identities
  sss search query.jpg --where camera=1,3       seen by camera 1 or 3
  sss search front.jpg back.jpg --together      several of one person
  sss search query.jpg --not stranger.jpg       like the one, unlike the other
  sss search query.jpg --timeline               when and where it was seen
  sss search --like 0002_c1s1_000451_03.jpg     like an image of the gallery
  sss search a.jpg b.jpg --save sheet.html      many at once, and a page
  sss search query.jpg --format paths --null | xargs -0 ls -l

Filters: = != < <= > >=, a comma for "any of", =* for "present", !=* for "absent"; several --where must all hold.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output(Request):
    """In which forms the answer is given."""

    format: str = option(
        "table",
        "Form of the answer.  [default: table]",
        choices=LIST_FORMATS,
        unsaid=True,
        switches=(Switch("json", "json", "Short for --format json."),),
    )
    null: bool = null()
    show: bool = option(False, "Also show the images, in the terminal (SSS_GRAPHICS: how).")
    save: Path | None = option(  # noqa: RUF009 - a field, frozen
        None, "Also draw the results: as a picture (.png) or as a page (.html).", kind=OutPath(*DRAWN), metavar="FILE"
    )
    star: Path | None = option(  # noqa: RUF009 - a field, frozen
        None,
        "Also draw each query with its results around it, the farther the less alike.",
        kind=OutPath(".png"),
        metavar="FILE.png",
    )


@click.command("search", epilog=EPILOG)
@click.argument("queries", type=click.Path(), metavar="QUERY...", nargs=-1)
@click_options(
    SearchOptions,
    after={
        "candidates": [
            click.option("--timeline", is_flag=True, help="All sightings of the likeliest identity, in order of time."),
            click_option(TimelineOptions, "time_field"),
        ],
        "store": [insecure_option],
    },
)
@click_options(Output, into="output")
def search_command(
    queries: tuple[str, ...], options: SearchOptions, timeline: bool, time_field: str | None, output: Output
) -> int:
    """Rank the gallery's images by likeness to each QUERY (an image, or a directory of images).

    Scores are cosine similarities: higher is closer, 1 is the same image. A calibrated gallery (sss
    calibrate) also says which results are matches, and when the query is not in it.
    """
    context = click.get_current_context()
    if not queries and not options.like:
        raise click.UsageError("missing QUERY: give an image, a directory of images, or --like KEY", context)
    if context.params["candidates"] is not None and not options.rerank:
        raise click.UsageError("--candidates is how many images --rerank re-ranks; give both", context)
    if time_field is not None and not timeline:
        raise click.UsageError("--time-field is what --timeline orders by; give both", context)
    if timeline and options.group_by is not None:
        raise click.UsageError("--timeline follows one identity; leave --group-by out", context)
    with api.GalleryHandle.of(options) as handle:
        if not timeline:
            return _give(_Answers(handle.stream(*queries, options=options), options, handle), output)
        # The usual number of results is no limit of a timeline; one that was asked for is.
        typed = context.get_parameter_source("k") is click.core.ParameterSource.COMMANDLINE
        asked = {one.name: getattr(options, one.name) for one in fields(options)}
        asked["k"] = options.k if typed else None
        found = handle.timeline(*queries, options=TimelineOptions(**asked, time_field=time_field))
        return _give(_Answers((one.answer for one in found), options, handle), output, found)


@dataclass
class _Answers:
    """Answers as they come, and what is known of those that came: they need not be held."""

    coming: Iterator[QueryResult]
    options: SearchOptions
    handle: GalleryHandle
    total: int = 0
    failed: list[QueryResult] = field(default_factory=list)

    def __iter__(self) -> Iterator[QueryResult]:
        for answer in self.coming:
            self.total += 1
            if answer.error is not None:
                self.failed.append(answer)
            yield answer


def _give(asked: _Answers, output: Output, timelines: list[Timeline] | None = None) -> int:
    """Draw and print the answers; the exit code. Only pictures and timelines need them all at once."""
    answers: Iterable[QueryResult] = asked
    first = list(_until(asked, lambda answer: answer.error is None))
    if len(asked.failed) < asked.total:
        whole = timelines is not None or output.save is not None or output.star is not None
        answers = list(chain(first, asked)) if whole else chain(first, asked)
        # The picture first: a reader such as `head` may close stdout before all results are printed.
        try:
            _draw(answers if isinstance(answers, list) else [], timelines, output)
        finally:
            # an unwritable picture must not cost the answer
            left_out = _print(answers, asked, output, timelines)
        if left_out and not asked.failed:
            return EXIT_PARTIAL
    return _report_failures(asked.failed, asked.total)


def _until(answers: Iterable[QueryResult], last: Callable[[QueryResult], bool]) -> Iterator[QueryResult]:
    """The answers up to the first that is the ``last``, or all."""
    for answer in answers:
        yield answer
        if last(answer):
            return


def _report_failures(failed: Sequence[QueryResult], total: int) -> int:
    if total == 1 and failed:
        note(f"sss: error: {safe(failed[0].query)}: {failed[0].error}")
        return EXIT_FAILED
    for answer in failed:
        warn(f"skipped {safe(answer.query)}: {answer.error}")
    if failed and len(failed) == total:
        note(f"sss: error: none of the {amount(total, 'query')} could be read")
        return EXIT_FAILED
    return EXIT_PARTIAL if failed else EXIT_DONE


def _draw(answers: Sequence[QueryResult], timelines: list[Timeline] | None, output: Output) -> None:
    picture = output.save is not None and output.save.suffix.lower() == ".png"
    if timelines is not None:
        write_drawn(render.draw_timelines if picture else render.write_timeline_page, timelines, output.save)
    else:
        write_drawn(render.draw_sheet if picture else render.write_html_sheet, answers, output.save)
    write_drawn(render.draw_star, answers, output.star)


def _terminal(format: str) -> Terminal | None:
    """How to show pictures; ``None``, with a note, where that cannot be."""
    from siamese_search.cli.search_screen import terminal, why_not

    reason = why_not() if format == "table" else f"they go with --format table, not {format}"
    if reason is not None:
        note(f"no pictures: {reason} (--save x.png or x.html writes them to a file)")
        return None
    return terminal()


def _print(answers: Iterable[QueryResult], asked: _Answers, output: Output, timelines: list[Timeline] | None) -> int:
    """Returns how many paths had to be left out."""
    format = output.format
    terminal = _terminal(format) if output.show else None
    if format == "paths":
        found = dict.fromkeys(str(result.path) for answer in answers for result in answer.results)
        return write_paths(found, null=output.null)
    if timelines is not None:
        from siamese_search.cli.search_screen import print_timelines, show_pictures

        for answer in answers:
            if terminal is not None and answer.error is None:
                show_pictures(answer, terminal)
        print_timelines(timelines, format)
    elif format in ("json", "jsonl"):
        write_json_list((answer.to_json() for answer in answers), lines=format == "jsonl")
    elif format == "csv":
        _print_csv(answers, asked)
    else:
        _print_tables(iter(answers), terminal)
    return 0


def _print_tables(answers: Iterator[QueryResult], terminal: Terminal | None) -> None:
    # As long as none has several results they may all go into one table, so they wait for each other.
    held = list(_until(answers, lambda answer: len(answer.results) > 1))
    most = max(len(answer.results) for answer in held)
    if terminal is None and len(held) > 1 and most == 1:
        _print_firsts(held)
    elif len(held) > 1 and most == 0:
        write_text("no results for any query")
    else:
        said: set[str] = set()
        for index, answer in enumerate(chain(held, answers)):
            if answer.error is not None:
                continue
            if index > 0:
                write_text("")
            if terminal is not None:
                from siamese_search.cli.search_screen import show_pictures

                show_pictures(answer, terminal)
            _print_table(answer, said)


def _print_table(answer: QueryResult, said: set[str]) -> None:
    """said: sentences that stand below a table above, and are not said again."""
    write_text(safe(answer.query) + (f"  (identity {safe(answer.identity)})" if answer.identity else ""))
    if answer.results:
        columns = _columns([answer])
        rows = [[cell(result) for *_, cell in columns] for result in answer.results]
        write_table([(heading, kind) for heading, kind, _ in columns], rows)
    else:
        nearest = "" if answer.best_score is None else f": the nearest scores {answer.best_score:.4f}"
        write_text(f"  no results{nearest}")
    rules = {reranking_sentence(answer), verdict_sentence(answer, "")}
    if not rules <= said:
        _print_verdict(answer)
    elif answer.in_gallery is False:
        write_text(missing(answer))
    said |= rules


def _print_firsts(answers: Sequence[QueryResult]) -> None:
    """Many queries with one result each, or none, as one table; at least one has one."""
    found = [answer for answer in answers if answer.results]
    columns = _columns(found)[1:]  # without the rank, which is always 1
    rows = [[safe(answer.query), *(cell(answer.results[0]) for *_, cell in columns)] for answer in found]
    write_table([("query", "words"), *((heading, kind) for heading, kind, _ in columns)], rows)
    for answer in answers:
        if not answer.results and answer.error is None:
            write_text(f"{safe(answer.query)}: no results")
    without = [answer for answer in found if answer.in_gallery is False]
    said = f"of {len(found)} queries {len(without)}: {missing(without[0])}; " if without else ""
    _print_verdict(found[0], said)


def _columns(answers: Sequence[QueryResult]) -> list[tuple[str, str, Callable[[SearchResult], object]]]:
    """(heading, kind, cell) of what these answers have to tell; a column that would be empty is left out."""
    results = [result for answer in answers for result in answer.results]
    columns: list[tuple[str, str, Callable[[SearchResult], object]]] = [("#", "number", lambda r: r.rank)]
    if any(answer.candidates is not None for answer in answers):
        columns.append(("re-ranked", "number", lambda r: "" if r.reranked is None else f"{r.reranked:.4f}"))
    columns.append(("score", "number", lambda r: f"{r.score:.4f}"))
    if any(result.identity is not None for result in results):
        columns.append(("identity", "text", lambda r: r.identity))
    if any(result.camera is not None for result in results):
        columns.append(("camera", "text", lambda r: r.camera))
    if any(result.match is not None for result in results):
        words = {True: "yes", False: "no", None: ""}
        columns.append((match_heading(answers[0]), "verdict", lambda r: words[r.match]))
        columns.append(("probability", "number", lambda r: percent(r.probability)))
    if any(result.sightings is not None for result in results):
        columns.append(("seen", "number", lambda r: r.sightings))
    if any(result.cameras for result in results):
        columns.append(("by cameras", "text", lambda r: " ".join(r.cameras)))
    return [*columns, ("image", "path", lambda r: shown_path(r.path))]


def _print_verdict(answer: QueryResult, found: str | None = None) -> None:
    """What the order is and what "match" means here, and whether there is one; or ``found`` of the latter."""
    for sentence in (reranking_sentence(answer), verdict_sentence(answer, found)):
        if sentence:
            write_sentence(sentence)


def _print_csv(answers: Iterable[QueryResult], asked: _Answers) -> None:
    # Of the whole gallery: the columns are known before the last result is.
    known = asked.handle.reading(lambda opened, *_: opened.fields())
    extra = sorted(known.keys() - NO_METADATA)
    header = ["query", "rank", "score", "identity", "camera", "path", "key", "match"]
    grouped, reranked = asked.options.group_by is not None, asked.options.rerank
    header += ["sightings", "cameras"] if grouped else []
    header += ["reranked"] if reranked else []
    write_csv(
        [*header, *extra],
        (
            [answer.query, hit.rank, f"{hit.score:.6f}", hit.identity, hit.camera, str(hit.path), hit.key, hit.match,
             *([hit.sightings, " ".join(hit.cameras)] if grouped else []), *([hit.reranked] if reranked else []),
             *(hit.metadata.get(name) for name in extra)]
            for answer in answers
            for hit in answer.results
        ),
    )  # fmt: skip
