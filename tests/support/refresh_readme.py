"""Write what the README's commands really print into the README: ``python tests/support/refresh_readme.py``.

Runs every ``$ sss …`` line of the console blocks in a temporary directory, in order, with the installed package,
and puts stdout and stderr below it (the middle of long output becomes ``…``). The contact sheet of the search
becomes ``docs/demo.png``. Training runs as written there: give it the minutes that it takes. Blocks that need
the real faces stay as they are.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
SHOWN = 20  # lines; of longer output the first and last few


def output_of(command: str, directory: Path) -> list[str]:
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(directory),
    }
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
    return lines if len(lines) <= SHOWN else [*lines[:8], "…", *lines[-4:]]


def main() -> None:
    text = README.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)

        def filled(block: re.Match[str]) -> str:
            if "orl_faces" in block[1]:
                return block[0]
            commands = [line for line in block[1].splitlines() if line.startswith("$ ")]
            lines = []
            for command in commands:
                lines.append(command)
                if command.startswith("$ sss "):
                    lines += output_of(command[2:], directory)
            return "```console\n" + "\n".join(lines) + "\n```"

        text = re.sub(r"^```console\n(.*?)^```", filled, text, flags=re.S | re.M)
        shutil.copy(directory / "sheet.png", ROOT / "docs" / "demo.png")
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
