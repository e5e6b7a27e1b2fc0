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
    "evaluate --save": (["evaluate", "data", "--save", "{}.html"], False),
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


@pytest.mark.parametrize("command", ["train", "adapt", "sweep"])
@pytest.mark.parametrize("place", ["a file", "below a file", "nowhere to make it"])
def test_a_training_that_could_not_be_written_does_not_begin(command, place, tmp_path, monkeypatch, capsys):
    """The images' names are good and what they hold is not: whoever had begun would have said so."""
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    for name in ("ann", "bob", "cy", "dan"):
        for number in range(4):
            image = tmp_path / "data" / name / f"{number}.jpg"
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes(b"")
    (tmp_path / "kept").write_text("kept")
    out = {
        "a file": tmp_path / "kept",
        "below a file": tmp_path / "kept" / "x",
        "nowhere to make it": Path("/proc/nobody/x"),
    }[place]
    before = sorted(tmp_path.rglob("*"))
    grid = ["--epochs", "1", "--margin", "0.2,0.3"] if command == "sweep" else []
    assert main([command, "data", "--out", str(out), *grid]) == 1
    told = capsys.readouterr().err
    assert f"{out}: cannot be written" in told
    assert "empty file" not in told
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "kept").read_text() == "kept"
