"""P×K batches over several data sets: each has its share of every batch, and small ones come again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from siamese_search.datasets.samplers import Indices, group_by_label
from siamese_search.errors import DataError


def shares(total: int, sizes: Sequence[int], turn: int) -> list[int]:
    """Divide the ``total`` identities of a batch among sources that have ``sizes`` identities, list [s].

    Equal shares, but none above what its source has: what one cannot take goes to the others. What does not
    divide falls to each in turn. A source is given one identity alone only where it has no second one, for a
    batch is searched for its hardest negatives, and those of another source are too easy: where ``total``
    holds fewer than two of every source, the sources themselves take turns.
    """
    present = min(len(sizes), max(1, total // 2))
    active = [(turn + i) % len(sizes) for i in range(present)]
    given = [0] * len(sizes)
    left = min(total, sum(sizes[source] for source in active))
    while left:
        able = [source for source in active if given[source] < sizes[source]]
        each = left // len(able)
        if each == 0:
            for source in able[:left]:  # another one is the first in every turn
                given[source] += 1
            break
        for source in able:
            taken = min(each, sizes[source] - given[source])
            given[source] += taken
            left -= taken
    return given


class BalancedPKSampler:
    """Batches of P identities × K images as :class:`PKSampler`'s, with an equal share for every source.

    labels, sources: of each image, [n]; an identity belongs to one source. See :func:`shares` for who has
    how much of a batch. An epoch lasts until every source has been through as often as its images ask for
    (n / K times each identity); the smaller ones go on meanwhile with their images in a new order. A batch
    never holds an identity twice. Everything depends on (seed, epoch, step) alone.
    """

    def __init__(
        self, labels: Sequence[int], sources: Sequence[int], identities: int, images: int, seed: int = 0
    ) -> None:
        self.groups = group_by_label(labels)
        if len(self.groups) < 2:
            raise DataError("training needs at least 2 identities: there is nothing to tell apart")
        if all(len(group) < 2 for group in self.groups):
            raise DataError("training needs an identity with at least 2 images: every identity has only one")
        self.p = identities
        self.k = images
        self.seed = seed
        owner = np.asarray(sources)[[group[0] for group in self.groups]]
        self._members = [np.flatnonzero(owner == source) for source in np.unique(owner)]
        self._times = np.array([max(1, round(len(group) / images)) for group in self.groups])

    def epoch(self, epoch: int) -> Iterator[Indices]:
        """The batches of one epoch: int64 [P·K], K consecutive images per identity, sources mixed."""
        rng = np.random.default_rng((self.seed, epoch, 4))
        waiting = [self._times[members].copy() for members in self._members]
        chunks: list[list[Indices]] = [[] for _ in self.groups]
        for given in self._plan(epoch):
            labels = np.concatenate(
                [self._draw(source, count, waiting[source], rng) for source, count in enumerate(given)]
            )
            yield np.concatenate([self._chunk(label, chunks, rng) for label in rng.permutation(labels)])

    def steps(self, epoch: int) -> int:
        """How many batches :meth:`epoch` yields."""
        return len(self._plan(epoch))

    def _plan(self, epoch: int) -> list[list[int]]:
        """How many identities each source gives to each batch of an epoch."""
        sizes = [len(members) for members in self._members]
        due = np.array([self._times[members].sum() for members in self._members])
        plan: list[list[int]] = []
        while (due > 0).any():
            plan.append(shares(self.p, sizes, epoch + len(plan)))
            due -= plan[-1]
        return plan

    def _draw(
        self, source: int, count: int, waiting: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """``count`` different identities of a source, weighted by how often each has yet to come."""
        if (waiting > 0).sum() < count:
            waiting += self._times[self._members[source]]
        with np.errstate(divide="ignore"):
            keys = np.log(waiting) + rng.gumbel(size=len(waiting))  # Gumbel top-k, as in PKSampler
        chosen = np.argsort(-keys, kind="stable")[:count]
        waiting[chosen] -= 1
        return np.asarray(self._members[source][chosen], np.int64)

    def _chunk(self, label: int, chunks: list[list[Indices]], rng: np.random.Generator) -> Indices:
        """The next K images of an identity; all have come once before any comes again in a later round."""
        if not chunks[label]:
            times = int(self._times[label])
            padded = np.resize(rng.permutation(self.groups[label]), times * self.k)
            chunks[label] = [padded[i * self.k : (i + 1) * self.k] for i in range(times)]
        return chunks[label].pop()
