"""``tests/support/forked.py``: a forked process is what a started one is, to those who start it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from forked import served

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are forked on Linux only")

#: Where it is, and whether the module that the server imported was there before it was asked for.
WHO = "import os, sys; print(os.getppid(), 'wave' in sys.modules)"


@pytest.fixture(scope="module")
def wave() -> Iterator[list[str]]:
    with served("wave") as python:
        yield python


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Tests that are started with SIGINT ignored, as in the background of a script, would pass that on."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


def outcome(done: CompletedProcess[bytes]) -> tuple[int, bytes, bytes]:
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "import sys; print(sys.argv); print('err', file=sys.stderr); sys.exit(7)",
        "import sys; sys.exit('what happened')",
        "import os; os._exit(250)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
        "import atexit; print('first'); atexit.register(print, 'last')",
        "import sys; print(sys.stdin.read().upper(), sys.path[0], __name__, sys.stdout.line_buffering)",
        "import os; print(os.getcwd(), sorted(os.listdir('/proc/self/fd')), sorted(os.environ.items()))",
        "import signal; print([signal.getsignal(n) for n in (2, 13, 15, 17)], signal.pthread_sigmask(0, []))",
        "import threading; threading.Thread(target=lambda: print('of a thread')).start()",
        "import os, subprocess, sys; print(subprocess.run(['sh', '-c', 'exit 5']).returncode)",
        "import sys; sys.stdout.buffer.write(bytes(range(256)) * 5000)",
    ],
)
def test_it_ends_and_prints_as_a_started_one(wave: list[str], tmp_path: Path, code: str) -> None:
    forked, started = (
        subprocess.run(
            [*python, "-c", code, "a", "--b", "ü"],
            input=b"told",
            capture_output=True,
            cwd=tmp_path,
            env={**os.environ, "SSS_ONE": "1\n=2"},
        )
        for python in (wave, [sys.executable])
    )
    if b"KeyboardInterrupt" in started.stderr:  # with one frame in its traceback, the other with those of the server
        assert (forked.returncode, forked.stdout) == (started.returncode, started.stdout)
    else:
        assert outcome(forked) == outcome(started)


def test_a_module_runs_as_by_m(python: list[str]) -> None:
    forked, started = (
        subprocess.run([*words, "-m", "siamese_search", "search", "--help"], capture_output=True)
        for words in (python, [sys.executable])
    )
    assert outcome(forked) == outcome(started)
    assert forked.stdout.startswith(b"Usage: sss search")


def test_a_variable_that_an_import_may_read_takes_a_new_process(wave: list[str]) -> None:
    def told(**variables: str) -> bool:
        done = subprocess.run([*wave, "-c", WHO], env={**os.environ, **variables}, capture_output=True, check=True)
        return done.stdout.split()[1] == b"True"

    assert told()
    assert told(SSS_THREADS="3", COLUMNS="44", PYTEST_CURRENT_TEST="another")
    assert not told(OMP_NUM_THREADS="7")
    assert not told(PYTHONHASHSEED="1")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_go_on(wave: list[str], number: signal.Signals) -> None:
    code = "import time\ntry:\n  print('ready', flush=True)\n  time.sleep(60)\nexcept KeyboardInterrupt: exit(3)"
    with subprocess.Popen([*wave, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.wait(30) == (3 if number == signal.SIGINT else -signal.SIGTERM)


def test_it_goes_with_who_waits_for_it_and_with_its_server() -> None:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with served("wave") as python:
        first, second = (subprocess.Popen([*python, "-c", code], stdout=subprocess.PIPE) for _ in range(2))
        with first, second:
            assert first.stdout is not None
            assert second.stdout is not None
            ids = [int(process.stdout.readline()) for process in (first, second)]
            first.kill()
            _gone(ids[0])
            assert second.poll() is None
            os.kill(ids[1], 0)
            second.kill()
    _gone(ids[1])
    done = subprocess.run([*python, "-c", WHO], capture_output=True, check=True)  # no server: it is started
    assert done.stdout.split()[1] == b"False"


def _gone(process: int) -> None:
    deadline = time.monotonic() + 30
    while Path(f"/proc/{process}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_light_is_light(python: list[str], torch_python: list[str]) -> None:
    code = "import sys, os; print('siamese_search.web.app' in sys.modules, 'torch' in sys.modules)"
    for words, torch in ((python, False), (torch_python, True)):
        if torch:
            pytest.importorskip("torch")
        done = subprocess.run([*words, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["True", str(torch)]
