"""The doctor's fast form, which precedes every training: what two open indices say, and files that both splits have.

It warns and never stops anything: what must stop a run is refused where the splits are opened.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np

from yolo_lite.data.findings import Finding, by_severity
from yolo_lite.data.fingerprints import file_digest, tail_digest
from yolo_lite.data.index import DetectionIndex
from yolo_lite.data.label_checks import box_findings, class_findings
from yolo_lite.utils.distributed import is_main_process

log = logging.getLogger(__name__)

MAX_LINES = 4
# Boxes that cannot be used are counted where the annotations are read.
SAID_ALREADY = ("box-outside", "box-empty", "box-partly-outside")
# Asking for the lengths of so many files is not noticed, even on a network disk.
MAX_SIZED_FILES = 20_000
MAX_NAMED_FILES = 200_000  # whose names are compared in larger sets
MAX_COMPARED = 2_000  # of them, files of the same name
MAX_BOXES = 200_000  # beyond, the boxes of a sample are looked at: all of 30 million take half a minute
SAMPLED_IMAGES = 5_000


def warn_before_training(train: DetectionIndex, val: DetectionIndex, image_size: int, root: Path | None) -> None:
    """At most a few lines, only where something is wrong, on the main process.

    Args:
        train: the opened training split.
        val: the opened validation split.
        image_size: side of the network input, pixels.
        root: the data set, for the command that says more.
    """
    if not is_main_process():
        return
    found = by_severity(finding for finding in quick_findings(train, val, image_size) if finding.severity != "note")
    for finding in found[:MAX_LINES]:
        log.warning("data: %s", finding)
    if found:
        more = f" {len(found) - MAX_LINES} findings more and" if len(found) > MAX_LINES else ""
        where = f" --data.root {shlex.quote(str(root))}" if root is not None else ""
        log.warning("data:%s details: python -m yolo_lite.data.doctor%s", more, where)


def quick_findings(train: DetectionIndex, val: DetectionIndex, image_size: int) -> list[Finding]:
    """What can be found without looking at pictures."""
    found = [*overlap_findings(train, val), *class_findings({"train": train, "val": val})]
    for split, index in (("train", train), ("val", val)):
        where = split
        if len(index.labels) > MAX_BOXES and len(index) > SAMPLED_IMAGES:
            where = f"{split}, {SAMPLED_IMAGES} of its {len(index)} images"
            index = index.select(np.linspace(0, len(index) - 1, SAMPLED_IMAGES).astype(np.int64))
        found += [f for f in box_findings(index, where, image_size) if f.kind not in SAID_ALREADY]
    return found


def overlap_findings(train: DetectionIndex, val: DetectionIndex) -> list[Finding]:
    """Files of val that are in train as well, byte for byte."""
    shared = shared_files(train, val)
    if not shared:
        return []
    message = f"images of val are in train too ({shared[0]}): validation would flatter"
    way_out = "take them out of one of the splits"
    return [Finding("overlap-exact", "error", "train, val", len(shared), message, way_out)]


def shared_files(train: DetectionIndex, val: DetectionIndex) -> list[str]:
    """Names of images of val whose files are in train.

    Up to `MAX_SIZED_FILES`, files of the same length are compared by their ends, then as a whole; of larger sets, only
    files of the same name: asking millions of files for their length takes minutes on a network disk.
    """
    total = len(train) + len(val)
    if total > MAX_NAMED_FILES:
        return []
    limit = MAX_SIZED_FILES if total <= MAX_SIZED_FILES else MAX_COMPARED
    keys = [
        [index.file_names[i] for i in range(len(index))] if total > MAX_SIZED_FILES else file_lengths(index)
        for index in (train, val)
    ]
    common = set(keys[0]) & set(keys[1])
    candidates = [[i for i, key in enumerate(side) if key in common][:limit] for side in keys]
    for digest_of in (tail_digest, file_digest):  # whole files are read only where their ends are the same
        digests = [digest_files(*side, digest_of) for side in zip((train, val), candidates, strict=True)]
        shared = set(digests[0].values()) & set(digests[1].values())
        candidates = [[i for i, value in side.items() if value in shared] for side in digests]
    return [val.file_names[i] for i in candidates[1]]


def file_lengths(index: DetectionIndex) -> list[int]:
    """Bytes of each image file; unique negative numbers where it is gone."""
    lengths = []
    for i in range(len(index)):
        try:
            lengths.append(index.path(i).stat().st_size)
        except OSError:
            lengths.append(-1 - i)
    return lengths


def digest_files(index: DetectionIndex, chosen: list[int], digest_of: Callable[[Path], int]) -> dict[int, int]:
    """Digests of some image files by their positions; those that are gone are left out."""
    found = {}
    for i in chosen:
        try:
            found[i] = digest_of(index.path(i))
        except OSError:
            continue
    return found
