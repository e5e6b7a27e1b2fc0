"""The frame of ``sss``: start-up, errors, exit codes, settings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import fields
from pathlib import Path

import click
import pytest

from siamese_search import __version__
from siamese_search.cli import main as frame
from siamese_search.errors import DataError, UsageError
from siamese_search.retrieval.options import SearchOptions

HEAVY = ("numpy", "torch", "timm", "pandas", "sklearn", "qdrant_client", "qdrant_edge", "matplotlib", "onnxruntime")
HEAVY += ("PIL", "rich")


def imported_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint('\\n'.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


MODULES = {f"siamese_search.cli.{module}" for module, _ in frame.COMMANDS.values()}


def test_every_command_module_is_light() -> None:
    loaded = imported_by(f"import siamese_search.__main__, {', '.join(sorted(MODULES))}")
    assert "siamese_search.cli.search" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_help_loads_no_command() -> None:
    loaded = imported_by("from siamese_search.cli.main import main\nmain(['--help'])")
    assert not MODULES & loaded


def test_help_names_every_command_and_each_has_help_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.main(["--help"]) == 0
    listed = capsys.readouterr().out
    for name, (_, line) in frame.COMMANDS.items():
        assert f"  {name} " in listed
        assert line in listed
        assert frame.main([name, "--help"]) == 0
        text = capsys.readouterr().out
        assert text.startswith(f"Usage: sss {name} ")
        assert "Examples:" in text
        assert max(len(row) for row in text.splitlines()) <= 100


def test_every_option_has_help() -> None:
    context = click.Context(frame.cli)
    for name in frame.COMMANDS:
        command = frame.cli.get_command(context, name)
        assert command is not None
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.opts}"


def test_keys_and_variables_are_spelled_like_the_options() -> None:
    """``format = "json"`` in sss.toml and SSS_SEARCH_FORMAT are what ``--format`` promises."""
    context = click.Context(frame.cli)
    for name in frame.COMMANDS:
        command = frame.cli.get_command(context, name)
        assert command is not None
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.name in {flag.lstrip("-").replace("-", "_") for flag in parameter.opts}


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.main(["--version"]) == 0
    assert capsys.readouterr().out == f"sss, version {__version__}\n"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["serach"], "did you mean 'search'?"),
        (["timeline"], "no such command 'timeline'; commands: demo,"),  # not: optimise
        (["frobnicate"], "commands: demo, ingest"),
        (["search"], "missing QUERY"),
        (["search", "--bad", "x"], "no such option"),
        (["search", "x", "-k", "many"], "is not a valid integer"),
        (["search", "x", "--min-score", "2"], "2.0 is not in the range"),
        (["--frobnicate"], "no such option"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("sss: error: ")
    assert err.count("\n") == 1
    assert words in err
    assert "--help')" in err


def test_no_arguments_show_the_help_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert frame.main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Usage: sss ")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """``sss info`` raises what the test puts into the list."""
    raised: list[BaseException] = []

    @click.command()
    def command() -> None:
        raise raised[0]

    monkeypatch.setattr("siamese_search.cli.store.info_command", command)
    return raised


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (DataError("a: no images in it"), 1, "sss: error: a: no images in it"),
        (UsageError("k is 0"), 2, "sss: error: k is 0"),
        (KeyboardInterrupt(), 130, "sss: interrupted"),
        (
            ZeroDivisionError("division\nby zero"),
            1,
            "sss: error: unexpected ZeroDivisionError: division by zero (run again with --debug for the traceback)",
        ),
        (MemoryError(), 1, "sss: error: there is not enough memory: free some, or raise the limit (ulimit -v)"),
        (DataError("evil\x1b[31m\nname"), 1, "sss: error: evil\\x1b[31m name"),
    ],
)
def test_errors_are_one_line_with_their_exit_code(
    error: BaseException, code: int, line: str, failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(error)
    assert frame.main(["info"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"{line}\n"


@pytest.mark.parametrize("argv", [["--debug", "info"], ["info", "--debug"]])
def test_debug_shows_the_traceback_and_keeps_the_code(
    argv: list[str], failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(UsageError("k is 0"))
    assert frame.main(argv) == 2
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.endswith("sss: error: k is 0\n")


def test_debug_from_the_environment(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSS_DEBUG", "1")
    failing.append(ValueError("x"))
    assert frame.main(["info"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_error() -> None:
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$0" -c "$1" | true', sys.executable, _WRITES_MUCH],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == frame.EXIT_BROKEN_PIPE


_WRITES_MUCH = """
import sys, time, click
import siamese_search.cli.store as store
from siamese_search.cli.main import main

@click.command()
def command():
    for _ in range(100):
        time.sleep(0.01)
        sys.stdout.write("x" * 100_000)

store.info_command = command
sys.exit(main(["info"]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whatever_ends_a_command_leaves_no_half_of_a_file(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("as it was")
    with subprocess.Popen(
        [sys.executable, "-c", _WRITES_A_FILE, str(tmp_path / "out")], stdout=-1, stderr=-1, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "sss: interrupted\n")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("out", "as it was")]


def test_a_hangup_that_is_ignored_ends_no_command(tmp_path: Path) -> None:
    """As under nohup."""
    code = "import os, signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + _WRITES_A_FILE.replace(
        "time.sleep(60)", "os.kill(os.getpid(), signal.SIGHUP)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], capture_output=True, check=False)
    assert (done.returncode, done.stderr, (tmp_path / "out").exists()) == (0, b"", True)


_WRITES_A_FILE = """
import sys, time, click
from pathlib import Path
import siamese_search.cli.store as store
from siamese_search.cli.main import main
from siamese_search.io.files import atomic_path

@click.command()
def command():
    with atomic_path(Path(sys.argv[1])) as aside:
        aside.write_text("half of it")
        print("half", flush=True)
        time.sleep(60)

store.info_command = command
sys.exit(main(["info"]))
"""


def test_an_interrupt_while_the_command_is_still_imported_has_no_traceback(tmp_path: Path) -> None:
    """Click is the first that takes long; here it never ends."""
    (tmp_path / "click.py").write_text("import time\nprint('here', flush=True)\ntime.sleep(60)\n")
    with subprocess.Popen(
        [sys.executable, "-m", "siamese_search", "--version"],
        stdout=-1,
        stderr=-1,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (-signal.SIGINT, "")


@pytest.mark.parametrize("when", ["it is told", "it ends", "nobody reads"])
def test_a_second_interrupt_ends_a_command_without_a_traceback(when: str) -> None:
    """Whatever still holds it: its own last line, a library at the exit, a full pipe that nobody reads."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while when == "nobody reads":
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    with subprocess.Popen(
        [sys.executable, "-c", _INTERRUPTED_TWICE, when],
        stdout=writer,
        stderr=-1,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "here\n"
        process.send_signal(signal.SIGINT)
        if when == "nobody reads":
            assert process.stderr.readline() == "sss: interrupted\n"
            process.send_signal(signal.SIGINT)
        try:
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
            os.close(reader)
            os.close(writer)
    assert process.returncode in (130, -signal.SIGINT)
    assert said in ("", "sss: interrupted\n")


_INTERRUPTED_TWICE = """
import atexit, os, signal, sys, time, click
import siamese_search.cli.store as store
from siamese_search.__main__ import main

again = lambda: os.kill(os.getpid(), signal.SIGINT)

class Told:
    def write(self, text):
        sys.stderr = sys.__stderr__
        again()
        sys.stderr.write(text)

@click.command()
def command():
    print("some answer")
    print("here", file=sys.stderr, flush=True)
    if when == "it ends":
        atexit.register(again)
    if when == "it is told":
        sys.stderr = Told()
    time.sleep(60)

store.info_command = command
when, sys.argv[1] = sys.argv[1], "info"
sys.exit(main())
"""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """What an open gallery is asked with; it answers nothing. Runs in a directory without settings."""
    calls: list[dict[str, object]] = []

    class Empty:
        def stream(self, *_queries: str, options: SearchOptions) -> Iterator[object]:
            calls.append({one.name: getattr(options, one.name) for one in fields(options)})
            return iter(())

    monkeypatch.setattr("siamese_search.api.handle.GalleryHandle.of", lambda _options: nullcontext(Empty()))
    monkeypatch.chdir(tmp_path_factory.mktemp("work"))
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return calls


def write_settings(text: str) -> None:
    Path("sss.toml").write_text(text)


def test_a_table_in_the_settings_file_sets_a_commands_defaults(seen: list[dict[str, object]]) -> None:
    write_settings('[search]\nk = 3\nmin-score = 0.5\nwhere = ["camera=1", "camera=2"]\n')
    assert frame.main(["search", "x.jpg"]) == 0
    assert (seen[0]["k"], seen[0]["min_score"]) == (3, 0.5)
    assert seen[0]["where"] == ("camera=1", "camera=2")


def test_one_value_is_enough_for_an_option_that_takes_several(seen: list[dict[str, object]]) -> None:
    write_settings('[search]\nwhere = "camera=1"\n')
    assert frame.main(["search", "x.jpg"]) == 0
    assert seen[0]["where"] == ("camera=1",)


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("SSS_GALERY", "SSS_GALLERY"),
        ("SSS_K", "SSS_SEARCH_K"),
        ("SSS_SEARCH_GROUPBY", "SSS_SEARCH_GROUP_BY"),
        ("SSS_APIKEY", "SSS_API_KEY"),
    ],
)
def test_a_misspelt_variable_is_said(
    seen: list[dict[str, object]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str,
    meant: str,
) -> None:
    monkeypatch.setenv(variable, "3")
    assert frame.main(["search", "x.jpg"]) == 0
    said = f"sss: warning: {variable} is no variable of sss; did you mean {meant}?"
    assert said in capsys.readouterr().err.splitlines()
    assert seen[0]["k"] == 10


def test_variables_of_other_commands_and_programs_are_left_alone(
    seen: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("SSS_SEARCH_K", "SSS_INGEST_BATCH_SIZE", "SSS_THREADS", "SSS_API_KEY", "SSS_TEST_DATA", "SSS_OF_SSSD"):
        monkeypatch.setenv(name, "3")
    monkeypatch.setenv("SSS_GALERY", "")
    assert frame.main(["search", "x.jpg"]) == 0
    assert "no variable" not in capsys.readouterr().err
    assert seen[0]["k"] == 3


def test_variables_beat_files_and_options_beat_variables(
    seen: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_settings("[search]\nk = 3\n")
    monkeypatch.setenv("SSS_SEARCH_K", "4")
    assert frame.main(["search", "x.jpg"]) == 0
    assert frame.main(["search", "x.jpg", "-k", "5"]) == 0
    assert [call["k"] for call in seen] == [4, 5]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[search]\nkk = 3\n", "unknown key in [search] 'kk'"),
        ("[serch]\nk = 3\n", "unknown section 'serch'; did you mean 'search'"),
        ("stor = 3\n", "did you mean 'store'"),
        ("[search\n", "not valid TOML"),
        ('[search]\nk = "many"\n', "is not a valid integer"),
    ],
)
def test_a_wrong_settings_file_is_one_line_and_code_2(
    text: str, words: str, seen: list[dict[str, object]], capsys: pytest.CaptureFixture[str]
) -> None:
    write_settings(text)
    assert frame.main(["search", "x.jpg"]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
    assert not seen


def test_image_files_that_begin_like_an_option_are_files(tmp_path, monkeypatch, capsys):
    """What a shell makes of *.jpg among Market-1501's junk."""
    monkeypatch.chdir(tmp_path)
    for name in ("-1_c1s1.jpg", "-k.png", "-k"):
        (tmp_path / name).touch()
    read = frame._files_with_dashes(["search", "-1_c1s1.jpg", "-k", "-k.png", "-2.jpg", "--", "-1_c1s1.jpg"])
    assert read == ["search", "./-1_c1s1.jpg", "-k", "./-k.png", "-2.jpg", "--", "-1_c1s1.jpg"]
    assert capsys.readouterr().err == "sss: -1_c1s1.jpg (and 1 more) is read as a file, like ./-1_c1s1.jpg\n"
    (tmp_path / "-1").mkdir()
    assert frame.main(["ingest", "-1"]) == 2
    assert "a file whose name begins with a dash is written ./-NAME, or comes after --" in capsys.readouterr().err
