"""Training augmentation: what can be set, and a random view of one or several images.

Mosaic, zoom, shift, rotation, shear and perspective are one map per source image, see geometry.py; what changes pixels
in place is albumentations, except colour jitter and mirroring, which are several times faster by themselves
(benchmarks/README.md).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from yolo_lite.data.geometry import Drawn, Tile, View, flip
from yolo_lite.data.mixing import copy_paste, cutmix, mixup, mosaic4, mosaic9
from yolo_lite.data.transforms import jitter_colours, moves_boxes, pixel_pipeline
from yolo_lite.utils.errors import UserError

PROBABILITIES = (
    *("mosaic", "mosaic9", "mixup", "cutmix", "copy_paste", "affine", "hsv", "flip", "flip_vertical"),
    *("grey", "blur", "jpeg"),
)
SHARES = ("hsv_hue", "hsv_saturation", "hsv_value")


@dataclass(frozen=True)
class AugmentConfig:
    """Strength of the training augmentation.

    Attributes:
        mosaic: probability of combining several images.
        mosaic9: probability that a mosaic has nine images instead of four.
        close_mosaic: no mosaic, mixup, cutmix and copy_paste in the last epochs, so many (at most a third of the run).
        mixup: probability of blending with a second sample.
        cutmix: probability of a rectangle of a second sample.
        copy_paste: probability of objects of another image, pasted as rectangles.
        scale: zoom between `1 - scale` and `1 + scale`.
        translate: shift by at most this share of the image's side.
        affine: probability of rotation, shear and perspective, where those are above 0.
        rotate: at most so many degrees.
        shear: at most so many degrees, along both axes.
        perspective: at most so much nearer or farther at the edges than in the middle, as a share.
        hsv: probability of colour jitter.
        hsv_hue: hue shift, as a share of the full circle.
        hsv_saturation: saturation factor between `1 - x` and `1 + x`.
        hsv_value: brightness factor between `1 - x` and `1 + x`.
        flip: probability of mirroring left and right.
        flip_vertical: probability of mirroring top and bottom.
        grey: probability of losing all colour.
        blur: probability of blur.
        blur_limit: largest width of the blur, pixels.
        jpeg: probability of JPEG artefacts.
        jpeg_quality: lowest quality, 1 to 100.
        extra: more albumentations transforms, in order: `[{GaussNoise: {p: 0.1}}, {RandomGamma: {p: 0.2}}]`; or one of
            several: `[{OneOf: {p: 0.5, transforms: [{MotionBlur: {}}, {GaussNoise: {}}]}}]`.
    """

    mosaic: float = 1.0
    mosaic9: float = 0.0
    close_mosaic: int = 10
    mixup: float = 0.0
    cutmix: float = 0.0
    copy_paste: float = 0.0
    scale: float = 0.5
    translate: float = 0.1
    affine: float = 1.0
    rotate: float = 0.0
    shear: float = 0.0
    perspective: float = 0.0
    hsv: float = 1.0
    hsv_hue: float = 0.015
    hsv_saturation: float = 0.7
    hsv_value: float = 0.4
    flip: float = 0.5
    flip_vertical: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    blur_limit: int = 7
    jpeg: float = 0.0
    jpeg_quality: int = 40
    extra: list[dict[str, dict[str, Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in (*PROBABILITIES, *SHARES):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"data.augment.{name}={getattr(self, name)}: give a number from 0 to 1")
        for name in ("scale", "translate", "perspective"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"data.augment.{name}={getattr(self, name)}: give a number in [0, 1)")
        if not 0 <= self.rotate <= 180 or not 0 <= self.shear < 80:
            raise UserError(f"data.augment: rotate={self.rotate}, shear={self.shear}: give degrees, below 181 and 80")
        if self.close_mosaic < 0:
            raise UserError(f"data.augment.close_mosaic={self.close_mosaic}: give a number of epochs, or 0")
        if self.blur_limit < 3 or not 1 <= self.jpeg_quality <= 100:
            raise UserError(
                f"data.augment: blur_limit={self.blur_limit}, jpeg_quality={self.jpeg_quality}: give at least 3, and 1 "
                "to 100"
            )
        pixel_pipeline(self)  # an unknown transform or argument is refused here

    def mosaic_epochs(self, max_epochs: int) -> int:
        """Epochs with mosaic in a run of `max_epochs`."""
        return max_epochs - min(self.close_mosaic, max_epochs // 3)


class Augmenter:
    """Random view of one or several images. All randomness comes from the generator handed in.

    Args:
        config: strengths.
        image_size: the longer side of what `load` returns, pixels.
        load: index -> image (H, W, 3) uint8, boxes, labels.
        num_images: partners of a mosaic are drawn from so many.
    """

    def __init__(self, config: AugmentConfig, image_size: int, load: Callable[[int], Drawn], num_images: int) -> None:
        self.config = config
        self.image_size = image_size
        self.load = load
        self.num_images = num_images
        self.pixelwise = pixel_pipeline(config)

    def __call__(
        self,
        index: int,
        rng: np.random.Generator,
        use_mosaic: bool,
        size: int | None = None,
        partners: Sequence[int] | None = None,
    ) -> Drawn:
        """An augmented view of image `index`.

        Args:
            index: which.
            rng: decides everything else.
            use_mosaic: combine images at all.
            size: side of the square output, pixels; None: `image_size`.
            partners: images to combine it with; None: any.
        """
        config, size = self.config, size or self.image_size
        pick = Picker(rng, partners if partners else range(self.num_images))
        drawn = self.compose(index, rng, use_mosaic, size, pick)
        if use_mosaic and rng.random() < config.copy_paste:
            drawn = copy_paste(drawn, View(size, size / self.image_size).draw([centred(self.load(pick()))]), rng)
        if use_mosaic and rng.random() < config.cutmix:
            drawn = cutmix(drawn, self.compose(pick(), rng, use_mosaic, size, pick), rng)
        if use_mosaic and rng.random() < config.mixup:
            drawn = mixup(drawn, self.compose(pick(), rng, use_mosaic, size, pick), rng)
        image, boxes, labels = drawn
        strengths = [getattr(config, name) for name in SHARES]
        if any(strengths) and rng.random() < config.hsv:
            image = jitter_colours(image, rng.uniform(-1, 1, 3) * strengths)
        drawn = Drawn(image, boxes, labels)
        if rng.random() < config.flip:
            drawn = flip(drawn, horizontally=True)
        if rng.random() < config.flip_vertical:
            drawn = flip(drawn, horizontally=False)
        return self.transform(drawn, rng)

    def transform(self, drawn: Drawn, rng: np.random.Generator) -> Drawn:
        """What albumentations does to it."""
        if self.pixelwise is None:
            return drawn
        # Compose owns generators made at construction, which forked workers would all repeat: hand it ours.
        self.pixelwise.set_random_state(rng, random.Random(int(rng.integers(2**63))))
        if not moves_boxes(self.pixelwise.transforms):
            return drawn._replace(image=self.pixelwise(image=drawn.image)["image"])
        result = self.pixelwise(image=drawn.image, bboxes=drawn.boxes, labels=drawn.labels)
        boxes = np.asarray(result["bboxes"], dtype=np.float32).reshape(-1, 4)
        return Drawn(result["image"], boxes, np.asarray(result["labels"], dtype=np.int64))

    def compose(self, index: int, rng: np.random.Generator, use_mosaic: bool, size: int, pick: Picker) -> Drawn:
        """Mosaic or one image alone, through a random view."""
        config, side = self.config, self.image_size
        view = self.random_view(rng, size)
        if not use_mosaic or rng.random() >= config.mosaic:
            return view.draw([centred(self.load(index))])
        joint = (rng.uniform(-0.5 * side, 0.5 * side), rng.uniform(-0.5 * side, 0.5 * side))
        if rng.random() < config.mosaic9:
            return view.draw(mosaic9([self.load(index), *(self.load(pick()) for _ in range(8))], joint))
        return view.draw(mosaic4([self.load(index), *(self.load(pick()) for _ in range(3))], joint))

    def random_view(self, rng: np.random.Generator, size: int) -> View:
        """Zoom and shift, and sometimes the rest."""
        config = self.config
        zoom = rng.uniform(1 - config.scale, 1 + config.scale) * size / self.image_size
        shift = tuple((rng.uniform(-config.translate, config.translate, 2) * size).tolist())
        if not (config.rotate or config.shear or config.perspective) or rng.random() >= config.affine:
            return View(size, zoom, shift)
        turn, *shear = (rng.uniform(-1, 1, 3) * [config.rotate, config.shear, config.shear]).tolist()
        perspective = (rng.uniform(-config.perspective, config.perspective, 2)).tolist()
        return View(size, zoom, shift, turn, tuple(shear), tuple(perspective))


class Picker:
    """Draws images to combine with, with replacement."""

    def __init__(self, rng: np.random.Generator, images: Sequence[int]) -> None:
        self.rng = rng
        self.images = images

    def __call__(self) -> int:
        return self.images[int(self.rng.integers(len(self.images)))]


def centred(source: Drawn) -> Tile:
    """Its middle in the origin of the plane."""
    height, width = source.image.shape[:2]
    return Tile(source, -width / 2, -height / 2)
