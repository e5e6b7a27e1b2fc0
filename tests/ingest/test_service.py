"""``python -m ingest`` as a process: its log, metrics and health file, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request

import pytest
from fakes import write_image
from full_disk import fill_disk
from prometheus_client.parser import text_string_to_metric_families
from watching import wait_until

from siamese_search.gallery import open_gallery


class Worker:
    """A worker in a process of its own; ``lines`` are those of its log so far."""

    def __init__(self, *arguments, env=None, cwd=None):
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("SSS_", "XDG_"))}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ingest", *map(str, arguments)],
            env={**clean, "HOME": str(cwd), "SSS_THREADS": "1", **(env or {})},
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines, self.stray = [], []
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        for line in self.process.stderr:
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                self.stray.append(line)

    def wait_event(self, event):
        def told():
            assert self.process.poll() is None or event in self.events(), (self.lines, self.stray)
            return event in self.events()

        wait_until(told, f"the event {event}")
        return next(line for line in self.lines if line["event"] == event)

    def events(self):
        return [line["event"] for line in self.lines]

    def metrics(self):
        port = self.wait_event("metrics")["port"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def end(self, number=None):
        """The exit code, after a signal if one is given."""
        if number is not None:
            self.process.send_signal(number)
        code = self.process.wait(120)
        self.thread.join(30)
        assert self.process.stdout.read() == ""
        assert self.stray == []
        return code


@pytest.fixture
def start(tmp_path, tiny_bundle):
    workers = []

    def run(*arguments, **options):
        options = {"cwd": tmp_path, **options}
        workers.append(Worker(*arguments, "--model", tiny_bundle.path, **options))
        return workers[-1]

    yield run
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.kill()
            worker.process.wait(60)


@pytest.fixture
def root(tmp_path):
    for name in ["ann/1.jpg", "ann/2.jpg", "bob/1.jpg"]:
        write_image(tmp_path / "images" / name, seed=name)
    return tmp_path / "images"


def healthy(path):
    command = [sys.executable, "-m", "ingest", "--check", str(path), "--max-age", "600"]
    return subprocess.run(command, capture_output=True, timeout=120).returncode == 0


def keys(store):
    with open_gallery(store, wait=30) as gallery:
        return {point.payload["key"] for point in gallery.scroll()}


def test_a_watch_with_metrics_and_health_until_it_is_told_to_stop(start, root, tmp_path):
    other, health, store = tmp_path / "other", tmp_path / "run/health.json", tmp_path / "store"
    write_image(other / "flat.jpg")
    worker = start(
        root, other, "--watch", "--metrics-port", 0, "--health-file", health, "--store", store,
        "--failures", tmp_path / "failures.jsonl",
    )  # fmt: skip
    assert worker.wait_event("complete")["new"] == 4
    wait_until(lambda: json.loads(health.read_text())["state"] == "watching")
    assert healthy(health)
    found = worker.metrics()
    assert found["sss_ingest_images_total", "new"] == 4
    assert found["sss_ingest_batch_seconds_count",] >= 1
    assert found["sss_ingest_embedded_images_total",] == 4
    assert found["sss_ingest_store_seconds_count", "upsert"] >= 1
    assert found["sss_ingest_store_up",] == found["sss_ingest_roots_up",] == 1

    write_image(root / "ann/3.jpg")
    (root / "ann/bad\n.jpg").write_bytes(b"no image")
    (other / "flat.jpg").unlink()
    wait_until(
        lambda: (
            [worker.metrics()["sss_ingest_images_total", name] for name in ("new", "failed", "removed")] == [5, 1, 1]
        )
    )
    # The watch is idle, and others have the gallery while it goes on.
    assert keys(store) == {"ann/1.jpg", "ann/2.jpg", "ann/3.jpg", "bob/1.jpg"}
    failed = worker.wait_event("image_failed")
    assert failed["path"] == str(root / "ann") + "/bad\\n.jpg"
    assert failed["reason"]
    listed = json.loads((tmp_path / "failures.jsonl").read_text().splitlines()[0])
    assert listed["path"] == str(root / "ann/bad\n.jpg")

    assert worker.end(signal.SIGTERM) == 0
    assert worker.lines[-1]["event"] == "stopped"
    assert worker.lines[-1]["exit_code"] == 0
    assert not healthy(health)
    assert json.loads(health.read_text())["state"] == "stopped"


def test_one_ingest_and_its_exit_codes(start, root, tmp_path):
    store = tmp_path / "store"
    done = start(root, "--store", store, "--health-file", tmp_path / "health.json")
    assert done.end() == 0
    assert done.wait_event("complete")["new"] == 3
    (root / "ann/1.jpg").unlink()
    (root / "ann/4.jpg").write_bytes(b"no image")
    done = start(root, "--store", store, "--prune-anyway")
    assert done.end() == 3
    complete = done.wait_event("complete")
    assert (complete["removed"], complete["failed"], complete["unchanged"]) == (1, 1, 2)
    assert keys(store) == {"ann/2.jpg", "bob/1.jpg"}


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        ((), 2, "nothing to ingest"),
        (("nowhere",), 1, "no such file or directory"),
        (("images", "--layout", "csv"), 1, "csv"),
        (("images", "--batch-size", "none"), 2, "batch-size"),
        (("images", "--store", "images/ann/1.jpg"), 1, "images"),
        (("images", "--shard", "4/4"), 2, "shard 4/4"),
        (("images", "--shard", "0/4", "--watch"), 2, "leave --shard out"),
        (("images", "--quantise", "int3"), 2, "quantise"),
    ],
)
def test_what_cannot_work_is_one_line_of_the_log(start, root, arguments, code, word):
    worker = start(*arguments)
    assert worker.end() == code
    last = worker.lines[-1]
    assert (last["level"], last["event"], last["exit_code"]) == ("error", "failed", code)
    assert word in last["message"]


def test_settings_are_those_of_sss(start, root, tmp_path):
    (tmp_path / "sss.toml").write_text('gallery = "station"\n[ingest]\nwatch = true\nsource = "nas"\n')
    worker = start(root, env={"SSS_STORE": str(tmp_path / "there"), "SSS_INGEST_RESCAN_MINUTES": "0"})
    complete = worker.wait_event("complete")
    assert (complete["gallery"], complete["store"]) == ("station", str(tmp_path / "there"))
    assert worker.end(signal.SIGINT) == 0
    with open_gallery(tmp_path / "there", "station") as gallery:
        assert {point.payload["source"] for point in gallery.scroll()} == {"nas"}


@pytest.mark.parametrize("watch", [(), ("--watch",)])
def test_how_vectors_are_stored_is_chosen_as_by_sss(start, root, tmp_path, watch):
    store = tmp_path / "store"
    worker = start(root, "--store", store, "--storage", "float16", "--quantise", "int8", *watch)
    assert worker.wait_event("complete")["new"] == 3
    assert worker.end(*[signal.SIGTERM] * len(watch)) == 0
    with open_gallery(store) as gallery:
        assert (gallery.storage.vectors, gallery.storage.quantisation) == ("float16", "int8")
    other = start(root, "--store", store, "--quantise", "binary", *watch)
    assert other.end() == 2
    assert "keeps its vectors as" in other.lines[-1]["message"]


def test_a_full_disk_under_the_health_file_costs_the_health_file_alone(start, root, tmp_path, small_disk):
    ballast = fill_disk(small_disk)
    health = small_disk / "health.json"
    worker = start(root, "--watch", "--store", tmp_path / "store", "--health-file", health)
    line = worker.wait_event("health_file")
    assert (line["level"], "No space left" in line["message"]) == ("warning", True)
    assert worker.wait_event("complete")["new"] == 3
    ballast.unlink()
    wait_until(lambda: health.exists() and json.loads(health.read_text())["state"] == "watching")
    wait_until(lambda: worker.events().count("health_file") == 2)  # said after it is written
    assert worker.end(signal.SIGHUP) == 0  # the end of its terminal is as good as any
    assert worker.lines[-1]["event"] == "stopped"


def test_a_health_file_that_can_never_be_written_is_a_mistake(start, root, tmp_path):
    (tmp_path / "file").write_text("")
    worker = start(root, "--store", tmp_path / "store", "--health-file", tmp_path / "file" / "health.json")
    assert worker.end() == 2
    assert "the health file cannot be written" in worker.lines[-1]["message"]


def test_pruning_that_is_refused_is_said_and_is_no_success(start, root, tmp_path):
    store = tmp_path / "store"
    assert start(root, "--store", store).end() == 0
    (root / "ann/1.jpg").unlink()
    worker = start(root, "--store", store, "--prune")
    assert worker.end() == 3
    assert "1 of the 3 images" in worker.wait_event("prune_refused")["message"]


def test_a_server_that_is_away_is_waited_for(start, root, tmp_path):
    health = tmp_path / "health.json"
    worker = start(root, "--watch", "--store", "http://127.0.0.1:1", "--metrics-port", 0, "--health-file", health)
    line = worker.wait_event("store_away")
    assert "does not answer" in line["message"]
    wait_until(lambda: json.loads(health.read_text())["state"] == "store away")
    assert worker.metrics()["sss_ingest_store_up",] == 0
    assert not healthy(health)
    assert worker.end(signal.SIGTERM) == 130  # the first ingest is not complete


def test_the_log_names_a_root_without_its_signature(tmp_path):
    worker = Worker("http://127.0.0.1:9/a.jpg?X-Amz-Signature=SECRET", "--store", tmp_path / "s", cwd=tmp_path)
    assert worker.end() != 0
    assert worker.wait_event("started")["roots"] == ["http://127.0.0.1:9/a.jpg"]
    assert "SECRET" not in str(worker.lines)
