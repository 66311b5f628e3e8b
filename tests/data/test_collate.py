"""From samples to a batch: padding, identity, and images without objects."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo_lite.data.collate import collate, pad_targets
from yolo_lite.data.types import Letterbox, Sample


def make_sample(count: int, image_id: int = 1, size: int = 32) -> Sample:
    rng = np.random.default_rng(image_id)
    return Sample(
        image=rng.integers(0, 256, (size, size, 3)).astype(np.uint8),
        boxes_xyxy=rng.uniform(0, size, (count, 4)).astype(np.float32),
        labels=rng.integers(0, 5, count),
        image_id=image_id,
        original_size=(image_id * 10, image_id * 20),
        letterbox=Letterbox(0.5, 0.25, image_id, 0),
    )


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_every_object_arrives_in_its_image(counts: list[int]) -> None:
    samples = [make_sample(count, image_id=i + 1) for i, count in enumerate(counts)]
    batch = collate(samples)
    targets = batch.targets
    width = max(counts)
    assert len(batch) == len(counts)
    assert targets.labels.shape == targets.mask.shape == (len(counts), width)
    assert targets.boxes_xyxy.shape == (len(counts), width, 4)
    assert (targets.labels.dtype, targets.boxes_xyxy.dtype) == (torch.int64, torch.float32)
    assert targets.mask.dtype == torch.bool
    for i, sample in enumerate(samples):
        assert targets.mask[i].tolist() == [True] * counts[i] + [False] * (width - counts[i])
        assert np.array_equal(targets.labels[i][targets.mask[i]], sample.labels)
        assert np.array_equal(targets.boxes_xyxy[i][targets.mask[i]], sample.boxes_xyxy)
        assert not targets.boxes_xyxy[i][~targets.mask[i]].any()
        assert np.array_equal(batch.images[i].permute(1, 2, 0), sample.image)
        assert batch.original_sizes[i].tolist() == list(sample.original_size)
        assert Letterbox(*batch.letterboxes[i].tolist()) == sample.letterbox
    assert batch.image_ids.tolist() == [s.image_id for s in samples]


def test_batch_without_any_object() -> None:
    batch = collate([make_sample(0), make_sample(0, 2)])
    assert batch.images.dtype == torch.uint8
    assert batch.targets.mask.shape == (2, 0)
    assert batch.targets.boxes_xyxy.shape == (2, 0, 4)


def test_images_are_channels_last() -> None:
    images = collate([make_sample(1), make_sample(2)]).images
    assert images.shape == (2, 3, 32, 32)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_image_ids_keep_64_bits() -> None:
    sample = make_sample(1)
    sample.image_id = 2**53 + 1
    assert collate([sample]).image_ids.tolist() == [2**53 + 1]


def test_padding_of_an_unordered_list_keeps_the_order_in_each_image() -> None:
    targets = pad_targets(
        torch.tensor([2, 0, 2, 2]), torch.tensor([5, 6, 7, 8]), torch.arange(16.0).view(4, 4), batch_size=4
    )
    assert targets.labels.tolist() == [[6, 0, 0], [0, 0, 0], [5, 7, 8], [0, 0, 0]]
    assert targets.mask.sum(dim=1).tolist() == [1, 0, 3, 0]
    assert targets.boxes_xyxy[2, 1].tolist() == [8, 9, 10, 11]


def test_moving_a_batch_keeps_identity_on_the_cpu() -> None:
    batch = collate([make_sample(1), make_sample(2)])
    moved = batch.to("meta")
    assert moved.images.device.type == moved.targets.mask.device.type == "meta"
    assert moved.image_ids.device.type == moved.letterboxes.device.type == "cpu"
    assert batch.images.device.type == "cpu"
