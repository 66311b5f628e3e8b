"""Image files out of chunks, by litdata, which this module alone needs.

A place is the number of an image in the order in which it is stored.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from litdata.streaming import StreamingDataset
from litdata.streaming.shuffle import Shuffle
from litdata.utilities.env import _DistributedEnv

from yolo_lite.data.stream_plan import Piece, StoredImage, StreamPlan

# Another process may be fetching the chunk at this moment, which litdata neither waits for nor tells.
PATIENCE = 120.0


def as_image(item: dict[str, Any]) -> StoredImage:
    """Of what litdata hands out, a copy: the chunk may be closed before it is decoded."""
    return StoredImage(int(item["id"]), np.frombuffer(item["image"], dtype=np.uint8).copy())


class PlannedShuffle(Shuffle):
    """Hands litdata the order that a `StreamPlan` has decided on.

    Args:
        cache: litdata's.
        plan: the order.
        epoch: of the plan.
        lanes: for each worker of all ranks, what it reads.
    """

    def __init__(self, cache: Any, plan: StreamPlan, epoch: int, lanes: Sequence[Sequence[Piece]]) -> None:
        super().__init__(cache, plan.seed, drop_last=False)
        self.plan = plan
        self.epoch = epoch
        self.lanes = lanes

    def get_chunks_and_intervals_per_workers(self, *_: Any) -> tuple[list[list[int]], list[list[list[int]]]]:
        # An interval has four bounds: of the chunk, and between them of what is read of it.
        ends = np.cumsum(self.plan.chunk_sizes).tolist()
        starts = [0, *ends]
        chunks = [[piece.chunk for piece in lane] for lane in self.lanes]
        intervals = [[[starts[p.chunk], p.begin, p.end, ends[p.chunk]] for p in lane] for lane in self.lanes]
        return chunks, intervals

    def __call__(self, array: np.ndarray, num_chunks: int, current_epoch: int, chunk_index: int) -> list[int]:
        return [int(i) for i in self.plan.shuffle(self.epoch, int(array[0]), int(array[-1]) + 1)]


class ChunkStream(StreamingDataset):
    """litdata's data set, with places handed out as a `StreamPlan` wants them, or one by one.

    Args:
        location: folder or URL of the chunks.
        is_remote: it is a URL.
        cache_dir: for chunks that are fetched; None: litdata's own.
        plan: the order; None: only single places are asked for.
        rank: which part of the plan is ours.
        num_nodes: machines, each with its own cache.
    """

    def __init__(
        self,
        location: str,
        is_remote: bool,
        cache_dir: str | None = None,
        plan: StreamPlan | None = None,
        rank: int = 0,
        num_nodes: int = 1,
    ) -> None:
        super().__init__(location, cache_dir=cache_dir)
        self.is_remote = is_remote
        self.plan = plan
        if plan is not None:  # a spawned worker cannot find it out
            self.distributed_env = _DistributedEnv(plan.world_size, rank, num_nodes)
        self.ours: tuple[int, list[list[Piece]]] = (0, [])

    def _create_shuffler(self, cache: Any) -> Shuffle:
        if self.plan is None:
            return super()._create_shuffler(cache)
        return PlannedShuffle(cache, self.plan, *self.ours)

    def start(self, epoch: int, lanes: list[list[Piece]]) -> Iterator[StoredImage]:
        """This worker's share of an epoch; chunks are fetched ahead and evicted when they are done with."""
        self.ours = (epoch, lanes)
        items = iter(self)
        self.map_chunks()
        return map(as_image, items)

    def at(self, place: int) -> StoredImage:
        """What is at one place. Of a URL that allows it only its bytes are fetched, otherwise the chunk.

        Raises:
            OSError: it cannot be had.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                item = self[place]
                break
            except FileNotFoundError:
                if not self.is_remote or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        self.map_chunks()
        return as_image(item)

    def map_chunks(self) -> None:
        """Have chunks mapped into memory: litdata would read a whole one for each of its images where it fears that
        another process deletes it, which nobody does in a folder."""
        if not self.is_remote and self.cache is not None:
            self.cache._reader.enable_mmap_for_chunks(set(range(len(self.cache.get_chunk_intervals()))))
