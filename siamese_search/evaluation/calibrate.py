"""Calibration from pair scores: thresholds for false match rates, and a mapping from score to probability."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from siamese_search.errors import BundleError, DataError, printable
from siamese_search.evaluation.protocol import Labels
from siamese_search.evaluation.verification import PairScores, pair_scores
from siamese_search.io.files import atomic_write_text
from siamese_search.model.bundle import META_NAME, PACKAGED, Bundle, load_bundle
from siamese_search.model.calibration import Calibration

#: Measured false match rates per factor of ten, from 1 downwards; 0.1, 0.01 and 0.001 are among them.
_PER_DECADE = 10
#: Bins of the logistic fit.
_FIT_BINS = 1 << 12
_NEWTON_STEPS = 100


def calibrate(pairs: PairScores, data: str = "") -> Calibration:
    """What these scores say about same and different. data: where the pairs came from, for people.

    Rates go down to one pair of different identities. Raises DataError with fewer than ten pairs of either kind,
    or where the two cannot be told apart at all (AUC up to one half).
    """
    genuine, impostor = pairs.genuine_pairs, pairs.impostor_pairs
    if min(genuine, impostor) < 10:
        raise DataError(
            f"{genuine} pairs of the same identity and {impostor} of different ones are too few to calibrate on,"
            " at least 10 of each are needed: give more identities"
        )
    auc = pairs.auc()
    if auc is None or auc <= 0.5:
        raise DataError(
            f"the model does not tell these identities apart (AUC {auc:.3f}): there is nothing to calibrate"
        )
    rates: list[float] = []
    thresholds: list[float] = []
    for step in range(math.floor(_PER_DECADE * math.log10(impostor)) + 1):
        point = pairs.at_false_accept_rate(10.0 ** (-step / _PER_DECADE))
        if point is None or point.false_accept_rate == 0.0:
            break
        if not rates or (point.false_accept_rate < rates[-1] and point.threshold > thresholds[-1]):
            rates.append(point.false_accept_rate)
            thresholds.append(point.threshold)
    if not rates:
        raise DataError("all pairs of different identities have the same score: there is nothing to calibrate")
    slope, offset = _logistic(pairs)
    return Calibration(tuple(rates), tuple(thresholds), slope, offset, genuine, impostor, data)


def telling_pairs(
    vectors: NDArray[np.float32], names: Sequence[str], cameras: Sequence[str | None], least: int
) -> tuple[PairScores, bool]:
    """Pairs of labelled images, float32 [n, d], and whether they are those across cameras, which a search is for.

    Those are taken where there are ``least`` of either kind, else all.
    """
    if any(cameras):
        pairs = pair_scores(vectors, Labels.within(names, cameras))
        if min(pairs.genuine_pairs, pairs.impostor_pairs) >= least:
            return pairs, True
    return pair_scores(vectors, Labels.within(names)), False


def save_calibration(bundle: Bundle, calibration: Calibration) -> Bundle:
    """Write the calibration into the ``model.json`` of a run's own bundle; weights and fingerprint stay.

    Raises BundleError where it cannot be written, and for the installed package's: every gallery there is shares that.
    """
    if bundle.path in PACKAGED.values():
        raise BundleError("the bundled model belongs to the installed package and is never written: name a gallery")
    meta = {**bundle.meta, "calibration": calibration.to_json()}
    path = bundle.path / META_NAME
    try:
        atomic_write_text(path, json.dumps(meta, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise BundleError(
            f"{printable(path)}: the calibration cannot be written ({error.strerror or error}): copy the bundle"
            " to a directory of your own, and name that with --model"
        ) from None
    return load_bundle(bundle.path)


def _logistic(pairs: PairScores) -> tuple[float, float]:
    """Slope and offset of P(same | score), both kinds weighing the same, by Newton's method on binned scores.

    Targets are Platt's, just short of 0 and 1, so that pairs that a threshold separates have a finite slope.
    """
    edges, genuine, impostor = pairs.binned(_FIT_BINS)
    score: NDArray[np.float64] = (edges[:-1] + edges[1:]) / 2
    weight_same, weight_other = genuine / genuine.sum(), impostor / impostor.sum()
    high, low = (pairs.genuine_pairs + 1) / (pairs.genuine_pairs + 2), 1 / (pairs.impostor_pairs + 2)
    weight = weight_same + weight_other
    target = weight_same * high + weight_other * low  # weighted
    design = np.stack((score, np.ones_like(score)))  # [2, bins]

    def loss(at: NDArray[np.float64]) -> float:
        z = at @ design
        return float((weight * np.logaddexp(0.0, z) - target * z).sum())

    found = np.array([1.0, 0.0])
    for _ in range(_NEWTON_STEPS):
        p = 1.0 / (1.0 + np.exp(-np.clip(found @ design, -700, 700)))
        gradient = design @ (weight * p - target)
        hessian = (design * (weight * p * (1 - p))) @ design.T + 1e-12 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        before, share = loss(found), 1.0
        while loss(found - share * step) > before and share > 1e-6:
            share /= 2
        found = found - share * step
        if float(np.abs(share * step).max()) < 1e-9:
            break
    return float(found[0]), float(found[1])
