"""What a model file says about its model: all that is needed to feed it and to read what it gives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import yolo_lite
from yolo_lite.data.geometry import FILL
from yolo_lite.models.yolo import YOLO
from yolo_lite.utils.errors import UserError

Output = Literal["raw", "decoded", "nms"]
Precision = Literal["fp32", "fp16", "int8"]

# Under which a file's own metadata keep it, as JSON.
KEY = "yolo_lite"
# Raised whenever files are written that an earlier version would misread.
INFO_FORMAT = 1
# Sides of the input are multiples of this, whatever the levels: the backbone halves them five times.
SIZE_DIVISOR = 32


@dataclass(frozen=True)
class Suppression:
    """What a graph with non-maximum suppression was built with.

    Attributes:
        score: detections score higher.
        iou: of two boxes of one class that overlap more, the better stays.
        max_detections: of an image.
    """

    score: float
    iou: float
    max_detections: int


@dataclass(frozen=True)
class ModelInfo:
    """A model as its file describes it.

    Attributes:
        variant: name of the detector.
        class_names: in the order of the labels.
        image_size: pixels; the longer side of an image is resized to it.
        strides: input pixels per cell of each level.
        reg_max: bins of a box side's distribution.
        output: `raw` maps per level (B, 4R + C, H, W), box logits first; `decoded` boxes_xyxy (B, A, 4) in input
            pixels and scores (B, A, C); `nms` boxes_xyxy (B, D, 4), scores (B, D), labels (B, D), best first, padded
            with scores of 0.
        precision: of weights and arithmetic.
        batch: images at once; None: any number.
        input_size: (height, width); None: any multiples of 32.
        suppression: of `nms` outputs.
        fill: grey that images are padded with, on both sides equally.
        input: what goes in.
        version: of yolo-lite that wrote it.
    """

    variant: str
    class_names: tuple[str, ...]
    image_size: int
    strides: tuple[int, ...]
    reg_max: int
    output: Output = "raw"
    precision: Precision = "fp32"
    batch: int | None = None
    input_size: tuple[int, int] | None = None
    suppression: Suppression | None = None
    fill: int = FILL
    input: str = "images (B, 3, H, W) float32 RGB in 0..1"
    version: str = yolo_lite.__version__

    @staticmethod
    def of(model: YOLO, variant: str, class_names: list[str], image_size: int) -> ModelInfo:
        """That of a detector as PyTorch runs it."""
        return ModelInfo(variant, tuple(class_names), image_size, model.strides, model.spec.reg_max)

    def to_json(self) -> str:
        """As a file keeps it."""
        return json.dumps({"format": INFO_FORMAT, **asdict(self)})

    @staticmethod
    def from_json(content: str | None, name: str) -> ModelInfo:
        """Read what `to_json` wrote.

        Args:
            content: of the file's metadata; None: it has none.
            name: what messages call the file.

        Raises:
            UserError: it is not what this version of yolo-lite writes.
        """
        if not content:
            raise UserError(f"{name} was not written by yolo-lite: it does not say its classes and strides")
        try:
            values: dict[str, Any] = json.loads(content)
            found = values.pop("format")
            if found > INFO_FORMAT:
                raise UserError(f"{name} has format {found}, this version reads up to {INFO_FORMAT}: update yolo-lite")
            known = {field.name for field in fields(ModelInfo)}
            for key in ("class_names", "strides", "input_size"):
                values[key] = tuple(values[key]) if values[key] is not None else None
            if values["suppression"] is not None:
                values["suppression"] = Suppression(**values["suppression"])
            info = ModelInfo(**{key: value for key, value in values.items() if key in known})
            check_own_size(info.image_size, name)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{name} is damaged: what it says of its model cannot be read ({error})") from None
        return info

    def with_size(self, image_size: int | None) -> ModelInfo:
        """The same for another image size.

        Raises:
            UserError: the model takes no such size.
        """
        if image_size is None or image_size == self.image_size:
            return self
        check_image_size(image_size)
        if self.input_size is not None:
            height, width = self.input_size
            raise UserError(f"image_size={image_size}: this model takes {height}x{width} pixels only; leave it out")
        return replace(self, image_size=image_size)


def check_shapes(
    info: ModelInfo, name: Any, images: Sequence[int | None], outputs: Sequence[Sequence[int | None]]
) -> None:
    """That a graph is the one that its file describes, which can be edited: otherwise its outputs would be misread.

    Args:
        info: what the file says.
        name: of the file.
        images: sides of the graph's input; None: any.
        outputs: of its outputs, likewise; None: not known before it runs.

    Raises:
        UserError: it is another one.
    """
    expected: list[tuple[int | None, ...]]
    if info.output == "raw":
        channels = 4 * info.reg_max + len(info.class_names)
        expected = [(info.batch, channels, None, None) for _ in info.strides]
    elif info.output == "decoded":
        expected = [(info.batch, None, 4), (info.batch, None, len(info.class_names))]
    else:
        expected = [(info.batch, None, 4), (info.batch, None), (info.batch, None)]
    wanted = (info.batch, 3, *(info.input_size or (None, None)))
    if tuple(images) != wanted or not is_alike(outputs, expected):
        found, said = (describe_shapes(taken, given) for taken, given in ((images, outputs), (wanted, expected)))
        raise UserError(f"{name} does not fit its description: its graph is {found}, it says {said}; export it anew")


def is_alike(outputs: Sequence[Sequence[int | None]], expected: Sequence[Sequence[int | None]]) -> bool:
    """As many outputs of as many sides, equal where both are known."""
    return [len(shape) for shape in outputs] == [len(shape) for shape in expected] and all(
        side in (wanted, None) or wanted is None
        for shape, sides in zip(outputs, expected, strict=True)
        for side, wanted in zip(shape, sides, strict=True)
    )


def describe_shapes(images: Sequence[int | None], outputs: Sequence[Sequence[int | None]]) -> str:
    """`1x3x64x64 -> 1x?x4, 1x?x2`."""
    texts = ["x".join("?" if side is None else str(side) for side in shape) for shape in (images, *outputs)]
    return f"{texts[0]} -> {', '.join(texts[1:])}"


def check_own_size(image_size: int, name: Any) -> None:
    """Raises:
    UserError: what a file says of its image size is nothing that the network takes.
    """
    if image_size < SIZE_DIVISOR or image_size % SIZE_DIVISOR:
        raise UserError(
            f"{name} says that it takes images of {image_size} pixels, which must be a multiple of {SIZE_DIVISOR}: "
            "import or export it again"
        )


def check_image_size(image_size: int) -> None:
    """Raises:
    UserError: the network cannot halve it five times.
    """
    if image_size < SIZE_DIVISOR or image_size % SIZE_DIVISOR:
        raise UserError(f"image_size={image_size}: give a multiple of {SIZE_DIVISOR}")
