"""Samplers: which images form a training batch. Pure functions of (seed, epoch), so a resumed run repeats them.

Of several data sets each has its share of every P×K batch, and small ones come again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from siamese_search.errors import DataError

Indices = NDArray[np.int64]


def group_by_label(labels: Sequence[int] | Indices) -> list[Indices]:
    """Image indices of each label 0 … L-1, as a list of int64 arrays."""
    array = np.asarray(labels, np.int64)
    order = np.argsort(array, kind="stable")
    bounds = np.searchsorted(array[order], np.arange(int(array.max(initial=-1)) + 2))
    return [order[a:b] for a, b in pairwise(bounds)]


def _to_tell_apart(labels: Sequence[int]) -> list[Indices]:
    groups = group_by_label(labels)
    if len(groups) < 2:
        raise DataError("training needs at least 2 identities: there is nothing to tell apart")
    if all(len(group) < 2 for group in groups):
        raise DataError("training needs an identity with at least 2 images: every identity has only one")
    return groups


class PKSampler:
    """Batches of P identities × K images (Hermans et al., "In Defense of the Triplet Loss", 2017).

    An identity with n images enters max(1, round(n / K)) times an epoch, in random order; one with fewer than K repeats
    some. A batch never holds an identity twice. Identities with a single image stay in, as negatives.
    """

    def __init__(self, labels: Sequence[int], identities: int, images: int, seed: int = 0) -> None:
        self.groups = _to_tell_apart(labels)
        self.p, self.k, self.seed = min(identities, len(self.groups)), images, seed
        self._steps: tuple[int, int] | None = None

    def epoch(self, epoch: int) -> Iterator[Indices]:
        """The batches of one epoch: int64 [P·K], K consecutive images per identity."""
        rng = np.random.default_rng((self.seed, epoch, 1))
        chunks = [_chunks(group, self.k, rng) for group in self.groups]
        waiting = np.array([len(c) for c in chunks])
        while (left := int((waiting > 0).sum())) >= max(2, self.p // 2):  # the last batches may be smaller
            # Gumbel top-P: identities drawn without replacement, weighted by what is left of them.
            with np.errstate(divide="ignore"):
                keys = np.log(waiting) + rng.gumbel(size=len(waiting))
            p = min(self.p, left)
            chosen = np.argpartition(-keys, p - 1)[:p]
            rng.shuffle(chosen)
            waiting[chosen] -= 1
            yield np.concatenate([chunks[label][waiting[label]] for label in chosen])

    def steps(self, epoch: int) -> int:
        """How many batches :meth:`epoch` yields."""
        if self._steps is None or self._steps[0] != epoch:
            self._steps = (epoch, sum(1 for _ in self.epoch(epoch)))
        return self._steps[1]


def _chunks(group: Indices, k: int, rng: np.random.Generator) -> list[Indices]:
    """An identity's images in random order, by K: as many as come nearest to once each."""
    order = rng.permutation(group)
    return list(np.resize(order, (max(1, round(len(group) / k)), k))) if len(order) else [order]


class TripletSampler:
    """Batches of (anchor, positive, negative): given triplets, or drawn at random anew each epoch.

    Drawn: every image of an identity with at least two is once an anchor; its negative is any image of another one.
    sources: the data set of each image, [n]. With several, each is drawn from by itself, and they take turns: each has
    an equal share of every batch, and the smaller ones are drawn again until the largest is through.
    """

    def __init__(
        self,
        labels: Sequence[int],
        batch: int,
        triplets: Sequence[tuple[int, int, int]] = (),
        seed: int = 0,
        sources: Sequence[int] = (),
    ) -> None:
        self.batch = batch
        self.seed = seed
        given = np.asarray(triplets, np.int64).reshape(-1, 3)
        self._parts = _parts(np.asarray(labels, np.int64), given, np.asarray(sources, np.int64))

    def epoch(self, epoch: int) -> Iterator[Indices]:
        """The batches of one epoch: int64 [B, 3], columns anchor, positive, negative. The last may be short."""
        rng = np.random.default_rng((self.seed, epoch, 2))
        triplets = self.all_of_epoch(rng)
        for start in range(0, len(triplets), self.batch):
            block = triplets[start : start + self.batch]
            if len(block) > 1 or len(triplets) == 1:  # one triplet alone is too few for batch statistics
                yield block

    def steps(self, epoch: int) -> int:  # noqa: ARG002 - the samplers share one shape
        """How many batches :meth:`epoch` yields."""
        rest = self.total % self.batch
        return self.total // self.batch + (1 if rest > 1 or self.total == 1 else 0)

    @property
    def total(self) -> int:
        """Triplets in an epoch."""
        return len(self._parts) * max(part.total for part in self._parts)

    def all_of_epoch(self, rng: np.random.Generator) -> Indices:
        """All triplets of one epoch in random order, the sources by turns: int64 [total, 3]."""
        longest = max(part.total for part in self._parts)
        return np.stack([part.draw(longest, rng) for part in self._parts], axis=1).reshape(-1, 3)


class PairSampler(TripletSampler):
    """Batches of pairs: half (anchor, positive) and half (anchor, negative) of triplets, shuffled apart."""

    @property
    def half(self) -> int:
        return max(1, self.batch // 2)

    def epoch(self, epoch: int) -> Iterator[Indices]:
        """The batches of one epoch: int64 [B, 2]; the first B/2 pairs are of the same identity.

        The last batch may be short; even one pair of each kind is enough for batch statistics.
        """
        rng = np.random.default_rng((self.seed, epoch, 3))
        triplets, count = self.all_of_epoch(rng), len(self._parts)
        again = np.stack([rng.permutation(triplets[turn::count]) for turn in range(count)], axis=1).reshape(-1, 3)
        for start in range(0, len(triplets), self.half):
            batch = slice(start, start + self.half)
            yield np.concatenate([triplets[batch, [0, 1]], again[batch, [0, 2]]])

    def steps(self, epoch: int) -> int:  # noqa: ARG002 - the samplers share one shape
        return -(-self.total // self.half)


@dataclass(frozen=True, slots=True)
class _Part:
    """The triplets of one data set: the given ones, or else drawn from its own images.

    images: indices of its images, int64 [m]; labels: theirs, [m]; groups: positions in ``images`` by label.
    """

    images: Indices
    labels: Indices
    groups: list[Indices]
    given: Indices

    @property
    def total(self) -> int:
        """Triplets before one has to come again."""
        return len(self.given) or sum(len(group) for group in self.groups if len(group) > 1)

    def draw(self, count: int, rng: np.random.Generator) -> Indices:
        """So many triplets of image indices, int64 [count, 3], drawn afresh as often as it takes."""
        rounds = range(-(-count // self.total))
        if len(self.given):
            found = [rng.permutation(self.given) for _ in rounds]
        else:
            found = [self.images[_draw_triplets(self.labels, self.groups, rng)] for _ in rounds]
        return np.concatenate(found)[:count]


def _parts(labels: Indices, given: Indices, sources: Indices) -> list[_Part]:
    """The data sets that have triplets. Raises DataError, with the first one's reason, where none has."""
    names = np.unique(sources)
    if len(names) < 2:
        sources, names = np.zeros(len(labels), np.int64), np.zeros(1, np.int64)
        owners = np.zeros(len(given), np.int64)
    else:
        owners = sources[given[:, 0]]
    parts: list[_Part] = []
    reasons: list[str] = []
    for name in names:
        images = np.flatnonzero(sources == name).astype(np.int64)
        found, own = np.unique(labels[images], return_inverse=True)
        groups = group_by_label(own.astype(np.int64))
        part = _Part(images, own.astype(np.int64), groups, given[owners == name])
        if not len(part.given) and len(found) < 2:
            reasons.append("triplets need at least 2 identities: there is no negative to draw")
        elif not part.total:
            reasons.append("triplets need an identity with at least 2 images: every identity has only one")
        else:
            parts.append(part)
    if not parts:
        raise DataError(reasons[0])
    return parts


def _draw_triplets(labels: Indices, groups: list[Indices], rng: np.random.Generator) -> Indices:
    """One triplet [anchor, positive, negative] for every image that has a partner, shuffled: int64 [t, 3]."""
    rows: list[tuple[int, int, int]] = []
    total = len(labels)
    for label, group in enumerate(groups):
        if len(group) < 2:
            continue
        for position, anchor in enumerate(group):
            other = int(rng.integers(len(group) - 1))
            positive = group[other + (other >= position)]
            negative = int(rng.integers(total))
            while labels[negative] == label:
                negative = int(rng.integers(total))
            rows.append((int(anchor), int(positive), negative))
    return rng.permutation(np.asarray(rows, np.int64))


def shares(total: int, sizes: Sequence[int], turn: int) -> list[int]:
    """Divide the ``total`` identities of a batch among sources that have ``sizes`` identities, list [s].

    Equal shares, but none above what its source has: what one cannot take goes to the others, and what does not divide
    falls to each in turn. A source has at least two if it can, for negatives of another source are too easy: where
    ``total`` holds fewer than two of every source, the sources take turns.
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
    """Batches of P identities × K images as :class:`PKSampler`'s, with equal :func:`shares` of the sources.

    labels, sources: of each image, [n]; an identity belongs to one source. An epoch lasts until every source has been
    through as often as its images ask for; the smaller ones go on meanwhile. All depends on (seed, epoch, step) alone.
    """

    def __init__(
        self, labels: Sequence[int], sources: Sequence[int], identities: int, images: int, seed: int = 0
    ) -> None:
        self.groups = _to_tell_apart(labels)
        self.p, self.k, self.seed = identities, images, seed
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

    def _draw(self, source: int, count: int, waiting: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
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
        chunks[label] = chunks[label] or _chunks(self.groups[label], self.k, rng)
        return chunks[label].pop()
