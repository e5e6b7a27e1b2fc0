"""Each option is declared once, and no function takes more than a handful of parameters."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path

import click
import pytest

import siamese_search as sss
from ingest.__main__ import command as worker
from ingest.options import IngestOptions, RayOptions, ServiceOptions, WatchOptions
from siamese_search.cli.main import COMMANDS, command_of
from siamese_search.curation.options import ClusterOptions, LabelOptions
from siamese_search.errors import UsageError
from siamese_search.evaluation.options import EvaluateOptions
from siamese_search.maintenance.options import ReindexOptions
from siamese_search.options import Request, declared
from siamese_search.retrieval.options import MapOptions, SearchOptions, TimelineOptions
from siamese_search.training.options import AdaptOptions, RunOptions, SweepOptions

ROOT = Path(__file__).parents[1]
MOST_PARAMETERS = 8

#: Verb → its request and the functions that ask with it.
VERBS = {
    "ingest": (WatchOptions, ["sss.ingest"]),
    "search": (SearchOptions, ["sss.search", "sss.Gallery.search"]),
    "evaluate": (EvaluateOptions, ["sss.evaluate", "sss.compare_models"]),
    "train": (RunOptions, ["sss.train"]),
    "sweep": (SweepOptions, ["sss.sweep"]),
    "adapt": (AdaptOptions, ["sss.adapt"]),
    "reindex": (ReindexOptions, ["sss.reindex"]),
    "cluster": (ClusterOptions, ["sss.propose_identities"]),
    "label": (LabelOptions, ["sss.label"]),
    "plot": (MapOptions, ["sss.map_gallery"]),
}
REQUESTS = [
    IngestOptions,
    WatchOptions,
    ServiceOptions,
    RayOptions,
    SearchOptions,
    TimelineOptions,
    EvaluateOptions,
    RunOptions,
    SweepOptions,
    AdaptOptions,
    ReindexOptions,
    ClusterOptions,
    LabelOptions,
    MapOptions,
]


def _functions() -> dict[str, int]:
    """Function → how many parameters its source names."""
    found = {}
    for package in ("siamese_search", "ingest"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    asked = node.args
                    names = [one.arg for one in (*asked.posonlyargs, *asked.args, *asked.kwonlyargs)]
                    count = sum(name not in ("self", "cls") for name in names)
                    count += (asked.vararg is not None) + (asked.kwarg is not None)
                    found[f"{path.relative_to(ROOT)}:{node.name}"] = count
    return found


def test_no_function_has_many_parameters():
    long = {name for name, count in _functions().items() if count > MOST_PARAMETERS}
    assert not long, "give these one object in place of many parameters"


def _names(command: click.Command) -> list[str]:
    return [str(one.name) for one in command.params if isinstance(one, click.Option)]


@pytest.mark.parametrize("command", [*COMMANDS, "worker"])
def test_a_command_has_each_option_once(command):
    found = worker if command == "worker" else command_of(command)
    assert not [name for name, count in Counter(_names(found)).items() if count > 1]


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_of_a_request_is_one_of_its_command(verb):
    request, _ = VERBS[verb]
    command = command_of(verb)
    for name, spec in declared(request).items():
        wanted = [spec.named or name] if spec.help else []
        wanted += [one.name for one in spec.switches]
        assert set(wanted) <= set(_names(command))


@pytest.mark.parametrize("verb", VERBS)
def test_the_source_of_a_command_and_of_a_function_repeats_no_field(verb):
    """What stands in the request stands nowhere else: no parameter, no click.option of the same name."""
    request, functions = VERBS[verb]
    fresh = {one.name for one in fields(request)}
    own = inspect.unwrap(command_of(verb).callback)
    assert not fresh & set(inspect.signature(own).parameters)
    source = ast.parse(Path(inspect.getsourcefile(own)).read_text(encoding="utf-8"))
    others = [one for one in source.body if ast.unparse(one).startswith("@click.command") and one.name != own.__name__]
    flags = [
        node.args[0].value
        for part in source.body
        if part not in others
        for node in ast.walk(part)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "click.option"
    ]
    assert not {flag.removeprefix("--").replace("-", "_") for flag in flags} & fresh
    for name in functions:
        function = eval(name, {"sss": sss})
        inner = inspect.signature(inspect.unwrap(function)).parameters
        assert "options" in inner
        # What may be given by place, such as the model of a re-indexing, has a parameter of its own.
        assert not fresh & {one.name for one in inner.values() if one.kind is one.KEYWORD_ONLY}
        watching = {one.name for one in fields(WatchOptions)} - {one.name for one in fields(IngestOptions)}
        assert fresh - watching <= set(inspect.signature(function).parameters)


def test_a_help_text_is_written_once():
    texts = Counter()
    for request in REQUESTS:
        for one in fields(request):
            if "option" in one.metadata and not any(
                one.name in declared(base) for base in request.__mro__[1:] if issubclass(base, Request)
            ):
                texts[one.metadata["option"].help] += 1
    own = Path(ROOT / "siamese_search" / "options.py").read_text(encoding="utf-8")
    again = [text for text, count in texts.items() if text and count > 1 and text[:30] not in own]
    assert not again


def test_a_flag_a_variable_a_key_and_a_keyword_are_one_option(tmp_path):
    """The same wrong value, asked in each way, is refused in each way."""
    (tmp_path / "a.jpg").write_bytes(b"")
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    with pytest.raises(UsageError, match="engine is 'boat'; choose from process, ray"):
        sss.ingest(tmp_path, engine="boat")

    def run(*arguments: str, **more: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env={**environment, **more}, capture_output=True, text=True
        )  # fmt: skip
        assert done.returncode == 2
        return done.stderr

    sss_ingest = ("-m", "siamese_search", "ingest", ".")
    assert "'boat' is not one of 'process', 'ray'" in run(*sss_ingest, "--engine", "boat")
    assert "'boat' is not one of 'process', 'ray'" in run(*sss_ingest, SSS_INGEST_ENGINE="boat")
    (tmp_path / "sss.toml").write_text('[ingest]\nengine = "boat"\n')
    assert "'boat' is not one of 'process', 'ray'" in run(*sss_ingest)


def test_a_keyword_that_is_none_is_named_with_the_nearest_that_is():
    with pytest.raises(TypeError, match=r"ingest\(\) has no option 'chekcsum'; did you mean 'checksum'\?"):
        sss.ingest("photos", chekcsum=True)


def test_help_shows_the_keywords_with_their_defaults():
    shown = inspect.signature(sss.ingest)
    assert shown.parameters["checksum"].default is False
    assert shown.parameters["layout"].default == "auto"
    assert "options" not in shown.parameters
    assert str(inspect.signature(sss.search)).startswith("(*queries")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SearchOptions(k="2"), "k must be a whole number, not '2'"),
        (lambda: SearchOptions(k=2.5), "k must be a whole number, not 2.5"),
        (lambda: IngestOptions(batch_size=0), "batch size must be at least 1, not 0"),
        (lambda: IngestOptions(prune="maybe"), "prune is 'maybe'; choose from no, safe, anyway"),
        (lambda: SearchOptions(fmr=0.0), "fmr must be above 0, not 0.0"),
        (lambda: SearchOptions(fmr=float("nan")), "fmr must be above 0, not nan"),
        (lambda: SearchOptions(min_score=2.0), "from -1 to 1, not 2.0"),
        (lambda: SearchOptions(group_by="camera"), "by 'identity' only, not by 'camera'"),
        (lambda: EvaluateOptions(quantise=["int8", "int3"]), "quantise is 'int3'; choose from int8"),
        (lambda: SearchOptions(where=5), "where must be text, not 5"),
        (lambda: SearchOptions(where=b"camera=1"), "where must be text, not 99"),
        (lambda: SearchOptions(where=["camera=1", None]), "where must be text, not None"),
        (lambda: SearchOptions(like=[3]), "like must be text, not 3"),
        (lambda: SearchOptions(store=3), "store must be text, not 3"),
        (lambda: IngestOptions(gallery=True), "gallery must be text, not True"),
        (lambda: ServiceOptions(metrics_port=70_000), "metrics port must be at most 65535, not 70000"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_that_names_the_option(make, words):
    with pytest.raises(UsageError) as caught:
        make()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sss.open(store=5), "a store is named by a path, not by an int"),
        (lambda: sss.label({"identity": "ann"}), "a table of labels is named by a path, not by a dict"),
        (lambda: sss.export(None), "an export is named by a path, not by a NoneType"),
    ],
)
def test_what_is_no_path_is_refused_in_one_line(call, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=words):
        call()


def test_help_explains_every_option_of_a_function():
    explained = sss.search.__doc__
    for name, one in declared(SearchOptions).items():
        assert f"    {name}: {one.help}" in explained


def test_none_is_what_is_not_given():
    assert SearchOptions(k=None, where=None, unlike=None, flip=None) == SearchOptions()
    assert IngestOptions(layout=None, prune=None) == IngestOptions()


def test_what_can_be_gone_through_only_once_is_kept():
    """A filter that is lost finds everything."""
    conditions = (one for one in ["camera=1", "night=true"])
    assert SearchOptions(where=conditions).where == ("camera=1", "night=true")
