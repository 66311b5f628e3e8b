"""From samples to a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from yolo_lite.data.batch_memory import BatchMemory, channels_last
from yolo_lite.data.types import Batch, Sample, Targets


def pad_targets(image_index: Tensor, labels: Tensor, boxes_xyxy: Tensor, batch_size: int) -> Targets:
    """A flat list of N objects to targets padded to the most crowded image.

    Args:
        image_index: (N,) position of each object's image in the batch.
        labels: (N,) class indices.
        boxes_xyxy: (N, 4) in input pixels.
        batch_size: number of images, those without objects included.
    """
    counts = torch.bincount(image_index, minlength=batch_size)
    width = int(counts.max()) if batch_size else 0
    order = torch.argsort(image_index, stable=True)
    image_index = image_index[order]
    slot = torch.arange(len(order)) - (counts.cumsum(0) - counts)[image_index]
    targets = Targets(
        labels=torch.zeros(batch_size, width, dtype=torch.long),
        boxes_xyxy=torch.zeros(batch_size, width, 4),
        mask=torch.zeros(batch_size, width, dtype=torch.bool),
    )
    targets.labels[image_index, slot] = labels[order]
    targets.boxes_xyxy[image_index, slot] = boxes_xyxy[order]
    targets.mask[image_index, slot] = True
    return targets


def collate(samples: Sequence[Sample], memory: BatchMemory | None = None) -> Batch:
    """Stack samples of one size; in a loader process with its memory, which makes the batch one to be sent only."""
    counts = torch.tensor([len(s.labels) for s in samples])
    image_index = torch.arange(len(samples)).repeat_interleave(counts)
    labels = torch.from_numpy(np.concatenate([s.labels for s in samples]))
    boxes = torch.from_numpy(np.concatenate([s.boxes_xyxy for s in samples]))
    images = [s.image for s in samples]
    stacked = channels_last(np.stack(images)) if memory is None else memory.stack(images)
    return Batch(
        images=cast(Tensor, stacked),
        targets=pad_targets(image_index, labels, boxes, len(samples)),
        image_ids=torch.tensor([s.image_id for s in samples]),
        original_sizes=torch.tensor([s.original_size for s in samples]),
        letterboxes=torch.tensor([s.letterbox for s in samples], dtype=torch.float32),
    )
