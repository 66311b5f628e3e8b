"""Boxes with class names on images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Distinct on photographs, readable for the colour-blind (Okabe and Ito), in RGB.
PALETTE = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
# Pixels of an image's longer side for a line of one pixel, and for a pixel of the letters' height; and those of a usual
# box's shorter side: a thousand small objects on a large image would disappear behind their names.
SIDE_PER_LINE, SIDE_PER_LETTER = 320, 48
BOX_PER_LINE, BOX_PER_LETTER = 25, 5
SMALLEST_LETTERS = 10
# Latin, Greek, Cyrillic, Hebrew and Arabic letters; it comes with matplotlib.
FONT = Path("fonts", "ttf", "DejaVuSans.ttf")
# Where names have other letters: fonts of operating systems, looked for by name in the usual folders.
SYSTEM_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "msyh.ttc",
    "malgun.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "Arial Unicode.ttf",
    "NotoSansDevanagari-Regular.ttf",
    "NotoSansThai-Regular.ttf",
)
NO_CHARACTER = "\uffff"
LIGHT = 140  # brightness of a colour from which on black letters are read better than white ones


def draw_detections(
    image: np.ndarray,
    boxes_xyxy: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    scores: np.ndarray | None = None,
) -> np.ndarray:
    """A copy of an (H, W, 3) uint8 RGB image with boxes (N, 4) in its pixels, class names and scores.

    Lines and letters grow with the image, as far as its boxes do: it looks the same at any size. The best box lies
    over the others; a name stands where it covers the fewest others.
    """
    canvas = np.ascontiguousarray(image).copy()
    longest = max(canvas.shape[:2])
    usual = float(np.median((boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).min(axis=1))) if len(boxes_xyxy) else 0.0
    line = max(1, round(min(longest / SIDE_PER_LINE, usual / BOX_PER_LINE)))
    letters = max(SMALLEST_LETTERS, round(min(longest / SIDE_PER_LETTER, usual / BOX_PER_LETTER)))
    writer = SignWriter(letters)
    boxes = boxes_xyxy.round().astype(int).tolist()
    shown: list[float | None] = [None] * len(boxes) if scores is None else scores.tolist()
    signs = [  # (h, w) uint8 each
        writer.render(names[label], label, score) for label, score in zip(labels.tolist(), shown, strict=True)
    ]
    places = place_signs(boxes, [sign.shape for sign in signs], canvas.shape[:2], line)
    for box, label in reversed(list(zip(boxes, labels.tolist(), strict=True))):
        cv2.rectangle(canvas, tuple(box[:2]), tuple(box[2:]), PALETTE[label % len(PALETTE)], line, cv2.LINE_AA)
    for sign, (left, top), label in reversed(list(zip(signs, places, labels.tolist(), strict=True))):
        put_sign(canvas, sign, left, top, PALETTE[label % len(PALETTE)])
    return canvas


def place_signs(
    boxes_xyxy: list[list[int]], shapes: list[tuple[int, ...]], size: tuple[int, int], line: int
) -> list[tuple[int, int]]:
    """(left, top) of the sign of each box: of the places above, below and within it, the one that covers the least of
    the signs before."""
    taken = np.zeros((0, 4), dtype=int)
    places = []
    for (x1, y1, x2, y2), (height, width) in zip(boxes_xyxy, shapes, strict=True):
        half = line // 2
        wanted = [(x1 - half, y1 - height - half), (x1 - half, y1 - half), (x1 - half, y2 + half)]
        wanted += [(x2 + half - width, y1 - height - half), (x2 + half - width, y2 - height + half)]
        best, least = (0, 0), None
        for left, top in wanted:
            left, top = max(0, min(left, size[1] - width)), max(0, min(top, size[0] - height))
            wide = np.minimum(taken[:, 2], left + width) - np.maximum(taken[:, 0], left)
            high = np.minimum(taken[:, 3], top + height) - np.maximum(taken[:, 1], top)
            covered = int((wide.clip(min=0) * high.clip(min=0)).sum())
            if least is None or covered < least:
                best, least = (left, top), covered
            if not covered:
                break
        places.append(best)
        taken = np.concatenate([taken, [[*best, best[0] + width, best[1] + height]]])
    return places


def put_sign(canvas: np.ndarray, sign: np.ndarray, left: int, top: int, colour: tuple[int, int, int]) -> None:
    """Blend a sign (h, w), 0 its ground and 255 its letters, onto the canvas; what goes beyond it is cut off."""
    room = canvas[top : top + sign.shape[0], left : left + sign.shape[1]]
    ink = 0 if np.dot(colour, (0.299, 0.587, 0.114)) > LIGHT else 255
    shades = np.linspace(colour, (ink, ink, ink), 256).round().astype(np.uint8)
    room[:] = shades[sign[: room.shape[0], : room.shape[1]]]


class SignWriter:
    """Writes signs, each with a font that has its letters.

    Args:
        height: of the letters, pixels.
    """

    def __init__(self, height: int) -> None:
        self.height = height
        own = Path(matplotlib.get_data_path()) / FONT
        self._font = ImageFont.truetype(own, height)
        self._fonts: dict[str, ImageFont.FreeTypeFont | None] = {}

    def render(self, name: str, label: int, score: float | None) -> np.ndarray:
        """(h, w) uint8: letters 255 on 0, with a margin; the number of the class where no font can write its name."""
        name = " ".join(name.split())
        if name not in self._fonts:
            self._fonts[name] = self._find_font(name)
        font = self._fonts[name] or self._font
        text = name if self._fonts[name] is not None else f"#{label}"
        if score is not None:
            text = f"{text} {score:.2f}"
        margin = max(1, self.height // 6)
        ascent, descent = font.getmetrics()
        picture = Image.new("L", (int(np.ceil(font.getlength(text))) + 2 * margin, ascent + descent))
        ImageDraw.Draw(picture).text((margin, 0), text, fill=255, font=font)
        return np.asarray(picture)

    def _find_font(self, name: str) -> ImageFont.FreeTypeFont | None:
        """The first font that has every letter of a name; None: there is none, or no letter."""
        signs = {sign for sign in name if not sign.isspace()}
        if signs and all(has_letter(self._font, sign) for sign in signs):
            return self._font
        for file in SYSTEM_FONTS if signs else ():
            try:
                font = ImageFont.truetype(file, self.height)
            except OSError:
                continue
            if all(has_letter(font, sign) for sign in signs):
                return font
        return None


def has_letter(font: ImageFont.FreeTypeFont, sign: str) -> bool:
    """A font without a letter draws the same box for it as for what is no character at all."""
    return bytes(font.getmask(sign)) != bytes(font.getmask(NO_CHARACTER))
