"""benchmarks/damaged.py from beginning to end, with few files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_damaged_and_hostile_file_is_stored_or_named(tmp_path: Path) -> None:
    out = tmp_path / "damaged.json"
    command = [sys.executable, "benchmarks/damaged.py", "--count", "60", "--sound", "4", "--large", "1"]
    done = subprocess.run(
        [*command, "--out", str(out)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(out.read_text())
    assert (told["files"], told["sound"], told["together"]["exit_code"]) == (60, 4, 3)
    assert told["stored"] + told["named"] == 64
    assert (told["neither"], told["sound_lost"]) == ([], 0)
    assert told["named"] > told["hostile"] / 2
