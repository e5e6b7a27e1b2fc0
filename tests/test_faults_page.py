"""docs/faults.md: every test that it names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"^\|(?P<when>[^|]+)\|(?P<promise>[^|]+)\|(?P<tests>[^|]+)\|$")
NAMED = re.compile(r"`([a-z_0-9/]+\.py)::(test_\w+)`")


def rows() -> list[re.Match[str]]:
    lines = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8").splitlines()
    table = [line for line in lines if line.startswith("|") and not line.startswith(("|---", "| When "))]
    found = [ROW.match(line) for line in table]
    assert all(found), table
    return [row for row in found if row is not None]


def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_promise_names_its_tests_and_they_exist():
    assert len(rows()) > 30
    for row in rows():
        named = NAMED.findall(row["tests"])
        assert named, f"no test holds: {row['promise'].strip()}"
        assert row["tests"].strip() == " ".join(f"`{file}::{name}`" for file, name in named)
        for file, name in named:
            path = ROOT / "tests" / file
            assert path.is_file(), f"{file} is not there"
            assert name in names_in(path), f"{file} has no {name}"
