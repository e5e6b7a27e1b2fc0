"""An output that cannot be written is refused in one line before any work, before gallery or data are opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from siamese_search.cli.main import main

#: Command line up to the output, and whether that is a directory. Neither data nor gallery exist: nobody gets that far.
OUTPUTS = {
    "search --save": (["search", "q.jpg", "--save", "{}.png"], False),
    "search --star": (["search", "q.jpg", "--star", "{}.png"], False),
    "compare --save": (["compare", "a.jpg", "b.jpg", "--save", "{}.png"], False),
    "plot --save": (["plot", "--save", "{}.png"], False),
    "cluster": (["cluster", "{}.csv"], False),
    "cluster --save": (["cluster", "out.csv", "--save", "{}.png"], False),
    "evaluate --plot": (["evaluate", "data", "--plot", "{}.png"], False),
    "evaluate --report": (["evaluate", "data", "--report", "{}"], True),
    "quantise --out": (["quantise", "images", "--out", "{}"], True),
}


@pytest.mark.parametrize("command", OUTPUTS)
@pytest.mark.parametrize("place", ["wrong kind", "below a file", "nowhere to make it"])
def test_an_output_that_cannot_be_written_is_told_first(command, place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words, directory = OUTPUTS[command]
    out, reason = tmp_path / "out", "Is a directory"
    if place == "wrong kind" and directory:
        out.write_text("kept")
        reason = "Not a directory"
    elif place == "wrong kind":
        out = next(Path(word.format(out)) for word in words if "{}" in word)
        out.mkdir()
        out = out.with_suffix("")
    elif place == "below a file":
        out.write_text("kept")
        out, reason = out / "x" / "y", "Not a directory"
    else:
        out, reason = Path("/proc/nobody/x"), ""  # where not even root can make a file
    before = sorted(tmp_path.rglob("*"))
    assert main([word.format(out) for word in words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "cannot be written" in line]
    assert reason in line
    assert str(out) in line
    assert sorted(tmp_path.rglob("*")) == before
