from __future__ import annotations

import fcntl
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")


from safetensors.torch import load_file  # noqa: E402

from siamese_search.api.training import proposals  # noqa: E402
from siamese_search.errors import DataError, TrainingError, UsageError  # noqa: E402
from siamese_search.model.bundle import Bundle, load_bundle  # noqa: E402
from siamese_search.model.calibration import Calibration  # noqa: E402
from siamese_search.model.embedder import load_embedder  # noqa: E402
from siamese_search.training import run as training  # noqa: E402
from siamese_search.training.adapt import AdaptRequest, AdaptResult, adapt, read_confirmed, resume  # noqa: E402
from siamese_search.training.config import ADAPT, AdaptConfig, adapt_config  # noqa: E402
from siamese_search.training.loop import Silent  # noqa: E402
from tests.support.stopping import StopAfter  # noqa: E402
from tests.training.conftest import draw_people  # noqa: E402

CONFIG = ADAPT.with_options(
    backbone="test_efficientnet", dim=16, height=32, width=16, batch_size=8, images_per_identity=2, epochs=3,
    neighbours=4, freeze=0, neck="bn", checkpoint_minutes=0.0, settle=1.0, erase=0.0,
)  # fmt: skip


def request(people: Path, out: Path, config: AdaptConfig = CONFIG, **options: object) -> AdaptRequest:
    given = {"init": "none", "device": "cpu", "threads": 1, **options}
    return AdaptRequest(data=people, out=out, config=config, **given)  # type: ignore[arg-type]


Whole = Callable[[AdaptConfig], AdaptResult]


@pytest.fixture(scope="module")
def whole(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A run on ``people`` that nobody stopped, one for each configuration. Do not write to its directory."""
    return cache(lambda config: adapt(request(people, tmp_path_factory.mktemp("whole") / "run", config)))


def test_a_finished_run_is_a_bundle_with_a_history_of_its_clusters(whole: Whole) -> None:
    result = whole(CONFIG)
    bundle = load_bundle(result.bundle.path)
    assert bundle.fingerprint == result.bundle.fingerprint
    assert bundle.calibration is None  # nobody said what its scores mean
    rows = [json.loads(line) for line in (bundle.path / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert all(row["clusters"] >= 1 and 0 < row["purity"] <= 1 and row["loss"] > 0 for row in rows)
    assert "agreement" not in rows[0]
    assert all(-1 <= row["agreement"] <= 1 for row in rows[1:])
    with Image.open(bundle.path / "curves.png") as picture:
        assert picture.width > 1200
    out = load_embedder(bundle, threads=1).embed(np.zeros((2, 32, 16, 3), np.uint8))
    assert out.shape == (2, 16)
    np.testing.assert_allclose(np.linalg.norm(result.embeddings, axis=1), 1, atol=1e-5)
    assert json.loads(json.dumps(result.to_json()))["clusters"] == result.final["clusters"]


def test_no_epoch_at_all_renews_the_statistics_alone(people: Path, tmp_path: Path) -> None:
    plain = adapt(request(people, tmp_path / "plain", CONFIG.with_options(epochs=0, statistics=False)))
    renewed = adapt(request(people, tmp_path / "run", CONFIG.with_options(epochs=0)))
    assert plain.history == renewed.history == []
    assert renewed.final["clusters"] >= 1
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "run"))
    changed = {name for name in one if not torch.equal(one[name], other[name])}
    assert changed
    assert all("running" in name or "num_batches" in name for name in changed)
    with pytest.raises(UsageError, match="--epochs"):
        CONFIG.with_options(epochs=-1)


def test_labels_of_the_directory_change_nothing(people: Path, whole: Whole, tmp_path: Path) -> None:
    """The same images under names that tell nothing but their camera give the same bits."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    table = ["path,camera"]
    for image in sorted(people.iterdir()):
        shutil.copy(image, hidden)
        table.append(f"{image.name},{image.name[6]}")
    (hidden / "images.csv").write_text("\n".join(table) + "\n")
    named = whole(CONFIG)
    nameless = adapt(request(hidden / "images.csv", tmp_path / "two"))
    assert nameless.bundle.fingerprint == named.bundle.fingerprint
    assert "purity" in named.history[0]
    assert "purity" not in nameless.history[0]


@pytest.mark.parametrize("steps", [1, 4, 5])
def test_a_resumed_run_is_bit_equal(people: Path, whole: Whole, tmp_path: Path, steps: int) -> None:
    config = CONFIG.with_options(iters=4)
    reporter = StopAfter(steps)
    with pytest.raises(KeyboardInterrupt):
        adapt(request(people, tmp_path / "cut", config), reporter, reporter.stop)
    assert not (tmp_path / "cut" / "model.json").exists()
    again = resume(tmp_path / "cut", device="cpu", threads=1)
    assert again.bundle.fingerprint == whole(config).bundle.fingerprint
    same = ("loss", "triplet_accuracy", "clusters", "singles", "agreement", "purity", "ari")
    for a, b in zip(whole(config).history, again.history, strict=True):
        assert [a.get(key) for key in same] == [b.get(key) for key in same]


def test_a_killed_run_goes_on_to_the_same_bits(people: Path, whole: Whole, tmp_path: Path) -> None:
    fingerprint = whole(CONFIG.with_options(epochs=4, iters=6)).bundle.fingerprint
    code = (
        "import sys; from pathlib import Path\n"
        "from siamese_search.training.adapt import AdaptRequest, adapt\n"
        "from tests.training.test_adapt import CONFIG, request\n"
        "adapt(request(Path(sys.argv[1]), Path(sys.argv[2]), CONFIG.with_options(epochs=4, iters=6)))\n"
    )
    killed = subprocess.Popen([sys.executable, "-c", code, people, tmp_path / "cut"], cwd=Path(__file__).parents[2])
    history = tmp_path / "cut" / "history.jsonl"
    until = time.monotonic() + 120
    while not history.exists() and killed.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert history.exists()
    if not (tmp_path / "cut" / "model.json").exists():
        assert resume(tmp_path / "cut", device="cpu", threads=1).bundle.fingerprint == fingerprint
    assert load_bundle(tmp_path / "cut").fingerprint == fingerprint


def test_a_run_that_is_stopped_before_its_first_checkpoint_leaves_its_place_free(people: Path, tmp_path: Path) -> None:
    class Stopping(Silent):
        def decoding(self, done: int, total: int, what: str) -> None:  # noqa: ARG002
            if what == "embedding to cluster":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adapt(request(people, tmp_path / "run", CONFIG), Stopping())
    assert not (tmp_path / "run").exists()


def test_a_run_ends_when_its_clusters_settle(people: Path, whole: Whole, tmp_path: Path) -> None:
    known, still = str(whole(CONFIG).bundle.path), CONFIG.with_options(epochs=30, lr=1e-6, settle=0.9)
    result = adapt(request(people, tmp_path / "run", still, init=known))
    assert result.settled
    assert len(result.history) < 30
    agreed = [row.get("agreement", 0) >= 0.9 for row in result.history]
    assert agreed[-2:] == [True, True]
    assert (True, True) not in pairwise(agreed[:-1])


def test_a_network_that_knows_no_identities_does_not_settle_on_what_it_was_given(people: Path, tmp_path: Path) -> None:
    result = adapt(request(people, tmp_path / "run", CONFIG.with_options(epochs=4, lr=1e-6, settle=0.5)))
    assert max(row["agreement"] for row in result.history[1:]) >= 0.5
    assert not result.settled
    assert len(result.history) == 4


def test_identities_that_a_person_gave_are_kept_and_calibrate(people: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    names = sorted(image.name for image in people.iterdir())
    table.write_text("path,identity\n" + "".join(f"{people / name},{name[:4]}\n" for name in names))
    result = adapt(request(people, tmp_path / "run", labels=table))
    confirmed = read_confirmed(table, result.records, CONFIG.seed)
    assert (confirmed.seeds >= 0).sum() == 4 * 6
    assert (confirmed.aside >= 0).sum() == 2 * 6
    assert not ((confirmed.seeds >= 0) & (confirmed.aside >= 0)).any()
    assert result.confirmed == [record.identity for record in result.records]
    found = proposals(result)
    assert {one.proposed for one in found.images if one.status == "known"} <= set(result.confirmed)
    assert all(one.status in ("known", "conflict", "single") for one in found.images)
    seeds = confirmed.seeds
    for identity in np.unique(seeds[seeds >= 0]):
        clusters = set(result.clusters[seeds == identity].tolist())
        assert len(clusters) == 1
        others = result.clusters[(seeds >= 0) & (seeds != identity)]
        assert not clusters & set(others.tolist())


def test_tracks_calibrate(tmp_path: Path) -> None:
    people = draw_people(tmp_path / "images", identities=8, cameras=1, shots=6)
    rows = [f"{p.name},1,{p.name[:4]}" for p in sorted(people.iterdir())]
    (people / "images.csv").write_text("path,camera,track\n" + "\n".join(rows) + "\n")
    result = adapt(request(people / "images.csv", tmp_path / "run"))
    calibration = result.bundle.calibration
    assert calibration is not None
    assert calibration.genuine == 8 * 15
    assert "tracks" in calibration.data


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("path,identity\nnowhere.jpg,a\n", "no image nowhere.jpg"),
        ("key,identity\n0001_c1s1_000000_00.jpg,\n", "no row gives an identity"),
        ("identity\na\n", "no column names the images"),
    ],
)
def test_a_table_that_fits_nothing_is_named(people: Path, tmp_path: Path, rows: str, words: str) -> None:
    (tmp_path / "labels.csv").write_text(rows)
    with pytest.raises(DataError, match=words):
        adapt(request(people, tmp_path / "run", labels=tmp_path / "labels.csv"))
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_run_is_resumed_by_the_verb_that_began_it(people: Path, tmp_path: Path) -> None:
    reporter = StopAfter(1)
    with pytest.raises(KeyboardInterrupt):
        adapt(request(people, tmp_path / "run"), reporter, reporter.stop)
    with pytest.raises(UsageError, match="sss adapt --resume"):
        training.resume(tmp_path / "run")
    with pytest.raises(TrainingError, match="already holds a run"):
        adapt(request(people, tmp_path / "run"))
    with (tmp_path / "run" / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TrainingError, match="another process works on this run"):
            resume(tmp_path / "run")
        with pytest.raises(TrainingError, match="no run to resume"):
            resume(tmp_path / "nothing")
    saved = json.loads((tmp_path / "run" / "run.json").read_text())
    more = {**saved, "config": saved["config"] | {"gone": 1}}  # an option that there is no more
    less = {name: value for name, value in saved.items() if name != "layout"}  # and one that there was not yet
    for other in (more, less):
        (tmp_path / "run" / "run.json").write_text(json.dumps(other | {"version": "0.9.1"}))
        with pytest.raises(TrainingError, match=r"begun by siamese-search 0\.9\.1, .* start again in another --out"):
            resume(tmp_path / "run")


def test_other_images_than_at_the_beginning_are_refused(tmp_path: Path) -> None:
    people = draw_people(tmp_path / "people")
    reporter = StopAfter(1)
    with pytest.raises(KeyboardInterrupt):
        adapt(request(people, tmp_path / "run"), reporter, reporter.stop)
    next(people.iterdir()).unlink()
    with pytest.raises(TrainingError, match="data have changed"):
        resume(tmp_path / "run")


def test_images_that_make_no_cluster_end_the_run_in_one_line(people: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="nothing to learn from"):
        adapt(request(people, tmp_path / "run", CONFIG.with_options(least=1.0)))


def test_an_image_that_cannot_be_read_is_named_and_left_out(tmp_path: Path) -> None:
    people = draw_people(tmp_path / "people")
    broken = min(people.iterdir())
    broken.write_bytes(b"no image")
    result = adapt(request(people, tmp_path / "run", CONFIG.with_options(epochs=1)))
    assert [str(failure.path) for failure in result.failed] == [str(broken)]
    assert len(result.records) == 35


@pytest.mark.parametrize(
    ("options", "handed_on"),
    [
        ({}, True),
        ({"epochs": 1}, False),  # other weights: other scores
        ({"height": 48}, False),
        ({"statistics": False}, False),
        ({"centre": False}, False),
    ],
)
def test_what_scores_mean_is_handed_on_where_only_the_cameras_were_taken_anew(
    people: Path, tiny_bundle: Bundle, tmp_path: Path, options: dict[str, object], handed_on: bool
) -> None:
    known = Calibration((1.0, 0.01), (-1.0, 0.5), 10.0, -5.0, 50, 100)
    shutil.copytree(tiny_bundle.path, tmp_path / "init")
    meta = json.loads((tmp_path / "init" / "model.json").read_text())
    (tmp_path / "init" / "model.json").write_text(json.dumps({**meta, "adapted_calibration": known.to_json()}))
    asked = {"epochs": 0, "neighbours": 4, "batch_size": 8, "images_per_identity": 2, **options}
    config = adapt_config(str(tmp_path / "init"), **asked)
    result = adapt(AdaptRequest(people, tmp_path / "run", config, init=str(tmp_path / "init"), device="cpu", threads=1))
    assert result.bundle.calibration == (known if handed_on else None)
    assert result.bundle.adapted_calibration is None
    assert (result.bundle.read_centres() is not None) == options.get("centre", True)
