"""The ways out that messages name: each is provoked, its commands are run as they stand there, and then all is well."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
from collections.abc import Callable
from html import unescape
from itertools import pairwise
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from siamese_search.datasets.demo import generate_demo
from siamese_search.gallery import open_gallery
from siamese_search.model.bundle import META_NAME, PACKAGED, Bundle

Run = Callable[..., CompletedProcess[str]]
ROOT = Path(__file__).parents[2]

#: A command in a message, up to what ends it there.
_COMMAND = re.compile(
    r"(?<!\w)(sss [a-z]+(?: (?!takes it back|goes (?:back|on)|\()(?:'[^'\n]*'|\"[^\"\n]*\"|[^\s`;,()'\"]+)+)*)"
    r"(?=[`;,()\n ]|$)"
)


#: What a command names follows one of these.
_BEFORE = re.compile(r"(?:--(?:resume|model|out|store|gallery|data)|chmod \d+|\bsss [a-z]+) $")


def test_what_a_command_in_a_message_names_is_quoted_for_a_shell() -> None:
    bare = []
    for path in (one for room in ("siamese_search", "ingest") for one in sorted((ROOT / room).rglob("*.py"))):
        for text in ast.walk(ast.parse(path.read_text("utf-8"))):
            for before, after in pairwise(text.values if isinstance(text, ast.JoinedStr) else ()):
                told = ast.unparse(after)
                if isinstance(before, ast.Constant) and _BEFORE.search(str(before.value)) and "quote(" not in told:
                    bare += [f"{path.name}:{after.lineno}"] * ("printable(" in told or "safe(" in told)
    assert not bare


def named(done: CompletedProcess[str]) -> list[str]:
    """The commands that a finished command names, in order."""
    return _COMMAND.findall(re.sub(r"\n(?=\S+ or )", " ", done.stdout + done.stderr))


def paste(
    sss: Run, command: str, cwd: Path, env: dict[str, str] | None = None, **filled: object
) -> CompletedProcess[str]:
    """Run a command that a message names, its placeholders filled in; it must work."""
    words = [str(filled.get(word.rstrip("/"), word)) for word in shlex.split(command)]
    assert words[0] == "sss"
    assert not [word for word in words[1:] if word.isupper()], f"a placeholder is left: {words}"
    done = sss(*words[1:], cwd=cwd, env=env)
    assert done.returncode == 0, (command, done.stderr)
    return done


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn people whom the bundled model's calibration does not fit, in a directory whose name a shell would break."""
    out = tmp_path_factory.mktemp("ways") / "Ann's drawn people"
    generate_demo(out, identities=8, cameras=3, distractors=2)
    return out


@pytest.fixture
def tiny(tiny_bundle: Bundle) -> dict[str, str]:
    """Variables with which all commands take the tiny model."""
    return {"SSS_MODEL": str(tiny_bundle.path)}


@pytest.fixture(scope="module")
def misfit(sss: Run, people: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CompletedProcess[str]]:
    """A directory with a gallery ``two`` in the store ``a 'b'``, and what its ingest said. Do not write to it."""
    cwd = tmp_path_factory.mktemp("misfit")
    done = sss("ingest", people / "gallery", "--store", "a 'b'", "--gallery=two", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return cwd, done


@pytest.mark.parametrize("place", [[], ["--gallery", "two"], ["--store=a 'b'", "--gallery", "two"]], ids=str)
def test_a_gallery_that_is_not_there_is_made(
    sss: Run, people: Path, tiny: dict[str, str], tmp_path: Path, place: list[str]
) -> None:
    query = min((people / "queries").iterdir())
    for other in ("no store", "no gallery"):
        if other == "no gallery":
            place = [*place, *(["--gallery", "three"])]
        failed = sss("search", query, *place, cwd=tmp_path, env=tiny)
        assert failed.returncode == 1
        assert other in failed.stderr
        (ingest,) = named(failed)
        paste(sss, ingest, tmp_path, tiny, DIR=people / "gallery")
        assert sss("search", query, *place, cwd=tmp_path, env=tiny).returncode == 0


def test_a_calibration_gives_verdicts_where_the_models_does_not_fit(
    sss: Run, people: Path, misfit: tuple[Path, CompletedProcess[str]], tmp_path: Path
) -> None:
    shutil.copytree(misfit[0], tmp_path, dirs_exist_ok=True)
    told = misfit[1]
    calibrate, adapt, reindex = named(told)
    assert adapt == "sss adapt DIR --epochs 0"
    ask = ("search", people / "queries", "--store", "a 'b'", "--gallery", "two")
    assert set(named(sss(*ask, cwd=tmp_path))) == {calibrate, adapt, reindex}
    measured = paste(sss, calibrate, tmp_path)
    judged = sss(*ask, cwd=tmp_path)
    assert "a match scores" in judged.stdout
    assert "scores only" not in judged.stdout
    (undo,) = named(measured)
    paste(sss, undo, tmp_path)
    assert "scores only" in sss(*ask, cwd=tmp_path).stdout


def test_a_listing_names_the_gallery_that_it_speaks_of(
    sss: Run, misfit: tuple[Path, CompletedProcess[str]], tmp_path: Path
) -> None:
    shutil.copytree(misfit[0] / "a 'b'", tmp_path / ".sss")
    calibrate, *_ = named(sss("info", cwd=tmp_path))
    paste(sss, calibrate, tmp_path)
    assert "scores only" not in sss("info", cwd=tmp_path).stdout


@pytest.mark.slow
def test_an_adaptation_gives_verdicts_without_labels_and_a_rollback_goes_back(
    sss: Run, people: Path, misfit: tuple[Path, CompletedProcess[str]], tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    shutil.copytree(misfit[0], tmp_path, dirs_exist_ok=True)
    _, adapt, reindex = named(misfit[1])
    made = paste(sss, f'{adapt} --height 128 --width 64 --out "Ann\'s run"', tmp_path, DIR=people / "gallery")
    following, anew = named(made)
    done = paste(sss, reindex, tmp_path, RUN="Ann's run")
    ask = ("search", people / "queries", "--store", "a 'b'", "--gallery", "two")
    assert "not like what" not in sss(*ask, cwd=tmp_path).stdout
    rollback, drop_old = named(done)
    paste(sss, rollback, tmp_path)
    assert "not like what" in sss(*ask, cwd=tmp_path).stdout
    paste(sss, drop_old, tmp_path)
    assert sss(*shlex.split(rollback)[1:], cwd=tmp_path).returncode == 1
    assert shlex.split(following) == ["sss", "reindex", "--model", str(tmp_path / "Ann's run")]
    paste(sss, f"{anew} --gallery fresh", tmp_path, DIR=people / "gallery")


def test_few_images_get_verdicts_by_their_own_calibration(sss: Run, demo: Path, tmp_path: Path) -> None:
    told = sss("ingest", demo / "gallery", "--gallery", "few", cwd=tmp_path)
    assert "cannot tell" in told.stderr
    (calibrate,) = named(told)
    paste(sss, calibrate, tmp_path)
    found = sss("search", demo / "queries", "--gallery", "few", cwd=tmp_path)
    assert "cannot tell" not in found.stdout
    assert "a match scores" in found.stdout


def test_a_false_match_rate_needs_a_calibration_and_images_of_another_model_a_reindex(
    sss: Run, demo: Path, demo_store: Path, other_bundle: Bundle, tmp_path: Path
) -> None:
    shutil.copytree(demo_store, tmp_path / "s")
    here = ("--store", "s")
    ask = ("search", demo / "queries", *here, "--fmr", "0.1")
    failed = sss(*ask, cwd=tmp_path)
    assert failed.returncode == 2
    paste(sss, *named(failed), tmp_path)
    assert sss(*ask, cwd=tmp_path).returncode == 0
    ask = ("search", demo / "queries", *here, "--model", other_bundle.path)
    failed = sss(*ask, cwd=tmp_path)
    assert "made by another model" in failed.stderr
    done = paste(sss, *named(failed), tmp_path)
    assert sss(*ask, cwd=tmp_path).returncode == 0
    rollback, drop_old, calibrate = named(done)
    paste(sss, calibrate, tmp_path)
    paste(sss, rollback, tmp_path)
    assert sss(*ask, cwd=tmp_path).returncode == 1
    assert rollback in named(sss("info", *here, "--gallery", "default", cwd=tmp_path))[0]
    paste(sss, drop_old, tmp_path)


def test_a_damaged_calibration_is_measured_anew_whosever_it_is(
    sss: Run, demo: Path, demo_store: Path, tmp_path: Path
) -> None:
    shutil.copytree(demo_store, tmp_path / "s")
    with open_gallery(tmp_path / "s", mode="w") as gallery:
        gallery.annotate({"calibration": {"slope": "steep"}})
    ask = ("search", demo / "queries", "--store", "s")
    failed = sss(*ask, cwd=tmp_path)
    assert "is damaged" in failed.stderr
    paste(sss, *named(failed), tmp_path)
    assert sss(*ask, cwd=tmp_path).returncode == 0
    shutil.copytree(PACKAGED["bundled"], tmp_path / "m")
    meta = json.loads((tmp_path / "m" / META_NAME).read_text())
    meta["calibration"]["slope"] = "steep"
    (tmp_path / "m" / META_NAME).write_text(json.dumps(meta))
    ask = ("search", demo / "queries", "--gallery", "g")
    assert sss("ingest", demo / "gallery", "--gallery", "g", "--model", "m", cwd=tmp_path).returncode == 0
    failed = sss(*ask, cwd=tmp_path)
    assert "is damaged" in failed.stderr
    paste(sss, *named(failed), tmp_path)
    assert sss(*ask, cwd=tmp_path).returncode == 0


def test_a_review_with_a_space_in_its_name_is_applied_and_taken_back(
    sss: Run, demo: Path, demo_store: Path, tmp_path: Path
) -> None:
    shutil.copytree(demo_store, tmp_path / "s")
    grouped = sss("cluster", "Ann's review.csv", "--all", "--store", "s", "--least", "0.01", cwd=tmp_path)
    (look,) = named(grouped)
    assert "would change" in paste(sss, look, tmp_path).stdout
    (tmp_path / "l.csv").write_text(f"path,identity\n{min((demo / 'gallery').iterdir())},somebody\n")
    applied = sss("label", "l.csv", "--undo-file", "un 'do.csv", "--store", "s", cwd=tmp_path)
    (undo,) = named(applied)
    assert "1 image changed" in paste(sss, undo, tmp_path).stdout
    known = sss("cluster", "none.csv", "--store", "s", "--where", "identity=0001", cwd=tmp_path)
    assert named(known) == []
    assert "--all groups them too" in known.stdout


def test_what_a_gallery_is_stored_in_is_changed_by_the_command_that_is_named(
    sss: Run, demo: Path, demo_store: Path, tmp_path: Path
) -> None:
    shutil.copytree(demo_store, tmp_path / "s")
    again = ("ingest", demo / "gallery", "--store", "s", "--storage", "float16", "--quantise", "int4")
    failed = sss(*again, cwd=tmp_path)
    assert failed.returncode == 2
    paste(sss, *named(failed), tmp_path)
    assert sss(*again, cwd=tmp_path).returncode == 0


def test_nothing_to_evaluate_names_data_and_a_training(
    sss: Run, demo: Path, tiny: dict[str, str], tmp_path: Path
) -> None:
    failed = sss("evaluate", cwd=tmp_path)
    assert failed.returncode == 2
    evaluate, train = named(failed)
    paste(sss, evaluate, tmp_path, tiny, photos=demo)
    pytest.importorskip("torch")
    small = "--init none --backbone test_efficientnet --dim 16 --height 32 --width 16 --epochs 1 --holdout 2"
    quick = f'{small} --out "Ann\'s run"'
    done = paste(sss, f"{train} {quick}", tmp_path, photos=demo / "gallery")
    (measure,) = named(done)
    paste(sss, measure, tmp_path)
    (tmp_path / "Ann's run" / META_NAME).unlink()
    failed = sss("search", demo / "queries", "--model", "Ann's run", cwd=tmp_path)
    paste(sss, *named(failed), tmp_path)
    assert sss("ingest", demo / "gallery", "--model", "Ann's run", cwd=tmp_path).returncode == 0


def test_the_pages_of_a_server_name_commands_that_work_in_any_directory(
    sss: Run, people: Path, misfit: tuple[Path, CompletedProcess[str]], tmp_path: Path
) -> None:
    pytest.importorskip("fastapi", reason="the [web] extra is not installed")
    from browsing import serving
    from http_client import Client, snapshot

    store = shutil.copytree(misfit[0] / "a 'b'", tmp_path / "a 'b'")
    with open_gallery(store, "two") as gallery, open_gallery(store, "bare", model=gallery.model, create=True, mode="w"):
        first = min(one.id for one in gallery.scroll())
    (elsewhere := tmp_path / "elsewhere").mkdir()

    def told(address: str, path: str) -> CompletedProcess[str]:
        text = re.sub(r"<[^>]*>", "", Client(address).ask("GET", path)[2].decode())
        return CompletedProcess([], 0, unescape(text), "")

    with serving(store, "--gallery", "two") as address:
        pages = [told(address, path) for path in ("/gallery", f"/?like={first}")]
        commands = {one for page in pages for one in named(page) if "--store" in one}
        assert {shlex.split(one)[1] for one in commands} >= {"calibrate", "reindex", "ingest"}
        assert not [one for page in pages for one in set(named(page)) - commands if re.match("sss (cal|rei|ing)", one)]
        for command in sorted(one for one in commands if "calibrate" in one):
            paste(sss, command, elsewhere)
        assert "scores only" not in told(address, f"/?like={first}").stdout
    with serving(store, "--gallery", "bare") as address:
        (ingest,) = named(told(address, f"/?like={first}"))
        paste(sss, ingest, elsewhere, DIR=people / "gallery")
    assert len(snapshot(store, "bare")) == len(snapshot(store, "two"))
