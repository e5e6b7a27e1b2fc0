"""embed_images: what one image at a time gives, in order, decoded ahead within bounds."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from fakes import ColourEmbedder, write_image

from siamese_search.embedding import batches_of, embed_images
from siamese_search.errors import UsageError
from siamese_search.io.images import read_image
from siamese_search.io.location import CHANGED, FileStamp

SIZE = ColourEmbedder.input_size


@pytest.fixture
def paths(tmp_path):
    return [write_image(tmp_path / f"{number:02d}.png") for number in range(23)]


def own(path):
    return path


def run(batches, embedder=None, image_of=own, **options):
    return list(embed_images(batches, embedder or ColourEmbedder(), image_of, **options))


@pytest.mark.parametrize("size", [1, 5, 23, 64])
@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_the_vectors_are_those_of_one_image_at_a_time(paths, size, ahead):
    bad = {paths[0], paths[7], paths[22]}
    for path in bad:
        path.write_bytes(b"no image")
    found = run(batches_of(paths, size), ahead=ahead, threads=3)
    assert [path for batch in found for path in batch.items] == [path for path in paths if path not in bad]
    assert {path for batch in found for path, _ in batch.failures} == bad
    assert len(found) == -(-len(paths) // size)  # one that failed as a whole is there too
    embedder = ColourEmbedder()
    for batch in found:
        for path, vector in zip(batch.items, batch.vectors, strict=True):
            np.testing.assert_array_equal(vector, embedder.embed(read_image(path, SIZE)[None])[0])
        assert batch.vectors.shape == (len(batch.items), embedder.dim)
        assert batch.decoding > 0


def test_arrays_are_embedded_as_the_files_that_they_were_read_from(paths):
    arrays = [read_image(path) for path in paths[:3]]
    (of_files,), (of_arrays,) = run([paths[:3]]), run([range(3)], image_of=arrays.__getitem__)
    np.testing.assert_array_equal(of_arrays.vectors, of_files.vectors)
    assert of_arrays.items == [0, 1, 2]
    with pytest.raises(UsageError, match="a query array must be uint8"):
        run([range(1)], image_of=lambda _: np.zeros((4, 4), np.uint8))


def test_a_file_in_another_state_than_it_was_seen_in_is_a_failure(paths):
    seen = {path: FileStamp(path.stat().st_size, path.stat().st_mtime_ns) for path in paths}
    write_image(paths[1], seed="another", size=(40, 40))
    (batch,) = run([paths[:3]], stamp_of=seen.__getitem__)
    assert batch.items == [paths[0], paths[2]]
    assert [(path, error.reason) for path, error in batch.failures] == [(paths[1], CHANGED)]


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_no_more_batches_are_taken_than_are_decoded_ahead(paths, ahead):
    taken = []

    def fed():
        for number, batch in enumerate(batches_of(paths, 4)):
            taken.append(number)
            yield batch

    for done, _ in enumerate(embed_images(fed(), ColourEmbedder(), own, ahead=ahead)):
        assert len(taken) <= done + 1 + ahead


def test_a_stop_drops_what_is_not_embedded(paths):
    stop = threading.Event()
    found = []
    for batch in embed_images(batches_of(paths, 4), ColourEmbedder(), own, ahead=2, stop=stop):
        found.append(batch)
        stop.set()
    assert len(found) == 1
    assert run(batches_of(paths, 4), stop=stop) == []


class Device(ColourEmbedder):
    """Computes by itself; the third batch cannot be started."""

    begun = 0

    def begin(self, images):
        self.begun += 1
        if self.begun == 3:
            raise RuntimeError("out of memory")
        vectors = self.embed(images)
        return lambda: vectors


def test_what_a_device_was_computing_comes_before_the_error_that_follows(paths):
    found = []

    def collect():
        for batch in embed_images(batches_of(paths, 4), Device(), own):
            found.append(batch)

    with pytest.raises(RuntimeError, match="out of memory"):
        collect()
    assert [batch.items for batch in found] == [paths[:4], paths[4:8]]
    np.testing.assert_array_equal(found[1].vectors, run([paths[4:8]])[0].vectors)
