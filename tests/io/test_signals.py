import os
import signal
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_is_ignored_stays_ignored(number):
    """As under nohup, and as a shell has what it runs in the background ignore Ctrl-C."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stop_on_signals() as stop:
            os.kill(os.getpid(), number)
            time.sleep(0.1)
            assert not stop.is_set()
    finally:
        signal.signal(number, before)


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
