"""Changes of one image: colours, losses of quality.

Boxes are (N, 4) float32 xyxy in pixels; a pixel's centre lies at +0.5.
"""

from __future__ import annotations

import difflib
import math
import os
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, TypeAlias

import cv2
import numpy as np

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for a newer version at import

import albumentations as A

from yolo_lite.data.geometry import MIN_SIDE, MIN_VISIBLE_AREA
from yolo_lite.utils.errors import UserError

if TYPE_CHECKING:
    from yolo_lite.data.augment import AugmentConfig

# Rows that colours are jittered in at once: what lies between the steps stays in the processor's cache.
STRIP = 128
# Up to so much of the circle, turning the hue around the axis of greys is HSV's turn to 0.03 of the full scale.
SMALL_TURN = 0.015
# Of albumentations, transforms around others. Compose is what they all are put into.
COMPOSITIONS = ("OneOf", "SomeOf", "RandomOrder", "Sequential")
PROBE_SIDE = 331  # pixels: no usual side, so that a transform to a size of its own shows

Transform: TypeAlias = A.BasicTransform | A.BaseCompose


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


def pixel_pipeline(config: AugmentConfig) -> A.Compose | None:
    """What albumentations adds: losses of quality, and the transforms that the user names. None: nothing.

    Raises:
        UserError: a transform or an argument that albumentations does not know.
    """
    listed = [
        A.ToGray(p=config.grey),
        A.Blur(blur_limit=(3, config.blur_limit), p=config.blur),
        A.ImageCompression(quality_range=(config.jpeg_quality, 100), p=config.jpeg),
    ]
    transforms = [transform for transform in listed if transform.p > 0]
    transforms += named_transforms(config.extra)
    if not transforms:
        return None
    if not moves_boxes(transforms):  # the processing of boxes costs as much as a whole mosaic
        return A.Compose(transforms)
    return A.Compose(transforms, bbox_params=box_rules())


def box_rules() -> A.BboxParams:
    """Which boxes are worth keeping, by the rule of `clip_boxes`: dropouts too measure what is left to be seen."""
    return A.BboxParams(
        format="pascal_voc",
        label_fields=["labels"],
        min_width=MIN_SIDE,
        min_height=MIN_SIDE,
        min_visibility=MIN_VISIBLE_AREA,
        clip=True,
    )


def moves_boxes(transforms: Sequence[Transform]) -> bool:
    """Some transform changes more than pixel values."""
    return any(
        moves_boxes(transform.transforms)
        if isinstance(transform, A.BaseCompose)
        else isinstance(transform, A.DualTransform)
        for transform in transforms
    )


def named_transforms(entries: Any) -> list[Transform]:
    """The transforms of `[{NAME: {option: value}}, ...]`, as YAML has it.

    Raises:
        UserError: that is not what it is, or one of them is unknown or cannot be used.
    """
    if not isinstance(entries, list | tuple):
        raise UserError(
            f"data.augment.extra: {entries!r:.80} is no list of transforms, as [{{GaussNoise: {{p: 0.1}}}}]"
        )
    transforms = []
    for entry in entries:
        if not isinstance(entry, dict):
            raise UserError(
                f"data.augment.extra: {entry!r:.80} is no transform with its options, as GaussNoise: {{p: 0.1}}"
            )
        for name, options in entry.items():
            if not isinstance(options, dict | None):
                raise UserError(f"data.augment.extra: options of {name} are {options!r:.80}, not as {{p: 0.1}}")
            transforms.append(named_transform(name, options or {}))
    return transforms


def named_transform(name: str, options: dict[str, Any]) -> Transform:
    """A transform of albumentations, or several of which some are applied, by its class name.

    Raises:
        UserError: there is none of that name, it does not take these options, or it cannot be used in training.
    """
    kind = getattr(A, name, None)
    if name in COMPOSITIONS:
        return build(kind, name, {**options, "transforms": named_transforms(options.get("transforms"))})
    if not (isinstance(kind, type) and issubclass(kind, A.BasicTransform)):
        near = difflib.get_close_matches(name, [n for n in dir(A) if n[:1].isupper()], n=3)
        raise UserError(f"data.augment.extra: albumentations has no transform {name} (like it: {', '.join(near)})")
    transform = build(kind, name, options)
    try_out(transform, name)
    return transform


def build(kind: Any, name: str, options: dict[str, Any]) -> Any:
    """An object of albumentations.

    Raises:
        UserError: it does not take these options.
    """
    try:
        with warnings.catch_warnings():  # of options that it does not know, albumentations only warns
            warnings.simplefilter("error", UserWarning)
            return kind(**options)
    except Exception as error:
        raise UserError(f"data.augment.extra: {name} with {options}: {' '.join(str(error).split())}") from None


def try_out(transform: A.BasicTransform, name: str) -> None:
    """Apply it to an image with a box and to one without: what fails, fails in a loader process hours later otherwise.

    Raises:
        UserError: it fails, or gives what is no sample for training.
    """
    pipeline = A.Compose([transform], bbox_params=box_rules() if moves_boxes([transform]) else None)
    pipeline.set_random_seed(0)
    shape = (PROBE_SIDE, PROBE_SIDE, 3)
    probability, transform.p = transform.p, 1.0
    try:
        for boxes in (np.array([[40, 60, 140, 200]], np.float32), np.zeros((0, 4), np.float32)):
            ramp = np.arange(PROBE_SIDE**2 * 3).reshape(shape).astype(np.uint8)
            objects = {"bboxes": boxes, "labels": np.zeros(len(boxes), np.int64)}
            image = pipeline(image=ramp, **(objects if moves_boxes([transform]) else {}))["image"]
            if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
                found = getattr(image, "dtype", type(image).__name__)
                raise UserError(
                    f"it makes pixels {found}; the network takes uint8 and scales them itself: leave it out"
                )
            if image.shape != shape:
                before, after = ("x".join(map(str, s)) for s in (shape, image.shape))
                raise UserError(
                    f"it makes images of {before} ones of {after}, and those of a batch must be of one size: use "
                    "data.augment.scale and translate"
                )
    except Exception as error:  # of whatever type; many transforms need more than one image and its boxes
        raise UserError(f"data.augment.extra: {name} cannot be used: {' '.join(str(error).split())}") from None
    finally:
        transform.p = probability


def jitter_colours(image: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Multiply saturation and value by `1 + gains[1:]`, turn the hue by `gains[0]` of the circle; (H, W, 3) uint8 RGB.

    albumentations' HueSaturationValue adds instead of multiplying, which colours grey pixels. The two conversions to
    HSV and back take 2.5 times as long as the same in RGB, where the hue turns a little differently: only for a small
    turn is that the same.
    """
    return jitter_in_rgb(image, gains) if abs(gains[0]) <= SMALL_TURN else jitter_in_hsv(image, gains)


def jitter_in_hsv(image: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """A matrix for the factors and an addition that wraps for the hue: a third of the time of look-up tables."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)  # the circle has 256 steps, as many as a byte
    cv2.transform(hsv, np.diag([1.0, 1 + gains[1], 1 + gains[2]]), dst=hsv)
    row = np.zeros((image.shape[1], 3), dtype=np.uint8)
    row[:, 0] = round(gains[0] * 256) % 256
    np.add(hsv, row, out=hsv)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL, dst=hsv)


def jitter_in_rgb(image: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """With the value V, the largest channel, saturation and value scale the depths V - RGB, and a turn of the hue turns
    them: here around the axis of greys, in HSV along a hexagon. What becomes brighter than white gains saturation."""
    value = 1 + gains[2]
    scale = turned_hue(gains[0]) * ((1 + gains[1]) * value)
    out = np.empty_like(image)
    for top in range(0, len(image), STRIP):
        rows, target = image[top : top + STRIP], out[top : top + STRIP]
        red, green, blue = cv2.split(rows)
        brightest = cv2.max(cv2.max(red, green, dst=red), blue, dst=red)
        depths = cv2.cvtColor(brightest, cv2.COLOR_GRAY2RGB)
        cv2.subtract(depths, rows, dst=depths)
        cv2.transform(depths, scale, dst=depths)
        cv2.convertScaleAbs(brightest, dst=brightest, alpha=value)
        cv2.cvtColor(brightest, cv2.COLOR_GRAY2RGB, dst=target)
        cv2.subtract(target, depths, dst=target)  # stops at 0: what would be more than saturated is saturated
    return out


def turned_hue(share: float) -> np.ndarray:
    """(3, 3) rotation of RGB around the axis of greys by a share of the full circle."""
    angle = 2 * math.pi * share
    same, side = (1 + 2 * math.cos(angle)) / 3, (1 - math.cos(angle)) / 3
    twist = math.sin(angle) / math.sqrt(3)
    return np.array(
        [[same, side - twist, side + twist], [side + twist, same, side - twist], [side - twist, side + twist, same]]
    )
