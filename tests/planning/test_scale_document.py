"""docs/scale.md shows what ``sss plan`` prints, to the letter."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from siamese_search.cli.main import main
from siamese_search.planning import figures

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
SESSIONS = re.findall(r"^```console\n\$ (sss plan .*?)\n(.*?)^```", DOCUMENT, re.S | re.M)


def trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def test_there_are_three_sizes() -> None:
    assert len(SESSIONS) == 3
    assert len(re.findall(r"^\$ ", DOCUMENT, re.M)) == 3  # none of another command that nobody runs


@pytest.mark.parametrize(("command", "shown"), SESSIONS, ids=[command for command, _ in SESSIONS])
def test_the_document_shows_what_the_command_prints(
    command: str, shown: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(shlex.split(command)[1:]) == 0
    assert trimmed(capsys.readouterr().out) == trimmed(shown)


def test_every_benchmark_of_the_figures_is_named_in_the_document() -> None:
    for figure in figures.ALL.values():
        if figure.source.startswith("benchmarks/"):
            assert figure.source.split()[0] in DOCUMENT, figure
        else:
            assert "qdrant.tech/documentation/capacity-planning" in DOCUMENT


def test_the_table_of_real_galleries_is_that_of_the_results() -> None:
    """Each row of the last table stands in benchmarks/results/plan.json, and none of them is off by over 10 %."""
    result = json.loads((ROOT / "benchmarks" / "results" / "plan.json").read_text())
    table = DOCUMENT[DOCUMENT.index("### The formulas against real galleries") :]
    for row in result["rows"]:
        how = "graph" if row["indexed"] else "optimised" if row["optimised"] else "ingested"
        line = (
            f"| {row['points']:,} | {row['storage']} | {how} | {row['disk']['measured'] / 1e6:,.1f} MB"
            f" | {row['disk_off']:+.1%} | {row['resident']['measured'] / 1e6:,.1f} MB | {row['resident_off']:+.1%} |"
        )
        assert line in table
        assert abs(row["disk_off"]) <= 0.1
        assert abs(row["resident_off"]) <= 0.1
