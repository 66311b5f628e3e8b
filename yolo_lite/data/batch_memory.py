"""The memory that batches travel in, from the loader's processes to the training process.

Fresh shared memory costs a page fault for every 4 KiB that is written, which can take longer than making the images
(benchmarks/README.md), so a few slots of it are used again and again. A slot's states:

    FREE -> SENT (its loader process wrote a batch into it) -> HELD (the training process has it) -> FREE

The last step is taken when the last tensor over the slot is gone, whoever keeps one for however long. A loader process
that finds no free slot takes fresh memory, so nothing ever waits. Notation: B images.
"""

from __future__ import annotations

import math
import os
import shutil
import uuid
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

FREE, SENT, HELD = 0, 1, 2
# Of each loader process: two that it may be ahead, one in use, one that the trainer has fetched ahead.
SLOTS_PER_WORKER = 4
# Module-level, since what is unpickled has no other way to find the memory that its slot is in.
_MEMORIES: weakref.WeakValueDictionary[str, BatchMemory] = weakref.WeakValueDictionary()


def shared_memory(size: int) -> Tensor:
    """(size,) uint8 that other processes see; its pages are handed out as they are first written to."""
    storage = torch.UntypedStorage._new_shared(size)  # as torch's own collate function does
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def shared_room() -> float:
    """Bytes that slots may take: half of what the shared-memory file system has, where it is one."""
    return shutil.disk_usage("/dev/shm").free / 2 if Path("/dev/shm").is_dir() else math.inf


def channels_last(images: np.ndarray | Tensor) -> Tensor:
    """(B, H, W, 3) as (B, 3, H, W), not moved: channels-last is what the convolutions like."""
    return torch.as_tensor(images).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Sent:
    """What a loader process puts in the place of a batch's images: it arrives as their tensor."""

    memory: str
    slot: int
    shape: tuple[int, ...]

    def __reduce__(self) -> tuple[object, ...]:
        return receive, (self.memory, self.slot, self.shape)


def receive(memory: str, slot: int, shape: tuple[int, ...]) -> Tensor:
    """(B, 3, H, W) uint8 of a slot that a loader process sent."""
    return _MEMORIES[memory].receive(slot, shape)


class BatchMemory:
    """Slots for the images of batches, of one loader.

    Args:
        num_workers: loader processes; each has slots of its own.
        slot_bytes: size of the largest batch.
    """

    def __init__(self, num_workers: int, slot_bytes: int) -> None:
        self.name = uuid.uuid4().hex
        self.slot_bytes = slot_bytes
        slots = num_workers * SLOTS_PER_WORKER
        if slots * slot_bytes > shared_room():
            slots = 0
        # Scoring makes the loader in inference mode; the thread that pins batches for a GPU is outside of it, where
        # tensors from inside are not to be written to.
        with torch.inference_mode(False):
            self.pixels = shared_memory(max(1, slots * slot_bytes))
            self.states = torch.full((slots,), FREE, dtype=torch.uint8).share_memory_()
        self._process: int | None = None
        _MEMORIES[self.name] = self

    def stack(self, images: Sequence[np.ndarray]) -> Tensor | Sent:
        """Images (H, W, 3) uint8 of one size as one (B, 3, H, W), or what will be that in the training process."""
        shape = (len(images), *images[0].shape)
        slot = self._take(math.prod(shape))
        if slot is not None:
            np.stack(images, out=self._view(slot, shape))
            return Sent(self.name, slot, shape)
        fresh = torch.empty(shape, dtype=torch.uint8)
        if get_worker_info() is not None:
            fresh = shared_memory(fresh.numel()).view(shape)  # where torch would otherwise copy the batch to
        np.stack(images, out=fresh.numpy())
        return channels_last(fresh)

    def receive(self, slot: int, shape: tuple[int, ...]) -> Tensor:
        """(B, 3, H, W) of a sent slot, which is held for as long as this tensor or a view of it lives."""
        self.states[slot] = HELD
        array = self._view(slot, shape)
        weakref.finalize(array, self.states.__setitem__, slot, FREE).atexit = False
        return channels_last(torch.from_numpy(array))

    def _view(self, slot: int, shape: tuple[int, ...]) -> np.ndarray:
        start = slot * self.slot_bytes
        return np.asarray(self.pixels[start : start + math.prod(shape)].numpy().reshape(shape))

    def _take(self, size: int) -> int | None:
        """A free slot of this loader process for so many bytes, now no longer free; None: there is none."""
        worker = get_worker_info()
        if worker is None or size > self.slot_bytes:
            return None
        own = range(worker.id * SLOTS_PER_WORKER, (worker.id + 1) * SLOTS_PER_WORKER)[: len(self.states)]
        if self._process != os.getpid():  # what an earlier process sent and nobody received is not on its way any more
            self._process = os.getpid()
            for slot in own:
                if self.states[slot] == SENT:
                    self.states[slot] = FREE
        free = next((slot for slot in own if self.states[slot] == FREE), None)
        if free is not None:
            self.states[free] = SENT
        return free

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_process": None}
