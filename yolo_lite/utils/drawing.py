"""Boxes with class names on images."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

# Distinct on photographs, readable for the colour-blind (Okabe and Ito), in RGB.
PALETTE = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
# Pixels of an image's longer side for a line of one pixel, and for letters of OpenCV's size 1.
SIDE_PER_LINE, SIDE_PER_LETTER = 400, 1400
SMALLEST_LETTERS = 0.35


def draw_detections(
    image: np.ndarray,
    boxes_xyxy: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    scores: np.ndarray | None = None,
) -> np.ndarray:
    """A copy of an (H, W, 3) uint8 RGB image with boxes (N, 4) in its pixels, class names and scores.

    Lines and letters grow with the image, so that it looks the same at any size.
    """
    canvas = np.ascontiguousarray(image).copy()
    longest = max(canvas.shape[:2])
    line, letters = max(1, round(longest / SIDE_PER_LINE)), max(SMALLEST_LETTERS, longest / SIDE_PER_LETTER)
    font, outline = cv2.FONT_HERSHEY_SIMPLEX, line + max(1, round(line / 2))
    for i, (box, label) in reversed(list(enumerate(zip(boxes_xyxy.round().astype(int).tolist(), labels, strict=True)))):
        colour = PALETTE[int(label) % len(PALETTE)]  # the best last, over the others
        cv2.rectangle(canvas, tuple(box[:2]), tuple(box[2:]), colour, line, cv2.LINE_AA)
        text = names[int(label)] if scores is None else f"{names[int(label)]} {scores[i]:.2f}"
        (width, height), _ = cv2.getTextSize(text, font, letters, line)
        left = max(0, min(box[0] + 1, canvas.shape[1] - width))
        origin = (left, max(height + 1, box[1] - line - 2))
        cv2.putText(canvas, text, origin, font, letters, (0, 0, 0), outline, cv2.LINE_AA)
        cv2.putText(canvas, text, origin, font, letters, colour, line, cv2.LINE_AA)
    return canvas
