"""The doctor's findings as one HTML page that needs nothing else: pictures are inside it, no script, no network."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

import cv2
import numpy as np

from yolo_lite.data.findings import Example, Finding
from yolo_lite.data.images import read_image, resize_image, resized_shape
from yolo_lite.data.index import DetectionIndex
from yolo_lite.data.statistics import SplitStatistics
from yolo_lite.training.pictures import draw_boxes
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.files import replacing

PICTURE_SIDE = 320
SHEET_IMAGES = 18
JPEG_QUALITY = 80
MARK = (255, 0, 255)

STYLE = """
:root { color-scheme: light dark; --bg: #fff; --fg: #1c1e21; --dim: #626870; --line: #d9dce0; --card: #f5f6f8;
  --bar: #2f6fbf; --error: #b3261e; --warning: #8a5a00; --note: #1f6a87; }
@media (prefers-color-scheme: dark) { :root { --bg: #15171a; --fg: #e6e8eb; --dim: #9aa1a9; --line: #33373d;
  --card: #1e2126; --bar: #6ea8ee; --error: #ff8a80; --warning: #ffc766; --note: #7cc7e4; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1rem; background: var(--bg); color: var(--fg);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid var(--line); }
.finding { border-left: 4px solid; padding: .3rem .8rem; margin: 1rem 0; background: var(--card); }
.error { border-color: var(--error); } .warning { border-color: var(--warning); } .note { border-color: var(--note); }
.error b { color: var(--error); } .warning b { color: var(--warning); } .note b { color: var(--note); }
p { margin: .3rem 0; } .dim, figcaption { color: var(--dim); font-size: .85rem; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 10rem), 1fr)); gap: .6rem; }
figure { margin: 0; } figure img { width: 100%; height: auto; display: block; border-radius: 3px; }
table { border-collapse: collapse; width: 100%; } td { padding: .1rem .5rem .1rem 0; vertical-align: middle; }
td.number { text-align: right; width: 5rem; font-variant-numeric: tabular-nums; } td.bar { width: 45%; }
td.bar span { display: block; height: .7rem; background: var(--bar); border-radius: 2px; }
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
        f"<title>{text(verdict)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{text(verdict)}</h1>",
        *(finding_html(finding, splits) for finding in findings),
    ]
    for split, index in splits.items():
        parts += [split_html(split, statistics[split]), contact_sheet(index)]
    with replacing(path) as file:
        file.write(("\n".join([*parts, "</body></html>"]) + "\n").encode("utf-8", "replace"))


def text(value: str) -> str:
    """Text, safe inside HTML."""
    return escape(value, quote=True)


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
        encoded = base64.b64encode(picture(index, i, mark_xywh)).decode()
        image = f'<img loading="lazy" alt="{text(caption)}" src="data:image/jpeg;base64,{encoded}">'
    except UserError:
        image = ""
    return f"<figure>{image}<figcaption>{text(caption)}</figcaption></figure>"


def picture(index: DetectionIndex, i: int, mark_xywh: tuple[float, ...] | None) -> bytes:
    """A small JPEG of image `i` with boxes.

    Raises:
        UserError: it cannot be decoded.
    """
    image = read_image(index.path(i))
    height, width = resized_shape(image.shape[0], image.shape[1], PICTURE_SIDE)
    scale = np.array([width / image.shape[1], height / image.shape[0]] * 2)
    small = resize_image(image, height, width)
    rows = index.rows(i)
    boxes = index.boxes_xywh[rows] if mark_xywh is None else np.array([mark_xywh])
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1) * scale
    corners = np.clip(corners, -1, [width, height] * 2)
    if mark_xywh is None:
        small = draw_boxes(small, corners, index.labels[rows], index.class_names)
    else:
        left, top, right, bottom = corners[0].round().astype(int).tolist()
        small = cv2.rectangle(small.copy(), (left - 1, top - 1), (right + 1, bottom + 1), MARK, 2)
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    return bytes(cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), options)[1].tobytes())


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
