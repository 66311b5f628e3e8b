"""Augmentation and letterbox.

Mosaic, scale and translation are one geometric map per source image, so each source is drawn once, straight into the
output, instead of into a canvas of twice the side that is then warped; everything else is albumentations.
Boxes are (N, 4) float32 xyxy in pixels; a pixel's centre lies at +0.5.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import cv2
import numpy as np

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for a newer version at import

import albumentations as A

from yolo_lite.data.types import Letterbox
from yolo_lite.utils.errors import UserError

FILL = 114
# An object that lost more than this share of its area, or that is smaller than this, is not worth a label.
MIN_VISIBLE_AREA = 0.1
MIN_SIDE = 2.0
MIXUP_BETA = 32.0
# Where an image's corner lies from the joint, in sides of that image: top left, top right, bottom left, bottom right.
MOSAIC_CORNERS = ((-1.0, -1.0), (0.0, -1.0), (-1.0, 0.0), (0.0, 0.0))
CENTRED = ((-0.5, -0.5),)

Drawn = tuple[np.ndarray, np.ndarray, np.ndarray]  # image, boxes_xyxy, labels


@dataclass(frozen=True)
class AugmentConfig:
    """Strength of the training augmentation.

    Attributes:
        mosaic: probability of combining four images.
        close_mosaic: no mosaic and no mixup in the last epochs, so many (at most a third of the run).
        mixup: probability of blending with a second sample.
        scale: zoom between `1 - scale` and `1 + scale`.
        translate: shift by at most this share of the image's side.
        hsv_hue: hue shift, as a share of the full circle.
        hsv_saturation: saturation factor between `1 - x` and `1 + x`.
        hsv_value: brightness factor between `1 - x` and `1 + x`.
        flip: probability of mirroring left and right.
    """

    mosaic: float = 1.0
    close_mosaic: int = 10
    mixup: float = 0.0
    scale: float = 0.5
    translate: float = 0.1
    hsv_hue: float = 0.015
    hsv_saturation: float = 0.7
    hsv_value: float = 0.4
    flip: float = 0.5

    def __post_init__(self) -> None:
        for name in ("mosaic", "mixup", "flip", "hsv_hue", "hsv_saturation", "hsv_value"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"data.augment.{name}={getattr(self, name)}: give a number from 0 to 1")
        if not 0 <= self.scale < 1 or not 0 <= self.translate < 1:
            raise UserError(f"data.augment: scale={self.scale}, translate={self.translate}: give numbers in [0, 1)")
        if self.close_mosaic < 0:
            raise UserError(f"data.augment.close_mosaic={self.close_mosaic}: give a number of epochs, or 0")

    def mosaic_epochs(self, max_epochs: int) -> int:
        """Epochs with mosaic in a run of `max_epochs`."""
        return max_epochs - min(self.close_mosaic, max_epochs // 3)


def check_albumentations() -> None:
    """Refuse the successor of albumentations, which is under the AGPL and installs a package of the same name.

    Raises:
        UserError: it is installed, or a version that was not published under the MIT licence.
    """
    try:
        successor = version("albumentationsx")
    except PackageNotFoundError:
        successor = None
    if successor is not None:
        raise UserError(
            f"albumentationsx {successor} is installed: it is under the AGPL; "
            "pip uninstall albumentationsx, then pip install 'albumentations>=2.0.8,<2.1'"
        )
    found = version("albumentations")
    if tuple(int(x) for x in found.split(".")[:2]) != (2, 0):
        raise UserError(f"albumentations {found} is installed: pip install 'albumentations>=2.0.8,<2.1'")


class RandomHSV(A.ImageOnlyTransform):
    """Multiply saturation and value, shift the hue, each by a factor drawn once per image.

    albumentations' HueSaturationValue adds instead of multiplying, which colours grey pixels.
    """

    def __init__(self, hue: float = 0.015, saturation: float = 0.7, value: float = 0.4, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.hue = hue
        self.saturation = saturation
        self.value = value

    def get_params(self) -> dict[str, Any]:
        limits = np.array([self.hue, self.saturation, self.value])
        return {"gains": self.random_generator.uniform(-1, 1, 3) * limits}

    def apply(self, img: np.ndarray, gains: np.ndarray, **params: Any) -> np.ndarray:
        levels = np.arange(256, dtype=np.float32)
        table = np.stack(
            [
                (levels + gains[0] * 180) % 180,
                np.clip(levels * (1 + gains[1]), 0, 255),
                np.clip(levels * (1 + gains[2]), 0, 255),
            ],
            axis=-1,
        ).astype(np.uint8)
        hsv = cv2.cvtColor(img, cv2.COLOR_RGB2HSV)
        return cv2.cvtColor(cv2.LUT(hsv, table[None]), cv2.COLOR_HSV2RGB)


class Augmenter:
    """Random view of one or several images. All randomness comes from the generator handed in.

    Args:
        config: strengths.
        image_size: side of the square output, pixels.
        load: index -> image (H, W, 3) uint8 with its longer side `image_size`, boxes, labels.
        num_images: partners of a mosaic are drawn from so many.
    """

    def __init__(self, config: AugmentConfig, image_size: int, load: Callable[[int], Drawn], num_images: int) -> None:
        self.config = config
        self.image_size = image_size
        self.load = load
        self.num_images = num_images
        self.pixelwise = A.Compose(
            [
                RandomHSV(config.hsv_hue, config.hsv_saturation, config.hsv_value),
                A.HorizontalFlip(p=config.flip),
            ],
            bbox_params=A.BboxParams(format="pascal_voc", label_fields=["labels"]),
        )

    def __call__(self, index: int, rng: np.random.Generator, use_mosaic: bool) -> Drawn:
        """An augmented view of image `index`."""
        drawn = self.compose(index, rng, use_mosaic)
        if use_mosaic and rng.random() < self.config.mixup:
            drawn = mix(drawn, self.compose(self.partner(rng), rng, use_mosaic), rng.beta(MIXUP_BETA, MIXUP_BETA))
        # Compose owns generators made at construction, which forked workers would all repeat: hand it ours.
        self.pixelwise.set_random_state(rng, random.Random(int(rng.integers(2**63))))
        image, boxes, labels = drawn
        result = self.pixelwise(image=image, bboxes=boxes, labels=labels)
        boxes = np.asarray(result["bboxes"], dtype=np.float32).reshape(-1, 4)
        return result["image"], boxes, np.asarray(result["labels"], dtype=np.int64)

    def partner(self, rng: np.random.Generator) -> int:
        return int(rng.integers(self.num_images))

    def compose(self, index: int, rng: np.random.Generator, use_mosaic: bool) -> Drawn:
        """Mosaic of four images or one image alone, zoomed and shifted."""
        size, config = self.image_size, self.config
        corners: tuple[tuple[float, float], ...]
        zoom = rng.uniform(1 - config.scale, 1 + config.scale)
        shift = rng.uniform(-config.translate, config.translate, 2) * size
        if use_mosaic and rng.random() < config.mosaic:
            indices = [index, *(self.partner(rng) for _ in range(3))]
            joint_x, joint_y = rng.uniform(-0.5 * size, 0.5 * size, 2)  # where the four meet, from the centre
            corners = MOSAIC_CORNERS
        else:
            indices, joint_x, joint_y = [index], 0.0, 0.0
            corners = CENTRED

        canvas = np.full((size, size, 3), FILL, dtype=np.uint8)
        all_boxes, all_labels = [], []
        for i, (corner_x, corner_y) in zip(indices, corners, strict=True):
            image, boxes, labels = self.load(i)
            height, width = image.shape[:2]
            left = (joint_x + corner_x * width) * zoom + size / 2 + shift[0]
            top = (joint_y + corner_y * height) * zoom + size / 2 + shift[1]
            if draw(canvas, image, zoom, left, top):
                moved = boxes * zoom + np.array([left, top, left, top])
                clipped, keep = clip_to_view(moved, size)
                all_boxes.append(clipped)
                all_labels.append(labels[keep])
        boxes = np.concatenate(all_boxes) if all_boxes else np.zeros((0, 4))
        labels = np.concatenate(all_labels) if all_labels else np.zeros(0, dtype=np.int64)
        return canvas, boxes.astype(np.float32), labels


def draw(canvas: np.ndarray, image: np.ndarray, zoom: float, left: float, top: float) -> bool:
    """Draw `image`, scaled by `zoom`, with its corner at (left, top) of `canvas`; says whether anything was visible."""
    height, width = image.shape[:2]
    x1, x2 = max(0, round(left)), min(canvas.shape[1], round(left + width * zoom))
    y1, y2 = max(0, round(top)), min(canvas.shape[0], round(top + height * zoom))
    if x2 <= x1 or y2 <= y1:
        return False
    # Pixel centres: output u + 0.5 = (source x + 0.5) * zoom + left - x1.
    matrix = np.array(
        [[zoom, 0, left - x1 + 0.5 * (zoom - 1)], [0, zoom, top - y1 + 0.5 * (zoom - 1)]], dtype=np.float64
    )
    canvas[y1:y2, x1:x2] = cv2.warpAffine(
        image, matrix, (x2 - x1, y2 - y1), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return True


def clip_to_view(boxes_xyxy: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes clipped to the square view, and which (N,) were worth keeping; the first holds the kept ones only."""
    clipped = np.clip(boxes_xyxy, 0, size)
    sides = clipped[:, 2:] - clipped[:, :2]
    before = np.prod(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], axis=1)
    keep = (sides >= MIN_SIDE).all(axis=1) & (sides.prod(axis=1) >= MIN_VISIBLE_AREA * before)
    return clipped[keep], keep


def mix(a: Drawn, b: Drawn, share: float) -> Drawn:
    """Blend two views (mixup, arXiv:1710.09412); the objects of both count."""
    image = cv2.addWeighted(a[0], share, b[0], 1 - share, 0)
    return image, np.concatenate([a[1], b[1]]), np.concatenate([a[2], b[2]])


def letterbox(image: np.ndarray, size: int, original_size: tuple[int, int]) -> tuple[np.ndarray, Letterbox]:
    """Centre an image whose longer side is `size` on a grey square of that side."""
    height, width = image.shape[:2]
    top, left = math.floor((size - height) / 2), math.floor((size - width) / 2)
    canvas = np.full((size, size, 3), FILL, dtype=np.uint8)
    canvas[top : top + height, left : left + width] = image
    return canvas, Letterbox(width / original_size[1], height / original_size[0], left, top)
