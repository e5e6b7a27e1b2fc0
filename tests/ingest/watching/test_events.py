"""The events of the system, and what is done where it has none."""

import shutil
import subprocess
import sys
import threading

import pytest
from watching import wait_until

from ingest.watching import events
from ingest.watching.events import Events, is_limit


class Inbox:
    def __init__(self):
        self.deliveries = []

    def __call__(self, delivery):
        self.deliveries.append(delivery)

    def paths(self):
        return {path for one in self.deliveries for path in one.paths}

    def kinds(self):
        return [one.kind for one in self.deliveries]


@pytest.fixture
def inbox():
    return Inbox()


@pytest.fixture
def watch(tmp_path, inbox):
    started = []

    def start(**options):
        started.append(Events(str(tmp_path), inbox, **options))
        wait_until(lambda: started[-1].ready)
        return started[-1]

    yield start
    for one in started:
        one.close()


def test_paths_are_relative_and_hidden_ones_are_left_out(tmp_path, inbox, watch):
    watch()
    (tmp_path / ".hidden").write_text("x")
    (tmp_path / ".h").mkdir()
    (tmp_path / ".h/a.jpg").write_text("x")
    (tmp_path / "d").mkdir()

    def written():  # until the new directory has its watch
        (tmp_path / "d/a\n.jpg").write_text("x")
        return inbox.paths() >= {"d", "d/a\n.jpg"}

    wait_until(written)
    assert inbox.paths() == {"d", "d/a\n.jpg"}


def test_only_the_directories_that_are_named(tmp_path, inbox, watch):
    for name in ["listed", "listed/below", "other"]:
        (tmp_path / name).mkdir()
    watch(directories=[str(tmp_path), str(tmp_path / "listed"), str(tmp_path / "gone")])
    for name in ["listed/below/b.jpg", "other/c.jpg", "listed/a.jpg", "d.jpg"]:
        (tmp_path / name).write_text("x")
    wait_until(lambda: inbox.paths() >= {"listed/a.jpg", "d.jpg"})
    assert not inbox.paths() & {"listed/below/b.jpg", "other/c.jpg"}


def test_closing_ends_the_thread(watch):
    watch().close()
    assert "watch" not in {thread.name for thread in threading.enumerate()}


def test_after_an_error_of_the_watcher_it_is_started_anew_and_the_root_is_lost(tmp_path, inbox, watch, monkeypatch):
    real, calls = Events._changes, []

    def failing(self):
        calls.append(1)
        if len(calls) == 1:
            yield frozenset()
            raise RuntimeError("error in\nunderlying watcher")
        yield from real(self)

    monkeypatch.setattr(Events, "_changes", failing)
    watch()
    wait_until(lambda: len(calls) == 2 and inbox.kinds().count("lost") == 2)
    assert inbox.deliveries[0].reason == "error in underlying watcher"
    (tmp_path / "a.jpg").write_text("x")
    wait_until(lambda: "a.jpg" in inbox.paths())
    assert inbox.kinds().count("lost") == 2


def test_a_storm_ends_in_a_new_watch_and_a_loss(tmp_path, inbox, watch, monkeypatch):
    monkeypatch.setattr(events, "STORM", 5)
    watch()
    for number in range(60):
        (tmp_path / f"{number}.jpg").write_text("x")
    wait_until(lambda: "lost" in inbox.kinds())
    wait_until(lambda: len(inbox.paths()) == 60)
    (tmp_path / "a.jpg").write_text("x")
    wait_until(lambda: "a.jpg" in inbox.paths())


@pytest.mark.parametrize(
    ("reason", "limit"),
    [
        ('OS file watch limit reached. about ["/a"] (Error { kind: MaxFilesWatch })', True),
        ("Error creating recommended watcher: Too many open files (os error 24)", True),
        ("No space left on device (os error 28)", True),
        ('Unable to decode path "/a/\\xFF.jpg" to string', False),
    ],
)
def test_which_errors_say_that_no_watches_are_left(reason, limit):
    assert is_limit(reason) == limit


_DENIED = """
import sys, time
from pathlib import Path
from ingest.watching.events import Events
root = Path(sys.argv[1])
seen = []
watch = Events(str(root), seen.append)
deadline = time.monotonic() + 60
while not watch.ready and time.monotonic() < deadline:
    time.sleep(0.05)
(root / "open" / "a.jpg").write_text("x")
while not any("open/a.jpg" in one.paths for one in seen):
    assert time.monotonic() < deadline, seen
    time.sleep(0.05)
print(watch.polling)
"""


def test_a_directory_that_may_not_be_entered_is_passed_over(tmp_path):
    """In a user namespace, where the superuser is nobody special."""
    for name in ("open", "shut"):
        (tmp_path / name).mkdir()
    (tmp_path / "shut").chmod(0)
    nobody = ["unshare", "-U"]
    if shutil.which("unshare") is None or subprocess.run([*nobody, "true"], capture_output=True).returncode:
        pytest.skip("needs unshare and user namespaces")
    command = [*nobody, sys.executable, "-c", _DENIED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    (tmp_path / "shut").chmod(0o700)
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr


_LIMITED = """
import sys, time
from pathlib import Path
from ingest.watching import events
root = Path(sys.argv[1])
events.POLL_MILLISECONDS = 100
seen = []
watch = events.Events(str(root), seen.append)
deadline = time.monotonic() + 60
written = False
while time.monotonic() < deadline:
    if watch.ready and not written:
        (root / "3" / "a.jpg").write_text("x")
        written = True
    if any("3/a.jpg" in one.paths for one in seen):
        print(watch.polling, sorted({one.kind for one in seen}))
        sys.exit(0)
    time.sleep(0.05)
sys.exit(f"{watch.ready} {seen}")
"""


@pytest.mark.parametrize("limit", ["max_inotify_watches=3", "max_inotify_instances=0"])
def test_where_the_system_has_no_watches_left_the_directory_is_polled(tmp_path, limit):
    """In a user namespace of its own, with a limit of its own."""
    name, value = limit.split("=")
    lower = ["unshare", "-Ur", "sh", "-c", f'echo {value} > /proc/sys/user/{name} && exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*lower, "true"], capture_output=True).returncode:
        pytest.skip("needs unshare and user namespaces")
    for number in range(10):
        (tmp_path / str(number)).mkdir()
    command = [*lower, sys.executable, "-c", _LIMITED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(maxsplit=1)[0] == "True"
    assert "polling" in done.stdout
