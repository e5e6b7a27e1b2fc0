"""``sss demo`` draws images to try things on; ``sss plan`` sizes a store for as many as there will be."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from json import dumps
from pathlib import Path

import click

from siamese_search.cli.options import json_option
from siamese_search.cli.output import safe, write_answer, write_table, write_text
from siamese_search.cli.progress import Bar
from siamese_search.datasets.synthetic import DemoOptions
from siamese_search.errors import amount
from siamese_search.gallery.storage import Storage
from siamese_search.options import click_options
from siamese_search.planning import Plan, Question, plan
from siamese_search.render.marks import file_size

_DEMO_EPILOG = """\b
Examples:
  sss demo                     into ./demo
  sss demo /tmp/people --identities 100 --cameras 6 --seed 7
"""


@click.command("demo", epilog=_DEMO_EPILOG)
@click.argument("directory", metavar="[DIR]", default="demo", type=click.Path(path_type=Path))
@click_options(DemoOptions)
@json_option
def demo_command(directory: Path, options: DemoOptions, json: bool) -> None:
    """Draw synthetic people, seen by several cameras, as JPEG files with Market-1501 names.

    Writes DIR/gallery to ingest and DIR/queries to search for (default DIR: demo).
    """
    from siamese_search.datasets.demo import generate_demo

    with Bar("drawing", "images") as bar:
        made = generate_demo(directory, options=options, progress=bar.update)
    told = {name: getattr(made, name) for name in ("gallery", "queries", "identities", "images")}
    text = (
        f"{amount(made.images, 'image')} of {amount(options.identities, 'person', 'people')} and"
        f" {amount(options.distractors, 'stranger')}, {amount(options.cameras, 'camera')}\n"
        f"gallery  {safe(made.gallery)}\nqueries  {safe(made.queries)}"
    )
    write_answer(told, text, json=json)


#: The largest directory store that benchmarks/plan.py compares the arithmetic with.
MEASURED_IMAGES = 1_000_000

_PLAN_EPILOG = """\b
Examples:
  sss plan --images 1e9 --quantise int4 --storage float16
  sss plan --images 100M --gpus 8 --images-per-second 3000

Nothing is opened or measured: it is arithmetic. docs/scale.md has the formulas and their sources; --json lists them.
"""


@click.command("plan", epilog=_PLAN_EPILOG)
@click_options(
    Question,
    after={
        "dim": [
            click.option(
                "--storage", type=click.Choice(["float32", "float16"]), default="float32", help="Of the vectors."
            ),
            click.option(
                "--quantise",
                type=click.Choice(["none", "int8", "int4", "binary"]),
                default="none",
                help="Search in a copy of 8, 4 or 1 bits a number, scored again with the vectors.",
            ),
        ]
    },
)
@json_option
def plan_command(options: Question, storage: str, quantise: str, json: bool) -> None:
    """Plan a store: memory and disk by quantisation, shards and nodes, hours of an ingest, the cost of a re-index,
    and what a query may take.
    """
    answer = plan(replace(options, storage=Storage(storage, quantise)))
    write_answer(answer.to_json, partial(_print, answer), json=json)


def _print(answer: Plan) -> None:
    asked, chosen = answer.question, answer.chosen
    copies = f"{asked.replicas} replicas" if asked.replicas > 1 else "one copy"
    write_text(
        f"{amount(asked.images, 'image')}, {asked.dim}-D, {asked.storage}; {asked.payload_bytes} bytes of payload\n\n"
        f"On Qdrant servers: {copies}, nodes of {file_size(asked.node_ram)} and {asked.node_cores} cores, m = {asked.m}"
    )
    columns = [("vectors", "text"), ("searched in", "text"), ("RAM", "number"), ("disk", "number")]
    columns += [("nodes", "number"), ("bound by", "text"), ("shards", "number"), ("disk a node", "number")]
    write_table(
        [*columns, ("", "text")],
        [
            [row.size.storage.vectors, row.size.storage.searched, file_size(row.size.ram), file_size(row.size.disk),
             f"{row.topology.nodes:,}", row.topology.bound_by, f"{row.topology.shards:,}",
             file_size(row.size.disk / row.topology.nodes), "asked for" if row == chosen else ""]
            for row in answer.rows
        ],
    )  # fmt: skip
    settings = "\n".join(f"  {key} = {dumps(value)}" for key, value in answer.server_settings.items())
    write_text(
        f"sss.toml for what was asked for, {answer.points_per_shard:,.0f} points a shard"
        f" (and sss ingest --storage {asked.storage.vectors}):\n\n  [server]\n{settings}\n\n"
    )
    _print_embedded(answer)
    _print_work(answer)
    _print_query(answer)


def _print_embedded(answer: Plan) -> None:
    size = answer.embedded
    how = "with a graph" if size.indexed else "optimised" if size.optimised else "as ingested"
    beyond = f"  measured up to {MEASURED_IMAGES:,} images; this is beyond\n"
    write_text(
        f"In a directory, one process at a time ({how})\n\n"
        f"  disk    {file_size(size.disk)}, twice that while it is optimised\n"
        f"  memory  {file_size(size.resident)} are read by a search\n"
        f"  search  {_ms(answer.embedded_search_ms)} of one core\n"
        f"{beyond if answer.question.images > MEASURED_IMAGES else ''}\n"
    )


def _print_work(answer: Plan) -> None:
    asked, chosen = answer.question, answer.chosen
    each = "measured, 2 CPU cores" if asked.rate is None else "as given"
    write_text(f"Ingest and re-index, {answer.rate:,.0f} images/s a worker ({each})")
    write_table(
        [(name, "number") for name in ("workers", "embed", "into a directory", "reindex --keep-vectors")],
        [
            [f"{count:,}", _hours(answer.hours[count]), _hours(answer.embedded_hours[count]),
             f"≥ {_hours(answer.keep_vectors_hours[count])}"]
            for count in answer.hours
        ],
    )  # fmt: skip
    disk = chosen.size.disk
    write_text(
        f"  walk     {_hours(answer.walk_hours)} at least, to find the files of one directory: the rows end there\n"
        f"  graphs   {_hours(answer.graph_hours)} more, on all cores of {chosen.topology.nodes} nodes\n"
        f"  disk     {file_size(disk)} more while two generations stand side by side: {file_size(2 * disk)},"
        f" {file_size(2 * disk / chosen.topology.nodes)} a node, until sss reindex --drop-old\n"
        f"  memory   {file_size(2 * chosen.size.ram)} where both stay in memory\n\n"
    )


def _print_query(answer: Plan) -> None:
    asked, query, nodes = answer.question, answer.query, answer.chosen.topology.nodes
    rescore = f"  rescore  {query.candidates} candidates a shard; {query.reads:,} reads from disk at most\n"
    write_text(
        f"A query, {amount(query.k, 'result')}\n\n"
        f"  embed    {_ms(query.embed_ms)} of one core, on the side that asks\n"
        f"  search   {_ms(query.search_ms)} in a shard; {_ms(query.cpu_ms)} of one core over all shards\n"
        f"{rescore if query.candidates else ''}"
        "  network  not measured\n"
        f"  at {asked.queries_per_second:,.6g} queries/s: {query.busy_cores:,.1f} busy cores"
        f" of {nodes * asked.node_cores:,}, {query.reads_per_second / nodes:,.0f} reads/s a node"
    )


def _hours(hours: float) -> str:
    """For people: ``12 s``, ``12 min``, ``3.4 h``, ``12 days``."""
    if hours < 1 / 60:
        return f"{hours * 3600:.2g} s"
    if hours < 1:
        return f"{hours * 60:.1f} min"
    return f"{hours:,.1f} h" if hours < 72 else f"{hours / 24:,.1f} days"


def _ms(ms: float) -> str:
    return f"{ms:,.1f} ms" if ms < 1000 else f"{ms / 1000:,.1f} s"
