import json
import os
import subprocess
import sys
import time

import pytest
from full_disk import fill_disk

from ingest.service import HEALTHY, HealthFile, forget, trouble


def write(path, **document):
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("state", sorted(HEALTHY))
def test_a_fresh_file_of_a_working_worker_is_healthy(tmp_path, state):
    HealthFile(tmp_path / "health.json").write(state, 1.5)
    assert trouble(tmp_path / "health.json", 60) is None
    assert json.loads((tmp_path / "health.json").read_text())["last_success"] == 1.5


@pytest.mark.parametrize("state", ["store away", "root away", "stopped", "\x1b[2J"])
def test_a_worker_in_trouble_is_not(tmp_path, state):
    HealthFile(tmp_path / "health.json").write(state, None)
    reason = trouble(tmp_path / "health.json", 60)
    assert reason is not None
    assert reason.isprintable()


@pytest.mark.parametrize(("age", "healthy"), [(0, True), (50, True), (70, False), (-70, False)])
def test_a_file_ages(tmp_path, age, healthy):
    path = write(tmp_path / "health.json", time=time.time() - age, state="watching")
    assert (trouble(path, 60) is None) == healthy


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "[]",
        "{}",
        '{"time": "now", "state": "watching"}',
        "null",
        "[" * 60000,
        '{"time": NaN, "state": "watching"}',
    ],
)
def test_a_damaged_file_is_no_proof_of_health(tmp_path, text):
    (tmp_path / "health.json").write_text(text)
    assert trouble(tmp_path / "health.json", 60) is not None


def test_neither_is_none_at_all_or_a_directory(tmp_path):
    assert "no such file" in trouble(tmp_path / "health.json", 60).lower()
    assert trouble(tmp_path, 60) is not None


def test_it_is_written_at_a_change_and_now_and_then(tmp_path, monkeypatch):
    path = tmp_path / "health.json"
    health = HealthFile(path)
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    health.write("watching", None)
    first = path.stat().st_ino
    clock[0] += 1
    health.write("watching", None)
    assert path.stat().st_ino == first
    health.write("ingesting", None)
    second = path.read_text()
    assert json.loads(second)["state"] == "ingesting"
    clock[0] += 6
    health.write("ingesting", 7.0)
    assert json.loads(path.read_text())["last_success"] == 7.0
    assert os.listdir(tmp_path) == ["health.json"]  # noqa: PTH208


def test_on_a_full_disk_it_is_written_where_it_is(small_disk):
    path = small_disk / "health.json"
    health = HealthFile(path)
    health.write("watching", 123456.75)
    fill_disk(small_disk)
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "another").write_text("x")
    health.write("ingesting", None)  # shorter than what was there
    assert json.loads(path.read_text())["state"] == "ingesting"
    assert trouble(path, 60) is None


def test_forget_removes_it_and_nothing_is_no_error(tmp_path):
    path = write(tmp_path / "health.json", time=time.time(), state="watching")
    forget(path)
    forget(path)
    assert not path.exists()


@pytest.mark.parametrize(("age", "code", "word"), [(0, 0, "healthy"), (100, 1, "unhealthy")])
def test_the_probe_of_a_container(tmp_path, age, code, word):
    path = write(tmp_path / "health.json", time=time.time() - age, state="watching")
    command = [sys.executable, "-m", "ingest", "--check", str(path), "--max-age", "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.split(":")[0].strip()) == (code, word), done.stderr


def test_the_probe_loads_nothing_that_it_does_not_need(tmp_path):
    path = write(tmp_path / "health.json", time=time.time(), state="watching")
    code = (
        "import sys; from ingest.__main__ import main;"
        f"code = main(['--check', {str(path)!r}]);"
        "heavy = {'numpy', 'torch', 'onnxruntime', 'qdrant_client', 'qdrant_edge', 'PIL', 'prometheus_client'};"
        "print(sorted(heavy & set(sys.modules))); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.split()) == (0, ["healthy", "[]"]), done.stderr


@pytest.mark.parametrize(
    ("state", "age", "lives"),
    [("store away", 0, True), ("root away", 0, True), ("watching", 0, True), ("store away", 70, False),
     ("watching", 70, False), ("stopped", 0, False)],
)  # fmt: skip
def test_a_worker_that_waits_lives_though_it_is_not_healthy(tmp_path, state, age, lives):
    path = write(tmp_path / "health.json", time=time.time() - age, state=state)
    assert (trouble(path, 60, alive=True) is None) == lives
    command = [sys.executable, "-m", "ingest", "--check", str(path), "--max-age", "60", "--alive"]
    assert (subprocess.run(command, capture_output=True, timeout=120).returncode == 0) == lives
