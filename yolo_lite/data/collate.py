"""From samples to a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from yolo_lite.losses.detection import Targets


def pad_targets(image_index: Tensor, labels: Tensor, boxes_xyxy: Tensor, batch_size: int) -> Targets:
    """A flat list of N objects to targets padded to the most crowded image.

    Args:
        image_index: (N,) position of each object's image in the batch.
        labels: (N,) class indices.
        boxes_xyxy: (N, 4) in input pixels.
        batch_size: number of images, those without objects included.
    """
    counts = torch.bincount(image_index, minlength=batch_size)
    width = int(counts.max()) if len(counts) else 0
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
