"""From samples to a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

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


def empty_batch(shape: tuple[int, ...]) -> Tensor:
    """Room for uint8 images; in a loader process in the memory that it shares with the training process, where torch
    would otherwise copy the batch to."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(math.prod(shape))  # as torch's own collate function does
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples of one size."""
    # Stacked as they are decoded (H, W, 3); the permuted view is channels-last, which is what the convolutions like.
    images = empty_batch((len(samples), *samples[0].image.shape))
    np.stack([s.image for s in samples], out=images.numpy())
    counts = torch.tensor([len(s.labels) for s in samples])
    image_index = torch.arange(len(samples)).repeat_interleave(counts)
    labels = torch.from_numpy(np.concatenate([s.labels for s in samples]))
    boxes = torch.from_numpy(np.concatenate([s.boxes_xyxy for s in samples]))
    return Batch(
        images=images.permute(0, 3, 1, 2),
        targets=pad_targets(image_index, labels, boxes, len(samples)),
        image_ids=torch.tensor([s.image_id for s in samples]),
        original_sizes=torch.tensor([s.original_size for s in samples]),
        letterboxes=torch.tensor([s.letterbox for s in samples], dtype=torch.float32),
    )
