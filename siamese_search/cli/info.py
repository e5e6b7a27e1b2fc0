"""``sss info``: what a store holds, and which model would be used."""

from __future__ import annotations

from typing import Any

import click

from siamese_search.cli.options import json_option, store_options
from siamese_search.cli.output import file_size, safe, write_json, write_pairs, write_table, write_text
from siamese_search.datasets.records import BOOKKEEPING

EPILOG = """\b
Examples:
  sss info                     the store in use
  sss info --store demo/.sss   another one
  sss info --gallery station   all about one gallery
  sss info --model runs/first  a model bundle
"""


@click.command("info", epilog=EPILOG, short_help="Show a store, its galleries and the model in use.")
@store_options
@json_option
def command(store: str | None, gallery: str | None, model: str | None, json: bool) -> None:
    """Show the galleries of a store (or only --gallery), and the model that the settings name.

    A store that does not exist yet is shown as empty.
    """
    from siamese_search.api import maintenance

    facts = maintenance.describe(store=store, gallery=gallery, model=model)
    if json:
        write_json(facts)
    else:
        _print(facts, alone=gallery is not None)


def _print(facts: dict[str, Any], *, alone: bool) -> None:
    galleries = facts["galleries"]
    model = facts["model"]
    write_pairs([("store", facts["store"] if galleries else f"{facts['store']}  (empty)")])
    if alone:
        _print_gallery(galleries[0])
    elif galleries:
        columns = [("gallery", "text"), ("images", "number"), ("size", "number"), ("model", "text")]
        columns += [("filter by", "words")]
        write_table(
            columns,
            [
                [
                    item["name"],
                    f"{item['points']:,}",
                    file_size(item["size_bytes"]),
                    item["model"]["fingerprint"][:12],
                    " ".join(sorted(set(item["fields"]) - BOOKKEEPING)),
                ]
                for item in galleries
            ],
        )
    else:
        write_text("")
    write_pairs(
        [
            ("model", model["name"]),
            ("fingerprint", model["fingerprint"]),
            ("network", f"{model['backbone']}, {model['dim']}-D"),
            ("input", f"{model['input_size'][0]}x{model['input_size'][1]} (height x width)"),
            ("held out", f"{model['heldout_identities']} identities"),
            *((safe(name), _figures(value)) for name, value in model["metrics"].items()),
        ]
    )


def _print_gallery(item: dict[str, Any]) -> None:
    """All about one."""
    storage = item["storage"]
    quantised = "" if storage["quantisation"] == "none" else f", searched in {storage['quantisation']}"
    indexed = item["indexed_points"]
    pairs = [
        ("gallery", item["name"]),
        ("engine", item["engine"]),
        ("images", f"{item['points']:,}"),
        ("identities", f"{item['identities']:,}"),
        ("cameras", f"{item['cameras']:,}"),
        ("vectors", f"{storage['vectors']}{quantised}"),
        ("index", f"HNSW, {indexed:,} images" if indexed else "none: exact search"),
        ("size", f"{file_size(item['size_bytes'])}{_memory(item['resident_bytes'])}"),
        ("made by", _model(item["model"])),
    ]
    if item["previous"]:
        pairs.append(("previous", f"{_model(item['previous'])}; sss rollback goes back to it"))
    if item["building"]:
        pairs.append(("building", f"{_model(item['building'])}; sss reindex goes on with it"))
    fields = [f"{name} ({kind})" for name, kind in sorted(item["fields"].items()) if name not in BOOKKEEPING]
    write_pairs([*pairs, ("filter by", ", ".join(fields))])
    write_text("")


def _memory(count: int) -> str:
    return f", about {file_size(count)} of it in memory to search" if count else ""


def _model(model: dict[str, Any]) -> str:
    short = f"{model['fingerprint'][:12]}, {model['dim']}-D"
    return f"{model['name']} ({short})" if model["name"] else short


def _figures(value: object) -> str:
    """A figure, or those of one data set: ``rank1 0.8624, mAP 0.6660``."""
    if not isinstance(value, dict):
        return _figure(value)
    return ", ".join(f"{safe(name)} {_figure(figure)}" for name, figure in value.items())


def _figure(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else safe(value)
