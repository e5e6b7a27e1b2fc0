import numpy as np
import pytest

from ingest.distributed.worker import Outcome, pack_work, unpack_work
from ingest.scan import PlannedFile, ScannedFile
from siamese_search.datasets.records import ImageRecord
from siamese_search.errors import BundleError, ImageError, MissingExtraError, StoreError

pytest.importorskip("pyarrow")


def planned(path, **payload):
    scanned = ScannedFile(ImageRecord("k/ä.jpg", path, "0001"), "nas", str(path), 12, 2**60 + 1)
    return PlannedFile("changed", "id-1", scanned, {"source": "nas", "key": "k/ä.jpg", **payload})


def test_what_a_worker_needs_to_decode_survives_whatever_the_name(tmp_path):
    files = [planned(tmp_path / name) for name in ("ä \n.jpg", "\udcff\udc00.png")]
    for whole in (False, True):
        for file, back in zip(files, unpack_work(pack_work(files, whole=whole)), strict=True):
            assert back.scanned.record.path == file.scanned.record.path
            assert (back.scanned.size, back.scanned.mtime_ns) == (12, 2**60 + 1)


def test_a_worker_that_stores_gets_the_payload_to_the_bit(tmp_path):
    file = planned(tmp_path / "a.jpg", score=0.1, big=2**62, flag=True, text="ü\x00", frame=0)
    (back,) = unpack_work(pack_work([file], whole=True))
    assert (back.id, back.action, back.payload) == (file.id, file.action, file.payload)
    assert [type(value) for value in back.payload.values()] == [type(v) for v in file.payload.values()]


def test_one_that_does_not_gets_rows(tmp_path):
    files = [planned(tmp_path / f"{n}.jpg", label="x" * 500) for n in range(3)]
    data = pack_work(files, whole=False)
    assert [file.id for file in unpack_work(data)] == ["0", "1", "2"]
    assert b"xxx" not in data


def test_an_outcome_comes_back_as_it_was():
    vectors = np.random.default_rng(1).normal(size=(2, 5)).astype(np.float32)
    sent = Outcome(
        7,
        rows=[0, 3],
        vectors=vectors,
        counts={"embedded": 2},
        failures=[("/a/\udcff.jpg", "empty file")],
        seconds={"embed": 0.1},
        complete=False,
        ready=1.5,
    )
    back = Outcome.from_table(sent.to_table())
    assert back.vectors.tobytes() == vectors.tobytes()
    assert back.vectors.shape == (2, 5)
    sent.vectors = back.vectors = None
    assert back == sent


def test_nothing_embedded_means_no_vectors():
    assert Outcome.from_table(Outcome(0, vectors=np.empty((0, 5), np.float32)).to_table()).vectors is None


@pytest.mark.parametrize(
    "error", [StoreError("a: b"), BundleError("x"), MissingExtraError("--device cuda", "torch"), ImageError("a", "b")]
)
def test_an_error_is_raised_as_what_it_was(error):
    with pytest.raises(type(error), match=str(error).replace("[", r"\[")):
        Outcome(0, error=(type(error).__name__, str(error))).raise_error()


def test_an_unknown_error_names_itself_and_no_error_is_none():
    with pytest.raises(RuntimeError, match="a worker failed: KeyError: 'x'"):
        Outcome(0, error=("KeyError", "'x'")).raise_error()
    with pytest.raises(RuntimeError, match="annotations"):  # a name of the module that is no error
        Outcome(0, error=("annotations", "")).raise_error()
    Outcome(0).raise_error()
