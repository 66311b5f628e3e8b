"""What was found on one image.

Notation: D detections. Boxes are xyxy in pixels of the upright image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yolo_lite.data.images import read_image
from yolo_lite.deploy.runtimes import needed
from yolo_lite.utils.drawing import draw_detections
from yolo_lite.utils.errors import UserError


@dataclass(frozen=True, eq=False)
class Prediction:
    """Detections of one image, best first.

    Attributes:
        source: path of the image or video, `camera N`, or `image N` of an array.
        size: (height, width) of the upright image, pixels.
        boxes_xyxy: (D, 4) float32, in pixels of the image.
        scores: (D,) float32 in 0..1.
        labels: (D,) int64.
        class_names: of the model, in the order of the labels.
        frame: number of a video's picture, from 0; None: no video.
        rate: of a video, pictures per second; None: unknown.
        image: (H, W, 3) uint8 RGB, where it was an array or a frame of a stream; None: it is in `source`.
    """

    source: str
    size: tuple[int, int]
    boxes_xyxy: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    frame: int | None = None
    rate: float | None = None
    image: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self.counts().items()) or "nothing"
        place = self.source if self.frame is None else f"{self.source} frame {self.frame}"
        return f"<Prediction {place}: {counts}>"

    @property
    def names(self) -> list[str]:
        """Class of each detection."""
        return [self.class_names[label] for label in self.labels.tolist()]

    def counts(self) -> dict[str, int]:
        """How many of each class were found, in the order of the classes."""
        numbers = np.bincount(self.labels, minlength=len(self.class_names)).tolist()
        return {name: count for name, count in zip(self.class_names, numbers, strict=True) if count}

    def draw(self) -> np.ndarray:
        """The image with the boxes, class names and scores; (H, W, 3) uint8 RGB, a copy.

        Raises:
            UserError: the image has gone from where it was.
        """
        image = self.image if self.image is not None else read_image(Path(self.source))
        return draw_detections(image, self.boxes_xyxy, self.labels, list(self.class_names), self.scores)

    def to_supervision(self) -> Any:
        """`supervision.Detections` of the same, class names under `class_name`.

        Raises:
            UserError: supervision is not installed.
        """
        try:
            supervision = needed("supervision", "to_supervision()")
        except UserError:
            raise UserError("to_supervision() needs a package that is not there: pip install supervision") from None
        return supervision.Detections(
            xyxy=self.boxes_xyxy,
            confidence=self.scores,
            class_id=self.labels.astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )
