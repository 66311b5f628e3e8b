"""Batches that travel in memory that is used again: never overwritten while somebody has them, never lost."""

from __future__ import annotations

import gc
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from yolo_lite.data.batch_memory import FREE, SLOTS_PER_WORKER, BatchMemory
from yolo_lite.data.collate import collate
from yolo_lite.data.types import Batch, Letterbox, Sample

SIZE = 32


class Numbered(Dataset[Sample]):
    """Image i is full of i; `large`: too large for a slot."""

    def __init__(self, count: int, large: bool = False) -> None:
        self.count = count
        self.side = SIZE * (2 if large else 1)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Sample:
        image = np.full((self.side, self.side, 3), i, dtype=np.uint8)
        return Sample(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), i, (1, 1), Letterbox(1, 1, 0, 0))


def make_loader(dataset: Dataset[Sample], workers: int, start: str = "fork") -> tuple[DataLoader, BatchMemory]:
    memory = BatchMemory(workers, 2 * SIZE * SIZE * 3)
    loader: DataLoader = DataLoader(
        dataset,
        2,
        num_workers=workers,
        collate_fn=partial(collate, memory=memory),
        persistent_workers=workers > 0,
        multiprocessing_context=start if workers else None,
    )
    return loader, memory


def check(batches: list[Batch], side: int = SIZE) -> None:
    for k, batch in enumerate(batches):
        assert batch.images.shape == (2, 3, side, side)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        for j in (0, 1):
            assert (batch.images[j] == 2 * k + j).all()
            assert batch.image_ids[j] == 2 * k + j


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_kept_batches_stay_what_they_were(workers: int) -> None:
    """More of them than there are slots, all kept to the end."""
    loader, _ = make_loader(Numbered(60), workers)
    check(list(loader))


def test_slots_are_used_again_and_all_come_back() -> None:
    loader, memory = make_loader(Numbered(80), 2)
    places = set()
    for _ in range(2):
        for k, batch in enumerate(loader):
            places.add(batch.images.data_ptr())
            assert (batch.images[0] == 2 * k).all()
    assert len(places) <= 2 * SLOTS_PER_WORKER
    del batch
    gc.collect()
    assert (memory.states == FREE).all()


def test_a_view_holds_its_slot() -> None:
    loader, memory = make_loader(Numbered(80), 1)
    iterator = iter(loader)
    kept = next(iterator).images[1, :, 3]
    last = [batch.image_ids for batch in iterator][-1]
    assert last.tolist() == [78, 79]
    assert (kept == 1).all()
    assert (memory.states != FREE).sum() == 1


def test_an_epoch_that_is_broken_off_loses_no_slot() -> None:
    loader, memory = make_loader(Numbered(80), 2)
    for _ in range(3 * SLOTS_PER_WORKER):
        next(iter(loader))
    check(list(loader))
    gc.collect()
    assert (memory.states == FREE).all()


def test_new_workers_find_the_slots_of_dead_ones_free() -> None:
    loader, memory = make_loader(Numbered(80), 1)
    for _ in range(2 * SLOTS_PER_WORKER):
        next(iter(loader))
        loader._iterator = None  # as the trainer does where it starts loaders anew
        gc.collect()
    places = {batch.images.data_ptr() for batch in loader}
    start = memory.pixels.data_ptr()
    assert all(start <= place < start + len(memory.pixels) for place in places)


def test_a_batch_larger_than_a_slot_travels_all_the_same() -> None:
    loader, _ = make_loader(Numbered(20, large=True), 1)
    check(list(loader), 2 * SIZE)


def test_no_room_for_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yolo_lite.data.batch_memory.shared_room", lambda: 0)
    loader, memory = make_loader(Numbered(20), 1)
    assert len(memory.states) == 0
    check(list(loader))


def test_started_processes_get_the_same_memory() -> None:
    loader, memory = make_loader(Numbered(12), 1, "spawn")
    start = memory.pixels.data_ptr()
    batches = list(loader)
    check(batches)
    assert start <= batches[0].images.data_ptr() < start + len(memory.pixels)


def test_batches_arrive_outside_of_inference_mode() -> None:
    """Scoring makes the loader in inference mode, and a thread of its own, which pins batches for a GPU, receives."""
    with torch.inference_mode():
        memory = BatchMemory(1, 12)
    assert memory.receive(0, (1, 2, 2, 3)).shape == (1, 3, 2, 2)
    assert memory.states[0] == FREE  # given back when the tensor went
