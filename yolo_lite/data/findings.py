"""What the doctor finds: kinds, severities, examples, and the exit code that they add up to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from yolo_lite.data.index import DetectionIndex
from yolo_lite.utils.errors import UserError

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

MAX_EXAMPLES = 6
# From this share of a split on, faults that only cost the images or boxes that have them hurt the result.
HURTING_SHARE = 0.01

EXIT_TRAINING_SUFFERS = 1


class TrainingSuffersError(UserError):
    """The doctor found errors."""

    exit_code = EXIT_TRAINING_SUFFERS
    label = ""


@dataclass(frozen=True)
class Example:
    """One image, or one box of it, that has a fault.

    Attributes:
        split: its split.
        position: of the image in the split's index.
        file: its name in the annotations.
        image_id: its id in the annotations.
        detail: the values that are wrong.
        box_xywh: the box in pixels, as in the file; None: the whole image.
    """

    split: str
    position: int
    file: str
    image_id: int
    detail: str = ""
    box_xywh: tuple[float, ...] | None = None

    def __str__(self) -> str:
        return f"{self.file} (id {self.image_id}{f': {self.detail}' if self.detail else ''})"


@dataclass
class Finding:
    """One kind of fault in one place.

    Attributes:
        kind: a stable name for programs.
        severity: error: training would suffer; warning: worth mending; note: worth knowing.
        where: the split, or the splits.
        count: how many images, boxes or classes.
        message: what it is.
        way_out: what to do.
        examples: a few of them.
    """

    kind: str
    severity: Severity
    where: str
    count: int
    message: str
    way_out: str
    examples: list[Example] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.kind} ({self.where}: {self.count}): {self.message}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        examples = [
            {
                "split": e.split,
                "file": e.file,
                "image_id": e.image_id,
                "detail": e.detail,
                "box_xywh": None if e.box_xywh is None else list(e.box_xywh),
            }
            for e in self.examples
        ]
        names = ("kind", "severity", "where", "count", "message", "way_out")
        return {**{name: getattr(self, name) for name in names}, "examples": examples}


def severity_by_share(count: int, total: int) -> Severity:
    """Of a fault that costs the images or boxes that have it: an error where they are many."""
    return "error" if count >= HURTING_SHARE * total else "warning"


def image_example(index: DetectionIndex, split: str, i: int, detail: str = "") -> Example:
    """Image `i` as an example."""
    return Example(split, i, index.file_names[i], int(index.image_ids[i]), detail)


def box_example(index: DetectionIndex, split: str, row: int, detail: str = "") -> Example:
    """The annotation in `row` as an example; its class and place are named."""
    i = int(np.searchsorted(index.offsets, row, side="right")) - 1
    box = tuple(round(float(x), 2) for x in index.boxes_xywh[row])
    name = index.class_names[int(index.labels[row])]
    text = f"{name} [{', '.join(f'{x:g}' for x in box)}]{f', {detail}' if detail else ''}"
    return Example(split, i, index.file_names[i], int(index.image_ids[i]), text, box)


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first, otherwise in the order in which they were found."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
