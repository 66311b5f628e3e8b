"""In which order a streamed data set is trained on.

A chunk is fetched whole, so a permutation of all images, which `TrainSampler` has, would fetch a chunk for every image.
litdata's own shuffle knows chunks, but gives ranks unequal shares or drops images to even them out, and its position
does not follow from an epoch and a number of batches. Hence this plan: litdata fetches, keeps and evicts chunks, and
what comes when is decided here, by seed, epoch and the numbers of ranks, workers and images in a batch.

Notation: N images stored in C chunks, R ranks with W workers each, B images to a rank and step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from yolo_lite.data.sampler import TrainSampler


class StoredImage(NamedTuple):
    """An image's id in the annotations, and the (K,) uint8 bytes of its file."""

    image_id: int
    data: np.ndarray


class Piece(NamedTuple):
    """The places from `begin` to `end` in a chunk."""

    chunk: int
    begin: int
    end: int


@dataclass(frozen=True)
class StreamPlan:
    """Chunks in random order, cut into as many equal lanes as there are workers on all ranks, each piece shuffled.

    Batch k of a rank is the next of its lane k mod W, which one worker serves from one chunk after the other. The
    images of a batch thus come from one or two chunks; that they are a random sample all the same is the converter's
    work, which stores the images of a training split in random order.

    Attributes:
        chunk_sizes: images in each chunk.
        seed: the same on every rank.
        world_size: ranks.
        num_workers: of each rank.
        batch_size: images per rank and step.
    """

    chunk_sizes: tuple[int, ...]
    seed: int
    world_size: int = 1
    num_workers: int = 1
    batch_size: int = 1

    @property
    def num_images(self) -> int:
        """Images in all chunks."""
        return sum(self.chunk_sizes)

    def lane_sizes(self) -> np.ndarray:
        """(R, W) images in each lane: the batches k with k mod W equal to the lane's number, together."""
        sizes = np.zeros((self.world_size, self.num_workers), dtype=np.int64)
        for rank in range(self.world_size):
            own = len(range(rank, self.num_images, self.world_size))
            whole, rest = divmod(own, self.batch_size)
            batches = [len(range(lane, whole, self.num_workers)) for lane in range(self.num_workers)]
            sizes[rank] = np.multiply(batches, self.batch_size)
            sizes[rank, whole % self.num_workers] += rest
        return sizes

    def lanes(self, epoch: int) -> list[list[Piece]]:
        """R x W lanes, those of the first rank first."""
        return cut(self, epoch)

    def places(self, epoch: int, pieces: Sequence[Piece]) -> np.ndarray:
        """The places in some pieces, in order."""
        shuffled = [self.shuffle(epoch, piece.begin, piece.end) for piece in pieces]
        return np.concatenate(shuffled) if shuffled else np.zeros(0, dtype=np.int64)

    def shuffle(self, epoch: int, begin: int, end: int) -> np.ndarray:
        """The places from `begin` to `end`, in the order of an epoch."""
        return begin + np.random.default_rng([self.seed, epoch, begin, end]).permutation(end - begin)

    def rank_places(self, epoch: int, rank: int) -> np.ndarray:
        """All places of a rank, batch after batch."""
        lanes = self.lanes(epoch)[rank * self.num_workers : (rank + 1) * self.num_workers]
        queues = [self.places(epoch, lane) for lane in lanes]
        own, size = np.empty(sum(map(len, queues)), dtype=np.int64), self.batch_size
        for batch in range(-(-len(own) // size)):
            row, lane = divmod(batch, self.num_workers)
            own[batch * size : (batch + 1) * size] = queues[lane][row * size : (row + 1) * size]
        return own


@lru_cache(maxsize=2)
def cut(plan: StreamPlan, epoch: int) -> list[list[Piece]]:
    """The lanes of a plan: the chunks one after the other in random order, divided anew every so many images."""
    ends = np.cumsum(plan.chunk_sizes)
    order = iter(np.random.default_rng([plan.seed, epoch]).permutation(len(ends)).tolist())
    lanes: list[list[Piece]] = []
    chunk, begin, end = 0, 0, 0
    for size in plan.lane_sizes().ravel().tolist():
        pieces: list[Piece] = []
        while size:
            if begin == end:
                chunk = next(order)
                begin, end = int(ends[chunk]) - plan.chunk_sizes[chunk], int(ends[chunk])
            taken = min(size, end - begin)
            pieces.append(Piece(chunk, begin, begin + taken))
            begin, size = begin + taken, size - taken
        lanes.append(pieces)
    return lanes


class StreamSampler(TrainSampler):
    """As `TrainSampler`, in the order of a `StreamPlan`: that depends on the numbers of ranks and workers.

    Args:
        plan: the order.
        places: (N,) where each image of the index is stored.
        rank: which part is ours.
        sizes: see `TrainSampler`.
        recent_batches: see `TrainSampler`.
    """

    min_partners = 1  # any image would be one of a chunk that is not there

    def __init__(
        self, plan: StreamPlan, places: np.ndarray, rank: int, sizes: Sequence[int] = (), recent_batches: int = 0
    ) -> None:
        super().__init__(
            plan.num_images, plan.seed, rank, plan.world_size, plan.batch_size, sizes, recent_batches, plan.num_workers
        )
        self.plan = plan
        self.images = np.argsort(places)

    def own_images(self) -> np.ndarray:
        own = self.images[self.plan.rank_places(self.epoch, self.rank)]
        return own if len(own) else self.images[:1]
