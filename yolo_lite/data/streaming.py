"""The image files of a streamed data set: in the order of a plan for training, one by one for everything else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import get_worker_info

from yolo_lite.data.images import ImageFiles
from yolo_lite.data.index import DetectionIndex
from yolo_lite.data.layouts import Split
from yolo_lite.data.stream_plan import StoredImage, StreamPlan
from yolo_lite.data.stream_store import Stream
from yolo_lite.utils.errors import UserError

if TYPE_CHECKING:
    from yolo_lite.data.chunk_reader import ChunkStream

# A batch reads so far ahead for its mosaics; more would be a mistake in the plan, and is read by itself.
BATCHES_AHEAD = 2


class Lane:
    """Files in a known order, read forward; what is passed over on the way is kept until it is asked for.

    Args:
        places: (n,) in order.
        files: what is at each of them.
        reach: how far ahead a file may be.
    """

    def __init__(self, places: np.ndarray, files: Iterator[StoredImage], reach: int) -> None:
        self._order = np.argsort(places)
        self._sorted = places[self._order]
        self._files = files
        self._next = 0
        self._reach = reach
        self._passed: dict[int, StoredImage] = {}

    def advance(self, place: int) -> None:
        """Image after image, this one is the next; what comes before it will not be asked for any more."""
        position = self.position(place)
        if position is None:
            return
        while self._next < position:
            next(self._files)
            self._next += 1
        self._passed = {k: image for k, image in self._passed.items() if k >= position}

    def take(self, place: int) -> StoredImage | None:
        """What is at a place, or None: it is of another lane, is not held any more, or is too far ahead."""
        position = self.position(place)
        if position is None or position >= self._next + self._reach:
            return None
        while self._next <= position:
            self._passed[self._next] = next(self._files)
            self._next += 1
        return self._passed.pop(position, None)

    def position(self, place: int) -> int | None:
        """Where a place is in the lane."""
        k = int(np.searchsorted(self._sorted, place))
        return int(self._order[k]) if k < len(self._sorted) and self._sorted[k] == place else None


class StreamedFiles(ImageFiles):
    """Image files of a split that is streamed.

    A worker reads its lane of the plan forward. Few files lie elsewhere: those that mosaics of the first batches after
    a resume want from batches before it, and an image that evens out the ranks. They are read one by one, as are all
    without a plan. Every process opens what it needs when it needs it.

    Args:
        stream: the data set.
        split: which part.
        index: its annotations.
        plan: the order of training; None: any order, one by one.
        rank: which part of the plan is ours.
        num_nodes: machines that train together.
    """

    can_be_cached = False

    def __init__(
        self,
        stream: Stream,
        split: Split,
        index: DetectionIndex,
        plan: StreamPlan | None = None,
        rank: int = 0,
        num_nodes: int = 1,
    ) -> None:
        # Before workers are forked, for all of them: it takes two seconds, and a lock that another thread holds at that
        # moment, as imports take, would be held in the worker for ever.
        import yolo_lite.data.chunk_reader  # noqa: F401

        self.stream = stream
        self.split: Split = split
        self.index = index
        self.places = stream.places(split)
        self.plan = plan
        self.rank = rank
        self.num_nodes = num_nodes
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._epoch: int | None = None
        self._lane: Lane | None = None
        self._single: ChunkStream | None = None

    def __getstate__(self) -> dict[str, Any]:
        hidden = ("_lane", "_single", "places")
        return {name: value for name, value in self.__dict__.items() if name not in hidden}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.places = self.stream.places(self.split)
        self._forget()

    def name(self, i: int) -> str:
        return f"{self.index.file_names[i]} in {self.stream.chunks(self.split)}"

    def start(self, epoch: int, i: int) -> None:
        if self._process != os.getpid():
            self._forget()
        if self.plan is None:
            return
        place = int(self.places[i])
        with self._explained(i):
            if epoch != self._epoch:
                self._epoch, self._lane = epoch, self._find_lane(self.plan, epoch, place)
            if self._lane is not None:
                self._lane.advance(place)

    def _find_lane(self, plan: StreamPlan, epoch: int, place: int) -> Lane | None:
        """The lane that this worker serves in an epoch, told by the first image that it is asked for."""
        worker = get_worker_info()
        workers, first = plan.num_workers, self.rank * plan.num_workers
        if (worker.num_workers if worker else 1) != workers:
            return None
        lanes = plan.lanes(epoch)
        for number, lane in enumerate(lanes[first : first + workers]):
            for done, piece in enumerate(lane):
                if piece.begin <= place < piece.end:
                    # A resumed run begins with the lane whose turn it is: its workers serve other lanes than before.
                    shift = number - (worker.id if worker else 0)
                    served = [
                        lanes[begin + (k + shift) % workers]
                        for begin in range(0, len(lanes), workers)
                        for k in range(workers)
                    ]
                    served[first + number - shift] = rest = lane[done:]
                    places, files = plan.places(epoch, rest), self._open_chunks(plan).start(epoch, served)
                    return Lane(places, files, BATCHES_AHEAD * plan.batch_size)
        return None

    def _one_by_one(self) -> ChunkStream:
        if self._process != os.getpid():
            self._forget()
        if self._single is None:
            self._single = self._open_chunks()
        return self._single

    def _open_chunks(self, plan: StreamPlan | None = None) -> ChunkStream:
        from yolo_lite.data.chunk_reader import ChunkStream

        cache = str(self.stream.cache_dir) if self.stream.cache_dir else None
        chunks = self.stream.chunks(self.split)
        return ChunkStream(chunks, self.stream.is_remote, cache, plan, self.rank, self.num_nodes)

    def read(self, i: int) -> np.ndarray:
        place = int(self.places[i])
        with self._explained(i):
            found = self._lane.take(place) if self._lane is not None and self._process == os.getpid() else None
            found = found or self._one_by_one().at(place)
        if found.image_id != self.index.image_ids[i]:
            raise UserError(
                f"{self.stream.location} is of two conversions: not the image {self.name(i)}; convert again"
            )
        return found.data

    @contextmanager
    def _explained(self, i: int) -> Iterator[None]:
        """Raises:
        UserError: whatever went wrong; each store's library raises what it likes.
        """
        try:
            yield
        except Exception as error:
            raise UserError(f"cannot read image {self.name(i)}: {error or type(error).__name__}") from None
