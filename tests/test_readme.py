"""README.md and docs/ are true: their commands run, in order, and print what is shown; their Python runs too.

Numbers and times differ between machines, so lines are compared with every number masked. Training runs with the
options of ``TRAINING``, given as variables: the commands are the pages' own. A training that several pages show
runs on the first of them; the others are given what it made and printed.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from siamese_search.cli.main import COMMANDS
from tests.support.documents import PAGES, ROOT, is_run_here, sessions, text_of

README = text_of("README.md")
ALL = "\n".join(map(text_of, PAGES))
#: Pages whose commands are tested elsewhere, or that have none.
LINKED = (
    "docs/serve.md", "docs/scale.md", "docs/benchmarks.md", "docs/distributed.md", "docs/recipe.md", "docs/gpu.md",
)  # fmt: skip

#: A short run at a small size; what the README says stays what is run.
TRAINING = {
    "SSS_TRAIN_EPOCHS": "1",
    "SSS_TRAIN_HEIGHT": "64",
    "SSS_TRAIN_WIDTH": "32",
    "SSS_TRAIN_HOLDOUT": "4",
    "SSS_TRAIN_DEVICE": "cpu",
    "SSS_ADAPT_HEIGHT": "64",
    "SSS_ADAPT_WIDTH": "32",
}


#: Trainings that several pages show: the same command on the same demo set.
REPEATED = {
    command
    for command, pages in Counter(c for page in PAGES for c, _ in sessions(text_of(page))).items()
    if command.startswith("sss train demo/") and pages > 1
}


def masked(line: str) -> str:
    """A line without its numbers, white space and drawing: what must be the same everywhere."""
    line = re.sub(r"\b[0-9a-f]{12}\b", "FINGERPRINT", line)  # of a model trained just now
    line = re.sub(r"bottleneck: \w+", "bottleneck: STAGE", line)  # another machine, another one
    line = re.sub(r"optimise: \w+", "optimise: STAGE", line)  # the first that it had time to tell of
    line = re.sub(r"\d+([.,]\d+)*", "N", line)
    line = re.sub(r"\b(N single image)s\b", r"\1", line)  # small images cluster otherwise
    line = re.sub(r"[─\s]+", " ", line).strip()
    return re.sub(r"\bN(,N)*\b", "N", line)


def shortened(command: str) -> str:
    """One epoch of small images where a page says how many of what size: what it says stays, in a test's time."""
    if command.startswith("sss adapt"):  # small as it stands, and only its second epoch has all to show
        return command
    return re.sub(r"--height \d+ --width \d+", "--height 48 --width 40", re.sub(r"--epochs \d+", "--epochs 1", command))


@pytest.fixture
def workplace(tmp_path: Path, python: list[str], torch_python: list[str]) -> tuple[Path, dict[str, str]]:
    """An empty directory, and an environment in which ``sss`` and ``python`` are the ones under test."""
    directory, programs = tmp_path / "page", tmp_path / "bin"
    directory.mkdir()
    programs.mkdir()
    trains = f'case "$1" in train|adapt) exec {shlex.join(torch_python)} -m siamese_search "$@";; esac'
    (programs / "sss").write_text(f'#!/bin/sh\n{trains}\nexec {shlex.join(python)} -m siamese_search "$@"\n')
    (programs / "sss").chmod(0o755)
    # COLUMNS, which pytest's workers set, would cut tables as if for a narrow terminal.
    unwanted = ("SSS_", "XDG_", "COLUMNS", "LINES")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    path = f"{programs}:{Path(sys.executable).parent}:{clean['PATH']}"
    return directory, {**clean, **TRAINING, "PATH": path, "HOME": str(programs), "SSS_THREADS": "1"}


def run(command: str, directory: Path, env: dict[str, str]) -> CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", shortened(command)],
        cwd=directory,
        env={k: v for k, v in env.items() if k != "SSS_TRAIN_HOLDOUT" or "--holdout" not in command},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )


def trained_once(command: str, directory: Path, env: dict[str, str], kept: Path) -> CompletedProcess[str]:
    """As ``run``; where another page has run this training, what it made and printed there, with the paths of here."""
    out = directory / command.rpartition(" --out ")[2]
    place = kept / re.sub(r"\W+", "-", command)
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "told.json").exists():
            done = run(command, directory, env)
            if done.returncode == 0:
                shutil.copytree(out, place / "run")
                told = {"directory": str(directory), "stdout": done.stdout}
                (place / "told.json").write_text(json.dumps(told))
            return done
    told = json.loads((place / "told.json").read_text())
    shutil.copytree(place / "run", out)
    saved = (out / "run.json").read_text()
    assert told["directory"] in saved
    (out / "run.json").write_text(saved.replace(told["directory"], str(directory)))
    return CompletedProcess(command, 0, told["stdout"].replace(told["directory"], str(directory)))


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that all workers of this session share."""
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "trained"
    place.mkdir(exist_ok=True)
    return place


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_run_and_print_what_is_shown(
    page: str, workplace: tuple[Path, dict[str, str]], kept: Path
) -> None:
    directory, env = workplace
    commands = [(command, shown) for command, shown in sessions(text_of(page)) if is_run_here(command)]
    faces = Path(os.environ.get("SSS_TEST_DATA", ROOT.parent / "shared" / "data")).resolve() / "orl_faces"
    if faces.is_dir():
        (directory / "orl_faces").symlink_to(faces)
    else:  # those commands need the real faces
        commands = [(command, shown) for command, shown in commands if "orl_faces" not in command]
    assert commands or page == "docs/objects.md"
    for command, shown in commands:
        if command.startswith(("sss train", "sss adapt")):
            pytest.importorskip("torch")
        repeated = command in REPEATED
        done = trained_once(command, directory, env, kept) if repeated else run(command, directory, env)
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        printed = {masked(line) for line in done.stdout.replace(str(directory), "~").splitlines()}
        for line in shown:
            if line.strip() not in ("", "…"):
                assert masked(line) in printed, f"{command}\n{page}: {line}\n{done.stdout}"


def test_every_verb_is_on_a_page() -> None:
    shown = {c.split()[1] for page in PAGES for c, _ in sessions(text_of(page)) if c.startswith("sss ")}
    # each in its own tests; plan on docs/scale.md, serve on docs/serve.md
    elsewhere = {"sweep", "quantise", "drop", "pull", "plan", "serve"}
    assert shown == set(COMMANDS) - elsewhere


@pytest.mark.slow
def test_the_python_example_runs(workplace: tuple[Path, dict[str, str]], torch_python: list[str]) -> None:
    pytest.importorskip("torch")
    directory, env = workplace
    subprocess.run(["sss", "demo", "demo"], cwd=directory, env=env, check=True)
    (example,) = re.findall(r"^```python\n(.*?)^```", README, re.S | re.M)
    assert len([line for line in example.splitlines() if line.strip()]) < 15
    # SSS_TRAIN_* are the command line's; the API takes the same values as arguments.
    small = 'epochs=1, height=64, width=32, holdout=4, device="cpu", '
    assert "sss.train(" in example
    code = example.replace("epochs=8, ", small)
    done = subprocess.run(
        [*torch_python, "-c", code], cwd=directory, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^1 \d{4} 0\.\d{3} ", done.stdout, re.M)
    assert re.search(r"^rank-1 [\d.]+%, mAP [\d.]+%$", done.stdout, re.M)


def test_the_front_page_fits_a_few_screens() -> None:
    assert len(README.splitlines()) <= 150


def test_the_first_commands_are_a_clone_and_one_make_target() -> None:
    first = [command for command, _ in sessions(README)][:2]
    assert first[0].startswith("git clone ")
    assert first[1] == "make demo"
    assert re.search(r"^demo:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    for command, _ in sessions(README)[2:]:
        assert is_run_here(command), command


def test_the_install_that_is_named_exists() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra in re.findall(r"pip install '\.\[(\w+)\]'", ALL):
        assert extra in project["optional-dependencies"]
    assert project["scripts"]["sss"] == "siamese_search.__main__:main"


def test_the_options_and_settings_that_are_named_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import click

    from ingest.__main__ import command as service
    from siamese_search.cli.main import cli, command_defaults

    context = click.Context(cli)
    options = {"--help", "--version"}
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        options |= {opt for p in command.params for opt in (*p.opts, *p.secondary_opts)}
    options |= {"--nproc-per-node", "--index-url"}  # torchrun's and pip's
    options |= {opt for p in service.params for opt in p.opts}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", ALL)) <= options
    (settings,) = re.findall(r"^```toml\n(.*?)^```", ALL, re.S | re.M)
    (tmp_path / "sss.toml").write_text(settings)
    monkeypatch.chdir(tmp_path)
    assert command_defaults("search") == {"k": 20}


@pytest.mark.parametrize("page", [*PAGES, *LINKED])
def test_the_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text_of(page)):
        if not target.startswith("https://"):
            assert ((ROOT / page).parent / target).exists(), target
