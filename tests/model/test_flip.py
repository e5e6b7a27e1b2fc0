from __future__ import annotations

import numpy as np

from siamese_search.model.bundle import Bundle
from siamese_search.model.embedder import FlipEmbedder, load_embedder


class Sides:
    """Embeds an image as its left and right brightness, centred: mirror images swap the two."""

    dim, input_size, fingerprint, centres = 2, (4, 6), "sides", None

    def embed(self, images):
        halves = images.reshape(len(images), 4, 2, 3, 3).mean(axis=(1, 3, 4)) - 100.0
        return (halves / np.linalg.norm(halves, axis=1, keepdims=True)).astype(np.float32)


def sides(left: int, right: int) -> np.ndarray:
    image = np.full((4, 6, 3), left, np.uint8)
    image[:, 3:] = right
    return image


def test_the_mean_of_both_mirror_images_has_unit_length():
    out = FlipEmbedder(Sides()).embed(np.stack([sides(200, 100), sides(100, 200), sides(150, 50)]))
    np.testing.assert_allclose(out[:2], np.full((2, 2), np.sqrt(0.5)), atol=1e-6)
    # (1, -1) and (-1, 1) cancel out: the image's own embedding stands.
    np.testing.assert_allclose(out[2], [np.sqrt(0.5), -np.sqrt(0.5)], atol=1e-6)
    assert out.dtype == np.float32


def test_a_real_model_and_no_images(tiny_bundle: Bundle):
    plain = load_embedder(tiny_bundle, threads=1)
    flipped = FlipEmbedder(plain)
    images = np.random.default_rng(0).integers(0, 256, (5, *plain.input_size, 3), dtype=np.uint8)
    out = flipped.embed(images)
    expected = plain.embed(images) + plain.embed(images[:, :, ::-1].copy())
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(out, expected, atol=1e-6)
    np.testing.assert_allclose(out, flipped.embed(images[:, :, ::-1].copy()), atol=1e-5)
    assert flipped.embed(images[:0]).shape == (0, plain.dim)
    assert (flipped.dim, flipped.input_size) == (plain.dim, plain.input_size)
    assert flipped.fingerprint != plain.fingerprint
