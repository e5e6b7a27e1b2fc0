import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from siamese_search.io.resources import stop_on_signals


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_sets_the_event_and_the_handlers_come_back(number):
    before = signal.getsignal(number)
    with stop_on_signals() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert wait_for(stop.is_set)
    assert signal.getsignal(number) is before


def test_the_second_signal_interrupts():
    with pytest.raises(KeyboardInterrupt), stop_on_signals() as stop:  # noqa: PT012 - the signal comes by itself
        os.kill(os.getpid(), signal.SIGINT)
        wait_for(stop.is_set)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_is_ignored_stays_ignored(number):
    """As under nohup."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stop_on_signals() as stop:
            os.kill(os.getpid(), number)
            time.sleep(0.1)
            assert not stop.is_set()
    finally:
        signal.signal(number, before)


def test_a_script_ends_by_sigint_what_it_started_in_the_background(tmp_path):
    """A shell without job control has it ignore SIGINT, which is meant for Ctrl-C alone."""
    (tmp_path / "waits.py").write_text(
        "from siamese_search.io.resources import stop_on_signals\n"
        "with stop_on_signals() as stop:\n    open('ready', 'w').close()\n    print(stop.wait(60))\n"
    )
    script = f"{sys.executable} waits.py & until [ -e ready ]; do sleep 0.1; done; kill -INT $!; wait $!"
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_in_another_thread_it_yields_an_event_and_touches_no_handler():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work():
        with stop_on_signals() as stop:
            seen.append((stop.is_set(), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
