"""The bar of the Python API, drawn by the real tqdm into a stream."""

import io

import siamese_search as sss
from ingest.summary import Progress


def drawn(*moments):
    stream = io.StringIO()
    with sss.ProgressBar(file=stream, mininterval=0, ascii=True, ncols=80) as bar:
        for moment in moments:
            bar(*moment)
    return [line for line in stream.getvalue().replace("\n", "\r").split("\r") if line.strip()]


def test_counts_become_a_bar_that_ends_full():
    assert "3/3" in drawn((1, 3), (2, 3), (3, 3))[-1]


def test_each_stage_has_its_own_bar():
    lines = drawn(("gallery", 1, 2), ("gallery", 2, 2), ("queries", 1, 1))
    assert [stage for stage in ("gallery", "queries") if any(stage in line for line in lines)] == ["gallery", "queries"]
    assert any("2/2" in line for line in lines if "gallery" in line)
    assert "1/1" in lines[-1]


def test_a_stage_alone_is_named():
    assert "clustering" in drawn(("reading",), ("clustering",))[-1]


def test_an_ingest_whose_total_becomes_known():
    lines = drawn((Progress(1, 1, False, 0, 0),), (Progress(4, 4, True, 4, 0, total=4),))
    assert "4/4" in lines[-1]


def test_the_verbs_take_it(tmp_path, demo):
    stream = io.StringIO()
    summary = sss.ingest(demo / "gallery", store=tmp_path / "s", progress=sss.ProgressBar(file=stream, ncols=80))
    assert f"{summary.seen}/{summary.seen}" in stream.getvalue()
