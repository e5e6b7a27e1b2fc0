"""Help that fits a screen, all of it on demand, and the shell that completes a line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from siamese_search.cli.main import COMMANDS, GROUPS, cli, main

LONG = ("train", "sweep", "ingest")


def options(name: str) -> list[click.Option]:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return [p for p in command.params if isinstance(p, click.Option) and not p.hidden]


def test_commands_stand_under_what_they_are_for(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    for title, commands in GROUPS.items():
        start = lines.index(f"{title}:")
        assert [line.split()[0] for line in lines[start + 1 : start + 1 + len(commands)]] == list(commands)


@pytest.mark.parametrize("name", LONG)
def test_a_long_help_shows_what_matters_and_all_on_demand(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    short = capsys.readouterr().out
    assert main([name, "--help-all"]) == 0
    full = capsys.readouterr().out
    flags = {option.opts[0] for option in options(name)} - {"--help-all"}
    assert f"Show all {len(flags)} options" in short
    shown = {flag for flag in flags if f"  {flag} " in short}
    assert 10 <= len(shown) <= 15
    assert {flag for flag in flags if f"  {flag}" in full} == flags


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in LONG])
def test_no_other_help_is_long(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([name, "--help"])
    assert len(capsys.readouterr().out.splitlines()) <= 80


@pytest.mark.parametrize("name", [*COMMANDS, ""])
def test_no_line_of_a_help_is_wider_than_a_terminal(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "get_terminal_size", lambda *_: os.terminal_size((80, 24)))
    main([name, "--help"] if name else ["--help"])
    lines = [line for line in capsys.readouterr().out.splitlines() if "dataset_type=" not in line]  # Python to paste
    assert lines
    assert [line for line in lines if len(line) > 80] == []


@pytest.mark.parametrize("name", ["train", "sweep", "adapt"])
def test_no_default_is_blank(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([name, "--help-all"])
    words = " ".join(capsys.readouterr().out.split())
    assert "[default: ]" not in words
    assert "[default: ;" not in words


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("export", "serve")])
def test_every_answer_has_a_format_with_a_short_form(name: str) -> None:
    flags = {flag for option in options(name) for flag in option.opts}
    assert {"--format", "--json"} <= flags


def test_json_beside_another_format_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for line in (["duplicates", "--json", "--format", "csv"], ["search", "x.jpg", "--json", "--format", "csv"]):
        assert main(line) == 2
        assert "--json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("sss tr", {"train"}),
        ("sss ro", {"rollback"}),
        ("sss search --form", {"--format"}),
        ("sss search --format js", {"json", "jsonl"}),
        ("sss train --preset r", {"reid", "reid-cpu"}),
    ],
)
def test_bash_completes_a_line(line: str, wanted: set[str], tmp_path: Path) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    command = tmp_path / "sss"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m siamese_search "$@"\n')
    command.chmod(0o755)
    words = line.split()
    script = (
        'eval "$(_SSS_COMPLETE=bash_source sss)"\n'
        "complete -p sss >&2\n"
        f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}\n"
        '_sss_completion sss; printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        [bash, "--norc", "-c", script],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) == wanted, done.stderr
    assert "_sss_completion sss" in done.stderr


def test_a_former_name_still_works_and_is_not_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["galleries", "--store", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["galleries"] == []
    main(["--help"])
    assert "  galleries " not in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(shell: str, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("_SSS_COMPLETE", f"{shell}_source")
    assert main([]) == 0
    assert "_SSS_COMPLETE" in capsys.readouterr().out
