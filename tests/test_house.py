"""The house: who may import whom, and how large a room's doors and walls may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: From the ground up. A module imports from its own floor and from lower ones; a package named here is all of it.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("siamese_search._version", "siamese_search.errors", "siamese_search.io.files"),
    ("siamese_search.settings", "siamese_search.options"),
    ("siamese_search.io",),
    ("siamese_search.vectors",),
    ("siamese_search.model",),
    ("siamese_search.embedding",),
    ("siamese_search.datasets",),
    ("siamese_search.gallery",),
    ("siamese_search.retrieval", "siamese_search.evaluation"),
    ("siamese_search.curation", "siamese_search.maintenance", "siamese_search.planning", "siamese_search.training"),
    ("siamese_search.render",),
    ("siamese_search.workspace",),
    ("ingest",),
    ("siamese_search.api",),
    ("siamese_search.web",),
    ("siamese_search.cli",),
    ("siamese_search", "siamese_search.__main__"),
)

MOST_LINES = 400
#: Of both packages together. What grows beyond it is a reason to look for what can go.
MOST_FILES = 210
MOST_LINES_IN_ALL = 40_940
MOST_MODULES = 10


def _modules() -> dict[str, Path]:
    found = {}
    for package in ("siamese_search", "ingest"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()


def _imports(name: str) -> Iterator[str]:
    """The modules of the house that ``name`` imports, at its top, inside functions or for type checking."""
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{name} has a relative import; write it out"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in MODULES:
                    yield inner
                elif node.module in MODULES:
                    yield node.module


GRAPH = {name: sorted(set(_imports(name)) - {name}) for name in MODULES}


def _room(name: str) -> str:
    """The room that a module belongs to: the longest name on the floors that holds it."""
    rooms = [room for floor in FLOORS for room in floor if name == room or name.startswith(f"{room}.")]
    return max(rooms, key=len)


def _floor(name: str) -> int:
    return next(number for number, floor in enumerate(FLOORS) if _room(name) in floor)


def _circle(graph: dict[str, list[str]]) -> list[str] | None:
    """A way from a module back to itself, by depth-first search; None where there is none."""
    done: set[str] = set()
    for start in graph:
        path, steps = [start], [iter(graph[start])]
        while path and start not in done:
            following = next(steps[-1], None)
            if following is None:
                done.add(path.pop())
                steps.pop()
            elif following in path:
                return [*path[path.index(following) :], following]
            elif following not in done:
                path.append(following)
                steps.append(iter(graph[following]))
    return None


def test_a_circle_is_found_where_there_is_one():
    assert _circle({"a": ["b"], "b": ["c"], "c": ["b"]}) == ["b", "c", "b"]
    assert _circle({"a": ["b", "c"], "b": ["c"], "c": []}) is None


def test_no_imports_go_round_in_a_circle():
    circle = _circle(GRAPH)
    assert circle is None, "these import each other: " + " -> ".join(circle)


def test_every_module_has_a_floor():
    """A new module directly in siamese_search/ must be given one: the package's own is for __init__ only."""
    homeless = [name for name in MODULES if _room(name) == "siamese_search" and name != "siamese_search"]
    assert not homeless


@pytest.mark.parametrize("name", sorted(MODULES))
def test_nothing_imports_from_a_higher_floor(name):
    higher = [other for other in GRAPH[name] if _floor(other) > _floor(name)]
    assert not higher, f"{name} ({_room(name)}) reaches up to {', '.join(higher)}"


def test_only_the_verbs_and_the_commands_draw_and_ingest():
    top = ("siamese_search", "siamese_search.api", "siamese_search.web", "siamese_search.cli")
    for name, imported in GRAPH.items():
        for room in ("siamese_search.render", "ingest"):
            if _room(name) not in (*top, room):
                assert room not in map(_room, imported), f"{name} imports from {room}"


def test_the_front_door_is_small():
    assert len(list((ROOT / "siamese_search").glob("*.py"))) <= MOST_MODULES


def test_the_house_does_not_grow():
    assert len(MODULES) <= MOST_FILES
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES.values())
    assert lines <= MOST_LINES_IN_ALL, f"{lines} lines"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_file_is_too_long(name):
    lines = len(MODULES[name].read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES, f"{MODULES[name].relative_to(ROOT)} has {lines} lines"
