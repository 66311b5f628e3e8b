"""What travels from the data to the loss and to the scoring.

Notation: B images, G padded ground truths, N objects of one image. Boxes are xyxy in input pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class SampleKey(NamedTuple):
    """What a sampler asks a training data set for. With the seed it decides the sample, whoever makes it, and when.

    Attributes:
        epoch: number of the epoch.
        image: position in the index.
        size: side of the output in pixels; None: as the data set is made for.
        partners: images that it may be combined with; empty: any.
    """

    epoch: int
    image: int
    size: int | None = None
    partners: tuple[int, ...] = ()


class Letterbox(NamedTuple):
    """How an image was placed: `input = original * (scale_x, scale_y) + (pad_x, pad_y)`, in pixels."""

    scale_x: float
    scale_y: float
    pad_x: float
    pad_y: float


@dataclass
class Sample:
    """One image, ready for the network.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        boxes_xyxy: (N, 4) float32 in pixels of `image`.
        labels: (N,) int64 class indices.
        image_id: the id in the annotation file.
        original_size: (height, width) of the file's image.
        letterbox: how the original was placed; meaningless for mosaics.
    """

    image: np.ndarray
    boxes_xyxy: np.ndarray
    labels: np.ndarray
    image_id: int
    original_size: tuple[int, int]
    letterbox: Letterbox


@dataclass
class Targets:
    """Ground truth of a batch, padded to the most crowded image of it.

    Attributes:
        labels: (B, G) int64 class indices, 0 where padded.
        boxes_xyxy: (B, G, 4) float32 in input pixels, 0 where padded.
        mask: (B, G) bool, False where padded.
    """

    labels: Tensor
    boxes_xyxy: Tensor
    mask: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Targets:
        """The same on another device."""
        return Targets(*(x.to(device, non_blocking=non_blocking) for x in (self.labels, self.boxes_xyxy, self.mask)))

    def pin_memory(self) -> Targets:
        """The same in page-locked memory."""
        return Targets(self.labels.pin_memory(), self.boxes_xyxy.pin_memory(), self.mask.pin_memory())


@dataclass
class Batch:
    """Images with their ground truth and their identity.

    Attributes:
        images: (B, 3, H, W) uint8 RGB in channels-last memory; normalised on the device.
        targets: padded ground truth.
        image_ids: (B,) int64 ids in the annotation file (stays on the CPU).
        original_sizes: (B, 2) int64 height, width of the files' images (stays on the CPU).
        letterboxes: (B, 4) float32 rows of `Letterbox` (stays on the CPU).
    """

    images: Tensor
    targets: Targets
    image_ids: Tensor
    original_sizes: Tensor
    letterboxes: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Images and targets on another device."""
        images = self.images.to(device, non_blocking=non_blocking)
        targets = self.targets.to(device, non_blocking)
        return Batch(images, targets, self.image_ids, self.original_sizes, self.letterboxes)

    def pin_memory(self) -> Batch:
        """Images and targets in page-locked memory."""
        images, targets = self.images.pin_memory(), self.targets.pin_memory()
        return Batch(images, targets, self.image_ids, self.original_sizes, self.letterboxes)
