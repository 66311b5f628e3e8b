"""The doctor's findings as one HTML page that needs nothing else: pictures are inside it, no script, no network."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from yolo_lite.data.findings import Example, Finding
from yolo_lite.data.images import ImageFiles
from yolo_lite.data.index import DetectionIndex
from yolo_lite.data.statistics import SplitStatistics
from yolo_lite.data.thumbnails import encode_jpeg, read_small
from yolo_lite.training.pictures import draw_boxes
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.files import replacing
from yolo_lite.utils.html import base_style, data_uri, text

PICTURE_SIDE = 320
SHEET_IMAGES = 18
MARK = (255, 0, 255)

STYLE = """
.finding { border-left: 4px solid; padding: .3rem .8rem; margin: 1rem 0; background: var(--card); }
.error { border-color: var(--error); } .warning { border-color: var(--warning); } .note { border-color: var(--note); }
.error b { color: var(--error); } .warning b { color: var(--warning); } .note b { color: var(--note); }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 10rem), 1fr)); gap: .6rem; }
"""


def write_page(
    path: Path,
    verdict: str,
    findings: list[Finding],
    splits: dict[str, DetectionIndex],
    statistics: dict[str, SplitStatistics],
) -> None:
    """Write the page, at once or not at all.

    Raises:
        UserError: it cannot be written.
    """
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{text(verdict)}</title><style>{base_style()}{STYLE}</style></head><body>",
        f"<h1>{text(verdict)}</h1>",
        *(finding_html(finding, splits) for finding in findings),
    ]
    for split, index in splits.items():
        parts += [split_html(split, statistics[split]), contact_sheet(index)]
    with replacing(path) as file:
        file.write(("\n".join([*parts, "</body></html>"]) + "\n").encode("utf-8", "replace"))


def finding_html(finding: Finding, splits: dict[str, DetectionIndex]) -> str:
    """A finding with pictures of its examples."""
    figures = "".join(example_figure(splits[example.split], example) for example in finding.examples)
    return (
        f'<section class="finding {finding.severity}"><p><b>{finding.severity}</b> {text(str(finding))}</p>'
        f'<p class="dim">&rarr; {text(finding.way_out)}</p>'
        f'<div class="sheet">{figures}</div></section>'
    )


def example_figure(index: DetectionIndex, example: Example) -> str:
    """An example with its box marked, or with the boxes of its image."""
    return figure(index, example.position, f"{example.split}: {example}", example.box_xywh)


def figure(index: DetectionIndex, i: int, caption: str, mark_xywh: tuple[float, ...] | None = None) -> str:
    """Image `i` with its boxes and one marked box; the caption alone where it cannot be decoded."""
    try:
        source = data_uri(picture(index, i, mark_xywh), "image/jpeg")
        image = f'<img loading="lazy" alt="{text(caption)}" src="{source}">'
    except UserError:
        image = ""
    return f"<figure>{image}<figcaption>{text(caption)}</figcaption></figure>"


def picture(index: DetectionIndex, i: int, mark_xywh: tuple[float, ...] | None) -> bytes:
    """A small JPEG of image `i` with boxes.

    Raises:
        UserError: it cannot be decoded.
    """
    small, scale = read_small(ImageFiles(index), i, PICTURE_SIDE, may_grow=True)
    height, width = small.shape[:2]
    rows = index.rows(i)
    boxes = index.boxes_xywh[rows] if mark_xywh is None else np.array([mark_xywh])
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1) * scale
    corners = np.clip(corners, -1, [width, height] * 2)
    if mark_xywh is None:
        small = draw_boxes(small, corners, index.labels[rows], index.class_names)
    else:
        left, top, right, bottom = corners[0].round().astype(int).tolist()
        small = cv2.rectangle(small.copy(), (left - 1, top - 1), (right + 1, bottom + 1), MARK, 2)
    return encode_jpeg(small)


def split_html(split: str, numbers: SplitStatistics) -> str:
    """The histograms of a split."""
    crowds = f", {numbers.crowds} crowds" if numbers.crowds else ""
    classes = dict(sorted(numbers.classes.items(), key=lambda item: -item[1]))
    return (
        f"<h2>{text(split)}: {numbers.images} images, {numbers.boxes} boxes{crowds}</h2>"
        f"{histogram(numbers.sizes)}<details {'open' if len(classes) <= 12 else ''}>"
        f"<summary>{len(classes)} classes</summary>{histogram(classes)}</details>"
    )


def histogram(counts: dict[str, int]) -> str:
    """Counts as bars."""
    most = max(1, *counts.values())
    rows = (
        f'<tr><td>{text(name)}</td><td class="number">{count}</td>'
        f'<td class="bar"><span style="width:{100 * count / most:.1f}%"></span></td></tr>'
        for name, count in counts.items()
    )
    return f"<table>{''.join(rows)}</table>"


def contact_sheet(index: DetectionIndex) -> str:
    """Images with their boxes, evenly spaced over the split."""
    chosen = np.unique(np.linspace(0, len(index) - 1, SHEET_IMAGES).astype(int)).tolist()
    return f'<div class="sheet">{"".join(figure(index, i, index.file_names[i]) for i in chosen)}</div>'
