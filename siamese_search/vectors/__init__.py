"""Arithmetic on arrays of vectors: numpy, nothing of galleries or images."""
