"""The embedded data set: coloured shapes on textured backgrounds, drawn at first use, in COCO format.

The same parameters give the same bytes. Coordinates are pixels of the image; a pixel's centre lies at +0.5.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from yolo_lite.utils.errors import UserError

log = logging.getLogger(__name__)

VERSION = 2  # raise it whenever the pixels or the boxes change
# The classes and the middle of each one's hues, degrees. Colour and form together say the class, as with fruit or
# traffic signs: by form alone a light model would need far more than the few minutes that a first look may take.
HUES = {"circle": 0.0, "rectangle": 55.0, "triangle": 125.0, "star": 215.0, "ring": 295.0}
CLASSES = tuple(HUES)
HUE_SPREAD = 18.0
# Diameter of an object at an image of 192 pixels: small, medium and large (for a circle) by COCO's areas.
SIDES = ((14.0, 30.0), (32.0, 80.0), (110.0, 165.0))
SIDE_PROBABILITIES = (0.3, 0.4, 0.3)
MAX_OBJECTS = 8
EMPTY_SHARE = 0.03
SUPERSAMPLE = 4
# A place is refused where it would leave less than this of an earlier object, or of the new one inside the image.
MIN_VISIBLE = 0.4
MIN_INSIDE = 0.6
MIN_CONTRAST = 70.0  # distance of colours (0..255 per channel) to nine tenths of the pixels under and around an object
TRIES = 30
TINT = 15.0  # how far the channels of a background's colours lie from grey
SHADING = 0.15
JPEG_QUALITY = 92


@dataclass(frozen=True)
class DrawnShape:
    """One object as it was drawn.

    Attributes:
        label: index in `CLASSES`.
        box_xywh: left, top, width, height of the shape's part inside the image, covered or not; to 1/4 pixel.
        area: square pixels of that part, covered or not.
    """

    label: int
    box_xywh: tuple[float, float, float, float]
    area: float


def make_shapes(root: Path, num_train: int = 480, num_val: int = 120, image_size: int = 192, seed: int = 0) -> Path:
    """Generate the data set in `root`, unless it is there already; safe where several processes do so at once.

    Args:
        root: its folder; must be absent, empty, or hold the same data set.
        num_train: images of the training split.
        num_val: images of the validation split.
        image_size: side of the square images, pixels.
        seed: of everything random.

    Returns:
        `root`.

    Raises:
        UserError: `root` is something else or cannot be written.
    """
    if num_train < 1 or num_val < 1 or image_size < 64:
        raise UserError(
            f"shapes need num_train >= 1, num_val >= 1, image_size >= 64 (got {num_train}, {num_val}, {image_size})"
        )
    parameters = {
        "version": VERSION,
        "num_train": num_train,
        "num_val": num_val,
        "image_size": image_size,
        "seed": seed,
    }
    if is_complete(root, parameters):
        return root
    path = Path(os.path.abspath(root))
    # A sibling, so that the rename stays within one file system; not tempfile's, which only its owner may read.
    scratch = path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    log.info("drawing %d images of shapes into %s", num_train + num_val, root)
    try:
        (scratch / "images").mkdir(parents=True)
        (scratch / "annotations").mkdir()
        for number, (split, count) in enumerate((("train", num_train), ("val", num_val))):
            data = draw_split(scratch / "images", split, count, image_size, (seed, number))
            (scratch / "annotations" / f"{split}.json").write_text(json.dumps(data))
        marker_path(scratch).write_text(json.dumps(parameters, indent=1))
        try:
            os.rename(scratch, path)
        except OSError:
            if not is_complete(root, parameters):  # else another process was faster, with the same bytes
                raise
    except OSError as error:
        raise UserError(f"cannot write the shapes data set to {root}: {error.strerror}") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return root


def marker_path(root: Path) -> Path:
    """The file that says how the data set was made."""
    return root / "annotations" / "shapes.json"


def is_complete(root: Path, parameters: dict[str, int]) -> bool:
    """Whether `root` holds exactly this data set; False where there is nothing yet.

    Raises:
        UserError: it holds something else.
    """
    try:
        if not os.path.lexists(root) or (root.is_dir() and not any(root.iterdir())):
            return False
        found = json.loads(marker_path(root).read_bytes())
    except (OSError, ValueError):
        found = None
    if found == parameters and all((root / "annotations" / f"{split}.json").is_file() for split in ("train", "val")):
        return True
    if isinstance(found, dict) and found != parameters:
        differs = ", ".join(f"{k} {found.get(k)} instead of {v}" for k, v in parameters.items() if found.get(k) != v)
        raise UserError(f"{root} holds shapes made otherwise ({differs}); remove it or choose another folder")
    raise UserError(f"{root} exists and is not the shapes data set; remove it or choose another folder")


def draw_split(image_dir: Path, split: str, count: int, image_size: int, seed: tuple[int, int]) -> dict[str, Any]:
    """Write the images of one split; returns its COCO annotations."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    # Every image has a generator of its own, so that it does not depend on the number of images before it.
    empty = set(np.random.default_rng([*seed]).permutation(count)[: round(EMPTY_SHARE * count)].tolist())
    for i in range(count):
        image, shapes = draw_scene(np.random.default_rng([*seed, i]), image_size, is_empty=i in empty)
        name = f"{split}_{i:05d}.jpg"
        _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        (image_dir / name).write_bytes(encoded.tobytes())
        images.append({"id": i + 1, "file_name": name, "width": image_size, "height": image_size})
        for shape in shapes:
            entry = {"id": len(annotations) + 1, "image_id": i + 1, "category_id": shape.label + 1, "iscrowd": 0}
            annotations.append(entry | {"bbox": list(shape.box_xywh), "area": shape.area})
    return {
        "info": {"description": f"yolo-lite shapes, {split}", "version": str(VERSION)},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
    }


def draw_scene(
    rng: np.random.Generator, image_size: int, is_empty: bool = False
) -> tuple[np.ndarray, list[DrawnShape]]:
    """A background and 1 to `MAX_OBJECTS` shapes: (S, S, 3) uint8 BGR and what is on it, in the order of drawing."""
    image = draw_background(rng, image_size)
    shapes: list[DrawnShape] = []
    visible: list[np.ndarray] = []  # per object: (S, S) what of each pixel it still shows
    areas: list[float] = []
    wanted = 0 if is_empty else int(rng.integers(1, MAX_OBJECTS + 1))
    for attempt in range(wanted * TRIES):
        if len(shapes) == wanted:
            break
        label = int(rng.integers(len(CLASSES)))
        low, high = SIDES[rng.choice(len(SIDES), p=SIDE_PROBABILITIES)]
        radius = float(rng.uniform(low, high)) * image_size / 192 / 2
        # An image that was not meant to be empty must not end so: the last attempts stay in the middle.
        margin = image_size / 4 if attempt > TRIES // 2 and not shapes else 0.0
        center = rng.uniform(margin, image_size - margin, 2)
        contours = shape_contours(rng, CLASSES[label], radius, center)
        mask = rasterise(contours, image_size)
        shape = measure(mask, label)
        if shape is None or shape.area < MIN_INSIDE * contour_area(contours) or min(shape.box_xywh[2:]) < 6:
            continue
        coverage = cv2.resize(mask, (image_size, image_size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        remaining = [v * (1 - coverage) for v in visible]
        if any(float(v.sum()) < MIN_VISIBLE * area for v, area in zip(remaining, areas, strict=True)):
            continue
        color = pick_color(rng, HUES[CLASSES[label]], image, coverage)
        if color is None:
            continue
        light = 1 + SHADING * slope(rng, image_size)[..., None]
        image += coverage[..., None] * (np.clip(color * light, 0, 255) - image)
        visible = [*remaining, coverage]
        areas.append(float(coverage.sum()))
        shapes.append(shape)
    return np.round(image).astype(np.uint8), shapes


def shape_contours(rng: np.random.Generator, name: str, radius: float, center: np.ndarray) -> list[np.ndarray]:
    """Closed polygons (K, 2) in pixels of a shape turned at random; `radius` reaches its farthest point.

    The second polygon, where there is one, is a hole.
    """
    if name in ("circle", "ring"):
        corners, radii = 96, [1.0]
    elif name == "star":
        corners, radii = 10, [1.0, float(rng.uniform(0.4, 0.5))]
    elif name == "triangle":
        corners, radii = 3, [1.0]
    else:
        corners, radii = 4, [1.0]
    angles = np.arange(corners) * (2 * math.pi / corners)
    if name == "rectangle":  # the angle of the diagonal sets the ratio of the sides, 0.55 to 1
        half = math.atan(float(rng.uniform(0.55, 1.0)))
        angles = np.array([half, math.pi - half, math.pi + half, -half])
    angles = angles + rng.uniform(0, 2 * math.pi)
    lengths = radius * np.resize(radii, corners)[:, None]
    outer = lengths * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    contours = [center + outer]
    if name == "ring":
        contours.append(center + outer * float(rng.uniform(0.5, 0.68)))
    return contours


def contour_area(contours: list[np.ndarray]) -> float:
    """Square pixels, also of what lies outside the image."""
    outer, *holes = (cv2.contourArea(c.astype(np.float32)) for c in contours)
    return float(outer - sum(holes))


def rasterise(contours: list[np.ndarray], image_size: int) -> np.ndarray:
    """(S k, S k) uint8, 0 or 255, at k = `SUPERSAMPLE` times the resolution."""
    side = image_size * SUPERSAMPLE
    mask = np.zeros((side, side), np.uint8)
    fraction_bits = 4
    points = [np.round((c * SUPERSAMPLE - 0.5) * 2**fraction_bits).astype(np.int32) for c in contours]
    cv2.fillPoly(mask, points, 255, shift=fraction_bits)
    return mask


def measure(mask: np.ndarray, label: int) -> DrawnShape | None:
    """Box and area of a mask of `rasterise`; None if nothing lies inside the image."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return None
    left, top, right, bottom = (int(v) / SUPERSAMPLE for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    area = int(np.count_nonzero(mask)) / SUPERSAMPLE**2
    return DrawnShape(label, (left, top, right - left, bottom - top), area)


def pick_color(rng: np.random.Generator, hue: float, image: np.ndarray, coverage: np.ndarray) -> np.ndarray | None:
    """A strong BGR colour (3,) near `hue` that stands out from what the object covers and touches, or None."""
    around = cv2.dilate(coverage, np.ones((7, 7), np.uint8)) > 0
    pixels = image[around][::5]
    hsv = rng.uniform([hue - HUE_SPREAD, 0.6, 0.55], [hue + HUE_SPREAD, 1.0, 1.0], (TRIES, 3)).astype(np.float32)
    hsv[:, 0] %= 360
    for color in cv2.cvtColor(hsv[None], cv2.COLOR_HSV2BGR)[0] * 255:
        if np.quantile(np.linalg.norm(pixels - color, axis=1), 0.1) >= MIN_CONTRAST:
            return np.asarray(color, dtype=np.float32)
    return None


def draw_background(rng: np.random.Generator, image_size: int) -> np.ndarray:
    """(S, S, 3) float32 in 0..255: noise, stripes, checkers or a gradient between two greyish colours, with grain."""
    kind = rng.choice(["noise", "stripes", "checkers", "gradient"])
    angle, period = rng.uniform(0, math.pi), rng.uniform(10, 48) * image_size / 192
    y, x = np.mgrid[:image_size, :image_size].astype(np.float32) + 0.5
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    if kind == "noise":
        blend = smooth_noise(rng, image_size)
    elif kind == "stripes":
        blend = np.clip(0.5 + period / 4 * np.sin(u * 2 * math.pi / period), 0, 1)  # edges about a pixel wide
    elif kind == "checkers":
        wave = np.sin(u * math.pi / period) * np.sin(v * math.pi / period)
        blend = np.clip(0.5 + period / 4 * wave, 0, 1)
    else:
        blend = (slope(rng, image_size) + 1) / 2
    first = rng.uniform(30, 225) + rng.uniform(-TINT, TINT, 3)
    second = np.clip(first + rng.uniform(-75, 75) + rng.uniform(-TINT, TINT, 3), 0, 255)
    image = first + blend[..., None] * (second - first)
    image = image + rng.uniform(10, 50) * (smooth_noise(rng, image_size)[..., None] - 0.5)
    image = image + rng.uniform(0, 7) * rng.standard_normal(image.shape)
    return np.clip(image, 0, 255).astype(np.float32)


def smooth_noise(rng: np.random.Generator, image_size: int) -> np.ndarray:
    """(S, S) float32 in 0..1: random grids of several resolutions, enlarged smoothly and added."""
    total = np.zeros((image_size, image_size), np.float32)
    for cells in (3, 6, 12, 24, 48):
        grid = rng.random((cells, cells), dtype=np.float32)
        total += cv2.resize(grid, (image_size, image_size), interpolation=cv2.INTER_CUBIC) * (3 / cells) ** 0.7
    return (total - total.min()) / max(float(total.max() - total.min()), 1e-6)


def slope(rng: np.random.Generator, image_size: int) -> np.ndarray:
    """(S, S) float32 from -1 to 1: a plane that rises in a random direction."""
    angle = rng.uniform(0, 2 * math.pi)
    line = np.linspace(-1, 1, image_size, dtype=np.float32)
    plane = line[None, :] * math.cos(angle) + line[:, None] * math.sin(angle)
    return (plane / np.abs(plane).max()).astype(np.float32)
