"""Verification metrics: are two images the same identity? ROC, AUC, EER and TAR at a bounded FAR.

A pair is *genuine* when its identities are the same and *impostor* when they differ; its score is the dot
product of unit vectors, and a pair is accepted when ``score >= threshold``. All pairs count, a million or
ten thousand million: scores go into two histograms, so that memory does not grow with the pairs.

Resolution: bins are 2^-19 (1.9e-6) wide. Scaling a float32 by a power of two is exact, and so is the floor
after it; every threshold handed out is a bin edge, hence the acceptance counts at a threshold are exact,
not estimates. Only the AUC treats scores within one bin as tied (each such pair of pairs counts one half).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from siamese_search.evaluation.protocol import JUNK, Labels

#: Bins per unit of score; index = floor(score · SCALE) + SCALE, the last bin holds scores of 1 and above.
SCALE = 1 << 19
BINS = 2 * SCALE + 1

#: False accept rates of the report, with the names that they have in its JSON.
FALSE_ACCEPT_RATES = {"1e-1": 1e-1, "1e-2": 1e-2, "1e-3": 1e-3, "1e-4": 1e-4}

#: Scores held at once while pairs are formed (16 MB as float32).
_BLOCK = 1 << 22


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What a threshold does: pairs with ``score >= threshold`` are accepted. Rates are exact counts.

    ``false_accepts``: the impostor pairs accepted. They are what the false accept rate rests on, and with few of them
    neither it nor the true accept rate beside it is sure of more than its first digit.
    """

    threshold: float
    false_accept_rate: float
    true_accept_rate: float
    false_accepts: int


@dataclass(frozen=True)
class RocCurve:
    """Points of a ROC curve, by falling threshold: float64 [n] each."""

    threshold: NDArray[np.float64]
    false_accept_rate: NDArray[np.float64]
    true_accept_rate: NDArray[np.float64]


@dataclass(frozen=True)
class VerificationMetrics:
    """Rates as fractions; ``None`` where there are too few pairs to say (``n/a`` in reports).

    ``at_far`` has the operating point for each of :data:`FALSE_ACCEPT_RATES`. ``threshold`` is the lowest one whose
    false accept rate is at most the one asked for; ``false_match_rate`` is the rate measured there, never above it.
    """

    genuine: int
    impostor: int
    auc: float | None
    eer: float | None
    at_far: dict[str, OperatingPoint | None]
    threshold: float | None
    false_match_rate: float | None

    @property
    def tar_at_far(self) -> dict[str, float | None]:
        """The true accept rate at each false accept rate."""
        return {name: point.true_accept_rate if point else None for name, point in self.at_far.items()}


@dataclass(frozen=True)
class PairScores:
    """Histograms of genuine and impostor scores, int64 [BINS] each; add two to pool their pairs."""

    genuine: NDArray[np.int64]
    impostor: NDArray[np.int64]

    def __add__(self, other: PairScores) -> PairScores:
        return PairScores(self.genuine + other.genuine, self.impostor + other.impostor)

    @property
    def genuine_pairs(self) -> int:
        return int(self.genuine.sum())

    @property
    def impostor_pairs(self) -> int:
        return int(self.impostor.sum())

    @cached_property
    def _accepted(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Genuine and impostor pairs at or above each bin edge, int64 [BINS + 1]; the last accepts none."""
        return _tail(self.genuine), _tail(self.impostor)

    def auc(self) -> float | None:
        """Area under the ROC curve: how often a genuine pair outscores an impostor pair, ties one half."""
        genuine, impostor = self.genuine_pairs, self.impostor_pairs
        if not genuine or not impostor:
            return None
        below = np.cumsum(self.impostor) - self.impostor
        wins = np.dot(self.genuine.astype(np.float64), below + self.impostor / 2)
        return float(wins / genuine / impostor)

    def eer(self) -> float | None:
        """Equal error rate: where false accepts equal false rejects, on the ROC curve's segments."""
        curve = self.roc(points=None)
        if curve.threshold.size == 0:
            return None
        accept, reject = curve.false_accept_rate, 1 - curve.true_accept_rate
        gap = accept - reject  # rises from -1 (nothing accepted) to +1 (everything accepted): one crossing
        after = int(np.argmax(gap >= 0))
        low, high = gap[after - 1], gap[after]
        share = -low / (high - low)
        return float(accept[after - 1] + share * (accept[after] - accept[after - 1]))

    def at_false_accept_rate(self, rate: float) -> OperatingPoint | None:
        """The lowest threshold whose false accept rate is at most ``rate``, and what it does.

        ``None`` without genuine pairs, or where there are fewer than 1 / rate impostor pairs: a rate below
        the share of a single pair cannot be told from zero. Raises ValueError unless 0 < rate <= 1.
        """
        if not 0 < rate <= 1:
            raise ValueError(f"a false accept rate lies in (0, 1], not {rate}")
        allowed = int(rate * self.impostor_pairs * (1 + 1e-12))  # 0.07 · 100 must be 7, whatever its last bit says
        if not self.genuine_pairs or allowed < 1:
            return None
        return self._at(int(np.argmax(self._accepted[1] <= allowed)))  # counts fall, so this is the lowest edge

    def at_threshold(self, threshold: float) -> OperatingPoint | None:
        """What accepting ``score >= threshold`` does; the threshold is moved up to the next bin edge."""
        if not self.genuine_pairs or not self.impostor_pairs:
            return None
        return self._at(int(np.clip(np.ceil(threshold * SCALE) + SCALE, 0, BINS)))

    def _at(self, edge: int) -> OperatingPoint:
        """What accepting scores from this bin edge on does."""
        genuine, impostor = (int(accepted[edge]) for accepted in self._accepted)
        rates = impostor / self.impostor_pairs, genuine / self.genuine_pairs
        return OperatingPoint((edge - SCALE) / SCALE, *rates, impostor)

    def roc(self, points: int | None = 1000) -> RocCurve:
        """The ROC curve from (0, 0) to (1, 1); empty without genuine or impostor pairs.

        points: thin it to about that many, evenly over the rates and, for a logarithmic axis, over the
        logarithm of the false accept rate; ``None`` keeps every change.
        """
        genuine, impostor = self.genuine_pairs, self.impostor_pairs
        if not genuine or not impostor:
            return RocCurve(*[np.empty(0)] * 3)
        edges = np.concatenate(([BINS], np.flatnonzero(self.genuine + self.impostor)[::-1]))
        tar, far = (
            accepted[edges] / pairs for accepted, pairs in zip(self._accepted, (genuine, impostor), strict=True)
        )
        if points is not None and edges.size > points:
            keep = _thin(far, tar, points)
            edges, far, tar = edges[keep], far[keep], tar[keep]
        return RocCurve((edges - SCALE) / SCALE, far, tar)

    def binned(self, bins: int = 128) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
        """Coarse histograms for a plot: edges float64 [bins + 1], genuine and impostor counts int64 [bins].

        ``bins`` must be a power of two up to 2 · SCALE, so that coarse edges are fine edges.
        """
        if bins < 1 or (2 * SCALE) % bins:
            raise ValueError(f"bins must be a power of two up to {2 * SCALE}, not {bins}")

        def coarse(fine: NDArray[np.int64]) -> NDArray[np.int64]:
            folded = fine[:-1].copy()
            folded[-1] += fine[-1]
            return np.asarray(folded.reshape(bins, -1).sum(axis=1), dtype=np.int64)

        return np.linspace(-1, 1, bins + 1), coarse(self.genuine), coarse(self.impostor)

    def metrics(self, false_match_rate: float = 1e-2) -> VerificationMetrics:
        """All figures of the report, with the threshold for ``false_match_rate``."""
        chosen = self.at_false_accept_rate(false_match_rate)
        return VerificationMetrics(
            genuine=self.genuine_pairs,
            impostor=self.impostor_pairs,
            auc=self.auc(),
            eer=self.eer(),
            at_far={name: self.at_false_accept_rate(rate) for name, rate in FALSE_ACCEPT_RATES.items()},
            threshold=chosen.threshold if chosen else None,
            false_match_rate=chosen.false_accept_rate if chosen else None,
        )


def pair_scores(vectors: NDArray[np.float32], labels: Labels, *, block: int = _BLOCK) -> PairScores:
    """Scores of all unordered pairs within the gallery; pairs of the same known camera are left out.

    vectors: float32 [g, d], unit rows. Junk (``-1``) forms no pair; distractors (``0000``) are impostors to every
    identity, and form no pair among themselves, because nobody knows whether two of them show the same.
    block: scores held at once, the bound on memory.
    Raises ValueError for shapes that do not fit and for rows that are not of unit length.
    """
    return _histograms(_Side.of(vectors, labels.gallery_identity, labels.gallery_camera), None, block)


def cross_pair_scores(
    queries: NDArray[np.float32], gallery: NDArray[np.float32], labels: Labels, *, block: int = _BLOCK
) -> PairScores:
    """Scores of all pairs (query, gallery item), float32 [q, d] and [g, d]; rules as in :func:`pair_scores`."""
    left = _Side.of(queries, labels.query_identity, labels.query_camera)
    right = _Side.of(gallery, labels.gallery_identity, labels.gallery_camera)
    return _histograms(left, right, block)


@dataclass(frozen=True)
class _Side:
    """Unit vectors float32 [n, d] without junk, with the codes of their identities and cameras, int64 [n]."""

    vectors: NDArray[np.float32]
    identities: NDArray[np.int64]
    cameras: NDArray[np.int64]

    @classmethod
    def of(cls, vectors: NDArray[np.float32], identities: NDArray[np.int64], cameras: NDArray[np.int64]) -> _Side:
        matrix = np.asarray(vectors, dtype=np.float32)
        if matrix.ndim != 2:
            raise ValueError(f"embeddings must be [n, d], not {list(matrix.shape)}")
        if len(identities) != len(matrix):
            raise ValueError(f"{len(matrix)} embeddings need as many identities and cameras")
        lengths = np.linalg.norm(matrix, axis=1)
        wrong = np.flatnonzero(~(np.abs(lengths - 1) <= 1e-3))
        if wrong.size:
            raise ValueError(f"row {wrong[0]} has length {lengths[wrong[0]]:.6g}; verification needs unit rows")
        keep = identities != JUNK
        return cls(matrix[keep], identities[keep], cameras[keep])


def _histograms(left: _Side, right: _Side | None, block: int) -> PairScores:
    """Of all pairs, a block of scores at a time; right ``None``: pairs within left."""
    genuine, impostor = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
    other = left if right is None else right
    start = 0
    while start < len(left.vectors):
        first = start if right is None else 0  # within one set, only the columns from the block on
        columns = len(other.vectors) - first
        stop = min(len(left.vectors), start + max(1, block // max(1, columns)))
        scores = left.vectors[start:stop] @ other.vectors[first:].T
        own, theirs = left.identities[start:stop, None], other.identities[None, first:]
        counted = (own >= 0) | (theirs >= 0)
        camera = left.cameras[start:stop, None]
        counted &= (camera != other.cameras[None, first:]) | (camera < 0)
        if right is None:
            counted &= np.arange(columns)[None, :] > np.arange(stop - start)[:, None]
        same = own == theirs
        bins = np.floor(scores * np.float32(SCALE)).astype(np.int32)
        np.clip(bins, -SCALE, SCALE, out=bins)
        bins += SCALE
        genuine += np.bincount(bins[same & counted], minlength=BINS)
        impostor += np.bincount(bins[~same & counted], minlength=BINS)
        start = stop
    return PairScores(genuine, impostor)


def _tail(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many lie at or above each bin edge, int64 [BINS + 1]."""
    return np.concatenate((np.cumsum(counts[::-1])[::-1], [0])).astype(np.int64)


def _thin(far: NDArray[np.float64], tar: NDArray[np.float64], points: int) -> NDArray[np.int64]:
    """Indices of about ``points`` of a rising curve, its ends included."""
    third = max(2, points // 3)
    smallest = max(float(far[far > 0].min()), 1e-12)
    wanted_far = np.concatenate((np.linspace(0, 1, third), np.geomspace(smallest, 1, third)))
    picks = (
        np.searchsorted(far, wanted_far, side="right") - 1,
        np.searchsorted(tar, np.linspace(0, 1, third), side="left"),
        np.array([0, far.size - 1]),
    )
    return np.unique(np.clip(np.concatenate(picks), 0, far.size - 1)).astype(np.int64)
