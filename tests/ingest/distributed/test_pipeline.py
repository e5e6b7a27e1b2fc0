"""Ingest on a real Ray cluster of two nodes on this machine, one of which dies: nothing lost, nothing doubled.

One cluster for all of it, because starting one takes seconds. The fixtures ``two_nodes`` and ``one_node`` say what a
test finds of it, whichever ran before.
"""

import threading

import pytest
from fakes import write_market
from soundness import verify_vectors

from ingest.distributed.pipeline import RayPipeline
from ingest.distributed.session import RayOptions, _quiet_ray
from ingest.pipeline import run_ingest
from siamese_search.errors import ClusterError, DataError
from siamese_search.gallery import open_gallery
from siamese_search.gallery.contract import ModelRef
from siamese_search.settings import Settings
from siamese_search.workspace import LazyEmbedder

pytest.importorskip("ray.data")
pytestmark = pytest.mark.slow

IDENTITIES = 40  # 4 images each
BAD = 2


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    files = write_market(root, identities=IDENTITIES)
    files[30].write_bytes(b"")
    files[130].write_bytes(files[130].read_bytes()[:50])
    return root


@pytest.fixture(scope="module")
def cluster():
    ray = _quiet_ray(verbose=False)
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 80 << 20}
    # A node that does not answer is dead sooner than Ray would have it.
    system = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}
    cluster = Cluster(
        initialize_head=True, head_node_args={**small, "include_dashboard": False, "_system_config": system}
    )
    cluster.second, cluster.small = None, small
    ray.init(address=cluster.address, log_to_driver=False, logging_level="CRITICAL")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def two_nodes(cluster):
    if cluster.second is None:
        cluster.second = cluster.add_node(**cluster.small, wait=True)
    return cluster


@pytest.fixture
def one_node(cluster):
    if cluster.second is not None:
        lose_second(cluster)
    return cluster


def lose_second(cluster):
    second, cluster.second = cluster.second, None
    cluster.remove_node(second, allow_graceful=False)


def opened(store, bundle):
    model = ModelRef(bundle.fingerprint, bundle.dim, bundle.name)
    return open_gallery(store, model=model, create=True, mode="w")


def stored(gallery):
    assert verify_vectors(gallery).damaged == ()
    points = list(gallery.scroll(with_vectors=True))
    assert len({point.id for point in points}) == len(points)
    return {point.id: (point.vector.tobytes(), point.payload) for point in points}


def ingest(root, gallery, bundle, pipeline=None, **options):
    return run_ingest([root], gallery, LazyEmbedder(bundle, "cpu", 1), batch_size=4, pipeline=pipeline, **options)


def on_ray(bundle, **options):
    return RayPipeline(bundle, RayOptions(), Settings(), device="cpu", **options)


@pytest.fixture(scope="module")
def expected(images, tiny_bundle, tmp_path_factory):
    """What one process makes of them: the points, and the summary."""
    with opened(tmp_path_factory.mktemp("one") / "store", tiny_bundle) as gallery:
        summary = ingest(images, gallery, tiny_bundle)
        return stored(gallery), summary


def counts(summary):
    return {
        key: value
        for key, value in summary.to_json().items()
        if key in ("seen", "new", "changed", "moved", "unchanged", "removed")
    } | {"failed": sorted((one.path, one.reason) for one in summary.failures), "embedded": summary.embedded}


def test_a_node_that_dies_midway_costs_nothing(two_nodes, images, expected, tiny_bundle, tmp_path):
    points, summary = expected
    killed = []

    def kill(moment):
        if moment.embedded >= 40 and not killed:
            killed.append(moment.embedded)
            lose_second(two_nodes)

    with opened(tmp_path / "store", tiny_bundle) as gallery:
        done = ingest(images, gallery, tiny_bundle, on_ray(tiny_bundle), progress=kill)
        found = stored(gallery)
    assert killed[0] < 120  # midway
    assert done.workers == 2
    assert not done.interrupted
    assert counts(done) == counts(summary)
    assert found == points
    assert summary.failed == BAD
    assert done.startup_seconds > 0
    assert done.stages["embed"] > 0


def test_workers_that_store_by_themselves_make_the_same_gallery(one_node, images, expected, tiny_bundle, tmp_path):
    """In place of a server's: an embedded store, in which the worker and this process take turns."""
    points, summary = expected
    with opened(tmp_path / "store", tiny_bundle) as gallery:
        done = ingest(images, gallery, tiny_bundle, on_ray(tiny_bundle, by_workers=True))
        assert done.workers == 1
        assert counts(done) == counts(summary)
        assert stored(gallery) == points

        # Then: a changed image, one that has gone, and a moved one. Only what must be is embedded.
        files = sorted(images.iterdir())
        kept = {file: file.read_bytes() for file in (files[0], files[1], files[2])}
        try:
            files[0].write_bytes(files[5].read_bytes())
            files[1].unlink()
            again = ingest(images, gallery, tiny_bundle, on_ray(tiny_bundle, by_workers=True), prune="safe")
        finally:
            for file, content in kept.items():
                file.write_bytes(content)
        assert (again.new, again.changed, again.removed, again.failed) == (0, 1, 1, BAD)
        assert gallery.count() == len(points) - 1


def test_stopped_it_keeps_what_is_finished_and_the_next_run_goes_on(one_node, images, expected, tiny_bundle, tmp_path):
    stop = threading.Event()

    def when_some_are_done(moment):
        if moment.embedded >= 24:
            stop.set()

    with opened(tmp_path / "store", tiny_bundle) as gallery:
        first = ingest(images, gallery, tiny_bundle, on_ray(tiny_bundle), progress=when_some_are_done, stop=stop)
        assert first.interrupted
        kept = gallery.count()
        assert 0 < kept == first.new < 4 * IDENTITIES - BAD
        second = ingest(images, gallery, tiny_bundle, on_ray(tiny_bundle))
        assert (second.unchanged, second.interrupted) == (kept, False)
        assert stored(gallery).keys() == expected[0].keys()


def test_a_machine_without_the_images_is_named(one_node, images, tiny_bundle, tmp_path):
    pipeline = on_ray(tiny_bundle, places=[str(tmp_path / "mount")])
    with (
        opened(tmp_path / "store", tiny_bundle) as gallery,
        pytest.raises(DataError, match=r"mount is not there on .*every machine of the cluster"),
    ):
        ingest(images, gallery, tiny_bundle, pipeline)


def test_workers_that_never_start_are_given_up(one_node, images, tiny_bundle, tmp_path, monkeypatch):
    """As on a machine where something is not installed: here the workers cannot import this test's ``fakes``."""
    monkeypatch.setattr("ingest.distributed.pipeline.EmbedWorker", CannotStart)
    monkeypatch.setattr("ingest.distributed.pipeline._MOST_FRUITLESS", 1)
    with (
        opened(tmp_path / "store", tiny_bundle) as gallery,
        pytest.raises(ClusterError, match=r"gave up with \d+ images left, the first is \S+: ModuleNotFoundError: "),
    ):
        ingest(images, gallery, tiny_bundle, on_ray(tiny_bundle))


class CannotStart:
    def __init__(self, *_):
        raise ModuleNotFoundError("fakes")

    def __call__(self, table):
        return table
