"""Which images a process sees, and in which order."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from yolo_lite.data.types import SampleKey


class TrainSampler(Sampler[SampleKey]):
    """A new permutation each epoch, split over the ranks; yields the epoch along with the index.

    The epoch travels with every key, so that workers need no message to know which epoch a sample belongs to: the
    mosaic's end and the augmentation's seed follow from the key alone, with persistent workers as without.

    The n-th batches of all ranks together are the n-th slice of the permutation, so that 1 x 32, 2 x 16 and 4 x 8
    images train the same. No image is repeated, but for one case: a rank that would have a batch less than the others,
    who would wait for it forever, repeats one image.

    Args:
        num_images: size of the data set.
        seed: the same on every rank.
        rank: which part is ours.
        world_size: number of parts.
        batch_size: images per rank and step.
        sizes: sides of the output, pixels; each batch gets one of them, the same on every rank. Empty: not changed.
        recent_batches: an image is combined with images of its own batch and of so many earlier ones of the same
            worker, which that worker still holds decoded. 0: with any.
        num_workers: batches go to them in turn.
    """

    min_partners = 4  # as many as a mosaic has images; with fewer, any image is one

    def __init__(
        self,
        num_images: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        batch_size: int = 1,
        sizes: Sequence[int] = (),
        recent_batches: int = 0,
        num_workers: int = 0,
    ) -> None:
        self.num_images = num_images
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.batch_size = batch_size
        self.sizes = sizes
        self.recent_batches = recent_batches
        self.num_workers = max(1, num_workers)
        self.epoch = 0
        self.batches_done = 0

    @property
    def num_batches(self) -> int:
        """Batches of an epoch, the same on every rank."""
        return math.ceil(math.ceil(self.num_images / self.world_size) / self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation of the next iteration; Lightning calls this at each epoch's start."""
        self.epoch = epoch

    def skip(self, batches: int) -> None:
        """Start the next iteration, and only that, after so many batches: they were trained on before a stop."""
        self.batches_done = batches

    def __len__(self) -> int:
        own = len(range(self.rank, self.num_images, self.world_size))
        return max(own, (self.num_batches - 1) * self.batch_size + 1)

    def own_images(self) -> np.ndarray:
        """The images of this rank in this epoch, in order; one at least."""
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.num_images)
        return np.resize(order, max(self.num_images, self.rank + 1))[self.rank :: self.world_size]

    def __iter__(self) -> Iterator[SampleKey]:
        own = np.resize(self.own_images(), len(self))
        start, self.batches_done = self.batches_done, 0
        for batch in range(start, self.num_batches):
            size, partners = self._size(batch), self._partners(own, batch)
            for i in self._images(own, batch):
                yield SampleKey(self.epoch, int(i), size, partners)

    def _images(self, own: np.ndarray, batch: int) -> np.ndarray:
        return own[batch * self.batch_size : (batch + 1) * self.batch_size]

    def _size(self, batch: int) -> int | None:
        if not self.sizes:
            return None
        return int(np.random.default_rng([self.seed, self.epoch, batch]).choice(self.sizes))

    def _partners(self, own: np.ndarray, batch: int) -> tuple[int, ...]:
        if not self.recent_batches:
            return ()
        recent = range(batch, max(-1, batch - (self.recent_batches + 1) * self.num_workers), -self.num_workers)
        partners = tuple(np.concatenate([self._images(own, b) for b in recent]).tolist())
        # A mosaic of one image, four times, teaches nothing: the first small batches decode a few more.
        return partners if len(set(partners)) >= self.min_partners else ()


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


class ShapeBatches(Sampler[list[int]]):
    """Batches of images that are padded to one shape, of those that another sampler gives.

    An image's shape is its own whatever the batch, so that it is scored the same on any number of processes.

    Args:
        sampler: which images.
        shapes: (N, 2) padded height, width of all images.
        batch_size: at most so many at once.
    """

    def __init__(self, sampler: EvalSampler, shapes: np.ndarray, batch_size: int) -> None:
        groups: dict[tuple[int, int], list[int]] = {}
        for i in sampler:
            groups.setdefault((int(shapes[i][0]), int(shapes[i][1])), []).append(i)
        self.batches = [
            group[k : k + batch_size] for group in groups.values() for k in range(0, len(group), batch_size)
        ]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)
