"""The pages for users, and the commands that they show."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: Every page whose commands are run, each in a directory of its own.
PAGES = (
    "README.md", "docs/matching.md", "docs/evaluation.md", "docs/training.md", "docs/objects.md",
    "docs/adapt.md", "docs/maintenance.md", "docs/configuration.md",
)  # fmt: skip

#: Lines that are shown of the output of one command: of longer output the first, and the last few of a page.
SHOWN = {"README.md": (6, 0)}
USUAL = (8, 4)

CONSOLE = re.compile(r"^```console\n(.*?)^```", re.S | re.M)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def sessions(text: str) -> list[tuple[str, list[str]]]:
    """(command, the output shown below it) of all console blocks, in order."""
    found: list[tuple[str, list[str]]] = []
    for block in CONSOLE.findall(text):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def is_run_here(command: str) -> bool:
    return command.startswith(("sss ", "seq "))
