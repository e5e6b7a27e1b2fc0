"""Run a notebook's cells as a kernel does, without one: ``python tests/support/notebook.py`` fills docs/notebook.ipynb.

What a cell prints, and what its last line is, become its outputs: HTML or PNG where the object shows itself so, its
``repr`` in any case. Runs in a temporary directory.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebook.ipynb"


def executed(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook with the outputs of its cells. Whatever a cell raises goes through."""
    names: dict[str, Any] = {"__name__": "__main__"}
    count = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            cell |= {"execution_count": count, "outputs": _outputs("".join(cell["source"]), names, count)}
    return notebook


def _outputs(source: str, names: dict[str, Any], count: int) -> list[dict[str, Any]]:
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, f"cell {count}", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), f"cell {count}", "eval"), names)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append(
            {"output_type": "stream", "name": "stdout", "text": printed.getvalue().splitlines(keepends=True)}
        )
    if value is not None:
        outputs.append(
            {"output_type": "execute_result", "execution_count": count, "metadata": {}, "data": _shown(value)}
        )
    return outputs


def _shown(value: Any) -> dict[str, Any]:
    if hasattr(value, "_repr_png_"):
        shown = {"image/png": base64.b64encode(value._repr_png_()).decode() + "\n"}
    elif hasattr(value, "_repr_html_"):
        shown = {"text/html": value._repr_html_().splitlines(keepends=True)}
    else:
        return {"text/plain": [repr(value)]}
    return {**shown, "text/plain": [type(value).__name__]}


if __name__ == "__main__":
    read = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
        os.environ["HOME"] = directory
        filled = executed(read)
    NOTEBOOK.write_text(json.dumps(filled, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
