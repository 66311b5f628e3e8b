"""Which images a process sees, and in which order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from yolo_lite.data.types import SampleKey


class TrainSampler(Sampler[SampleKey]):
    """A new permutation each epoch, split evenly over the ranks; yields the epoch along with the index.

    The epoch travels with every key, so that workers need no message to know which epoch a sample belongs to: the
    mosaic's end and the augmentation's seed follow from the key alone, with persistent workers as without.

    Args:
        num_images: size of the data set.
        seed: the same on every rank.
        rank: which part is ours.
        world_size: number of parts; the permutation is repeated from its start to make them equal.
    """

    def __init__(self, num_images: int, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        self.num_images = num_images
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation of the next iteration; Lightning calls this at each epoch's start."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.num_images // self.world_size)

    def __iter__(self) -> Iterator[SampleKey]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.num_images)
        order = np.resize(order, len(self) * self.world_size)[self.rank :: self.world_size]
        return iter([SampleKey(self.epoch, int(i)) for i in order])


class EvalSampler(Sampler[int]):
    """Every image exactly once over all ranks, never padded: ranks may differ by one image.

    A rank that would have none gets the first image, since Lightning refuses to run without: whoever gathers the
    results must drop what another rank has seen already, as `CocoMetric` does.
    """

    def __init__(self, num_images: int, rank: int = 0, world_size: int = 1) -> None:
        self.indices = range(rank, num_images, world_size) if rank < num_images else range(min(1, num_images))

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)
