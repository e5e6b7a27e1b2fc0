"""BatchDecoder: batches in order, failures named, buffers used again and never while somebody holds them."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from PIL import Image

from siamese_search.errors import ImageError
from siamese_search.io import decoding
from siamese_search.io.decoding import BatchDecoder
from siamese_search.io.images import read_image
from siamese_search.io.location import CHANGED, FileStamp

SIZE = (16, 8)


@pytest.fixture
def paths(tmp_path):
    """40 images, each of a colour of its own."""
    made = []
    for number in range(40):
        made.append(tmp_path / f"{number:02d}.png")
        Image.new("RGB", (8, 16), (number, 255 - number, 7)).save(made[-1])
    return made


@pytest.fixture
def decoder():
    with BatchDecoder(SIZE, 2) as made:
        yield made


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 40])
def test_a_batch_is_its_images_in_order(paths, decoder, count):
    with decoder.submit(paths[:count]).result() as batch:
        assert batch.rows == list(range(count))
        assert (batch.pixels.dtype, batch.pixels.shape) == (np.uint8, (count, *SIZE, 3))
        for path, pixels in zip(paths, batch.pixels):
            np.testing.assert_array_equal(pixels, read_image(path, SIZE))
        assert batch.failures == []
        assert batch.seconds > 0 or not count


@pytest.mark.parametrize("bad", [[0], [39], [0, 1, 2, 20, 38, 39], list(range(40))])
def test_what_cannot_be_read_is_named_and_the_others_move_together(paths, decoder, bad):
    for row in bad:
        paths[row].write_bytes(b"no picture")
    batch = decoder.submit(paths).result()
    good = [row for row in range(40) if row not in bad]
    assert batch.rows == good
    assert [pixels[0, 0, 0] for pixels in batch.pixels] == good
    assert [row for row, _ in batch.failures] == bad
    for row, error in batch.failures:
        assert isinstance(error, ImageError)
        assert error.path == paths[row]
        assert error.reason.startswith("not an image")


def test_a_released_buffer_is_used_again(paths, decoder):
    first = decoder.submit(paths[:10]).result()
    seen = first.pixels
    first.release()
    assert len(first.pixels) == 0
    second = decoder.submit(paths[10:16]).result()
    assert np.shares_memory(seen, second.pixels)
    assert len(second.pixels) == 6


def test_a_buffer_that_is_held_is_left_alone(paths, decoder):
    held = [decoder.submit(paths[start : start + 8]).result() for start in range(0, 40, 8)]
    again = decoder.submit(paths[:8]).result()
    for number, batch in enumerate(held):
        assert [pixels[0, 0, 0] for pixels in batch.pixels] == list(range(number * 8, number * 8 + 8))
        assert not np.shares_memory(batch.pixels, again.pixels)


def test_releasing_twice_does_not_give_one_buffer_to_two_batches(paths, decoder):
    batch = decoder.submit(paths[:8]).result()
    batch.release()
    batch.release()
    one, other = decoder.submit(paths[:8]).result(), decoder.submit(paths[8:16]).result()
    assert not np.shares_memory(one.pixels, other.pixels)
    assert [pixels[0, 0, 0] for pixels in one.pixels] == list(range(8))


def test_a_small_buffer_makes_way_for_a_larger_batch(paths, decoder):
    decoder.submit(paths[:4]).result().release()
    batch = decoder.submit(paths).result()
    assert [pixels[0, 0, 0] for pixels in batch.pixels] == list(range(40))
    large = batch.pixels
    batch.release()
    assert np.shares_memory(large, decoder.submit(paths[:4]).result().pixels)


def test_idle_buffers_are_few(paths, decoder):
    batches = [decoder.submit(paths[:2]).result() for _ in range(30)]
    for batch in batches:
        batch.release()
    assert len(decoder._idle) <= 4


def test_a_file_in_another_state_than_expected_is_named(paths, decoder):
    stamps = [FileStamp(path.stat().st_size, path.stat().st_mtime_ns) for path in paths[:3]]
    stamps[1] = FileStamp(stamps[1].size, stamps[1].mtime_ns - 1)
    batch = decoder.submit(paths[:3], stamps).result()
    assert batch.rows == [0, 2]
    assert [(row, error.reason) for row, error in batch.failures] == [(1, CHANGED)]


def test_leaving_drops_what_is_queued(paths, monkeypatch):
    """Two threads are in their first image; nothing after it is read."""
    entered, go = threading.Semaphore(0), threading.Event()
    read = []

    def slow(path, size, *, expected=None):
        read.append(path)
        entered.release()
        go.wait(30)
        return np.zeros((*size, 3), np.uint8)

    monkeypatch.setattr(decoding, "read_image", slow)
    decoder = BatchDecoder(SIZE, 2)
    for _ in range(4):
        decoder.submit(paths)
    for _ in range(2):
        assert entered.acquire(timeout=30)
    leaving = threading.Thread(target=decoder.__exit__)
    leaving.start()
    assert decoder._closed.wait(30)
    go.set()
    leaving.join(30)
    assert not leaving.is_alive()
    assert len(read) == 2


def test_an_error_that_is_no_image_error_reaches_the_caller(paths, decoder, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("a defect of ours")

    monkeypatch.setattr(decoding, "read_image", fail)
    with pytest.raises(RuntimeError, match="a defect of ours"):
        decoder.submit(paths[:3]).result()
