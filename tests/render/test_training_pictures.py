"""Curves of a training and of a sweep: nothing is pressed flat, no axis shows what cannot be."""

from __future__ import annotations

from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from siamese_search.render.sweep import _draw_against
from siamese_search.training.directory import plot_history


def test_a_small_loss_is_not_pressed_flat_by_a_large_one(tmp_path):
    rows = [
        {"epoch": n, "loss": 9 - n, "triplet_loss": 0.9 / n, "val_loss": 0.04 / n, "triplet_accuracy": 0.5}
        for n in range(1, 6)
    ]
    with Image.open(plot_history(tmp_path, rows, "title")) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    held_out = np.abs(pixels - (0x1F, 0x6F, 0x8B)).sum(axis=2) < 12
    assert np.ptp(np.flatnonzero(held_out.any(axis=1))) > pixels.shape[0] // 2


@pytest.mark.parametrize("rank1", [0.0, 0.02, 1.0])
def test_an_axis_of_per_cent_begins_at_0(rank1):
    runs = [
        SimpleNamespace(
            point=SimpleNamespace(values={"lr": lr}), state="done", figures=SimpleNamespace(rank1=rank1, mAP=rank1 / 2)
        )
        for lr in (1e-4, 1e-3)
    ]
    axes = Figure().subplots()
    _draw_against(axes, SimpleNamespace(swept=("lr",), runs=runs))
    assert axes.get_ylim()[0] >= 0


@pytest.mark.parametrize("best", [(0.12, 0.125), (0.5, 0.5), (0.0, 0.02), (0.02, 0.0), (0.99, 1.0), (1.0, 0.98)])
def test_figures_beside_their_points_overlap_neither_each_other_nor_the_axis(best):
    steady = (0.6, 0.5)
    runs = [
        SimpleNamespace(point=SimpleNamespace(values={"lr": lr}), state="done", figures=SimpleNamespace(rank1=a, mAP=b))
        for lr, (a, b) in ((1e-4, best), (1e-3, steady), (1e-2, best))
    ]
    figure = Figure(figsize=(6, 5))
    axes = figure.subplots()
    _draw_against(axes, SimpleNamespace(swept=("lr",), runs=runs))
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 2 * len(runs)
    assert not [1 for one, other in combinations(boxes, 2) if one.overlaps(other)]
    assert min(box.y0 for box in boxes) >= axes.bbox.y0 - 1
    assert not [line for line in axes.lines if line.get_clip_on()]  # half a point at 0 % or at 100 % is none
