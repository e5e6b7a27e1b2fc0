"""Write what the pages' commands really print into the pages: ``python tests/support/refresh_readme.py [PAGE]...``.

Runs every ``$ sss …`` line of the console blocks of README.md and docs/ in a temporary directory for each page, in
order, with the installed package, and puts stdout and stderr below it (the middle of long output becomes ``…``).
Pictures that the commands draw go to docs/. Training runs as written there: give it the minutes that it takes.
Blocks that need the real faces stay as they are.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.support.documents import CONSOLE, PAGES, ROOT, SHOWN, USUAL, text_of

#: What a page's commands draw → the picture in docs/.
PICTURES = {
    "README.md": {"sheet.png": "demo.png"},
    "docs/evaluation.md": {"curves.png": "evaluation.png"},
    "docs/training.md": {"runs/first/curves.png": "training.png"},
    "docs/adapt.md": {"runs/mine/clusters.png": "adapt.png"},
    "docs/maintenance.md": {"clusters.png": "clusters.png"},
}

#: Empty lines of pixels between two rows of a sheet; between an image and its caption are fewer.
_BETWEEN = 12


def output_of(command: str, directory: Path, shown: tuple[int, int]) -> list[str]:
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(directory)}
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=directory,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stdout}")
    lines = [line.rstrip() for line in done.stdout.replace(str(directory), "~").splitlines() if line.strip()]
    lines = [line for line in lines if not re.match(r"(training|reading \w+ images): \d", line)]  # progress
    first, last = shown
    return lines if len(lines) <= first + last + 1 else [*lines[:first], "…", *lines[len(lines) - last :]]


def keep_picture(drawn: Path, kept: Path) -> None:
    """A copy; of a very tall picture the top, as much as a page has room for, to the end of a row of images."""
    with Image.open(drawn) as picture:
        if picture.height <= 1.6 * picture.width:
            shutil.copy(drawn, kept)
            return
        pixels = np.asarray(picture.convert("RGB"))[: picture.width]
        empty = (pixels == pixels[0, 0]).all(axis=(1, 2))
        ends = [y for y in range(len(empty)) if empty[y - _BETWEEN + 1 : y + 1].sum() == _BETWEEN]
        picture.crop((0, 0, picture.width, ends[-1] + 1 if ends else picture.width)).save(kept, optimize=True)


def refresh(page: str) -> None:
    shown = SHOWN.get(page, USUAL)
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)

        def filled(block: re.Match[str]) -> str:
            if "orl_faces" in block[1]:
                return block[0]
            lines = []
            for command in (line for line in block[1].splitlines() if line.startswith("$ ")):
                lines.append(command)
                if command.startswith("$ sss "):
                    lines += output_of(command[2:], directory, shown)
            return "```console\n" + "\n".join(lines) + "\n```"

        text = CONSOLE.sub(filled, text_of(page))
        for drawn, picture in PICTURES.get(page, {}).items():
            keep_picture(directory / drawn, ROOT / "docs" / picture)
    (ROOT / page).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    for asked in sys.argv[1:] or PAGES:
        refresh(asked)
