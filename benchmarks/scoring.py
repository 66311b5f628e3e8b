"""Seconds and memory of scoring, ours and torchmetrics' with pycocotools in turn on the same detections.

python benchmarks/scoring.py --rounds 3

The set is drawn: by default 5,000 images with 7 objects each and 100 detections, 80 classes. Times are of one process,
in turn; memory is what scoring adds to the peak of a process of its own. Torchmetrics' lists of dicts are made
beforehand and not counted. Linux only. Ends with 1 where the numbers differ by more than 1e-6.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from yolo_lite.data.index import DetectionIndex, PackedStrings
from yolo_lite.evaluation.detections import DetectionTable

SIDE = 640
# Torchmetrics' names of our numbers.
NAMES = {"map_50_95": "map"}


def draw(images: int, detections: int, classes: int, seed: int) -> tuple[DetectionTable, DetectionIndex]:
    """A third of the detections near objects, some of them of a wrong class; one object in a hundred is a crowd."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(7, images)
    total = int(counts.sum())
    sizes = np.exp(rng.uniform(np.log(8), np.log(300), (total, 2)))
    boxes = np.concatenate([rng.uniform(0, SIDE - sizes), sizes], axis=1).astype(np.float32)
    is_crowd = rng.random(total) < 0.01
    index = DetectionIndex(
        source=Path("drawn.json"),
        image_dir=Path("drawn"),
        class_names=[f"class{c}" for c in range(classes)],
        category_ids=list(range(1, classes + 1)),
        file_names=PackedStrings([f"{i}.jpg" for i in range(images)]),
        image_ids=np.arange(images, dtype=np.int64),
        sizes=np.full((images, 2), SIDE, dtype=np.int32),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes_xywh=boxes,
        labels=rng.integers(0, classes, total).astype(np.int32),
        areas=(sizes.prod(axis=1) * rng.uniform(0.4, 1, total)).astype(np.float32),
        is_crowd=is_crowd,
        is_trainable=~is_crowd,
    )
    owners = np.repeat(np.arange(images), detections)
    near = (rng.random(len(owners)) < 1 / 3) & (counts[owners] > 0)
    picked = np.where(near, index.offsets[owners] + (rng.random(len(owners)) * counts[owners]).astype(np.int64), 0)
    found = index.boxes_xywh[picked]
    found = np.where(near[:, None], found, rng.uniform(1, 300, found.shape))
    found = found + rng.normal(0, 0.1, found.shape) * np.tile(found[:, 2:], 2)
    found[:, 2:] = np.maximum(found[:, 2:], 1)
    is_right = near & (rng.random(len(owners)) < 0.8)
    table = DetectionTable(
        image_ids=index.image_ids[owners],
        boxes_xyxy=np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1).astype(np.float32),
        scores=(rng.random(len(owners)) * np.where(is_right, 1, 0.6)).astype(np.float32),
        labels=np.where(is_right, index.labels[picked], rng.integers(0, classes, len(owners))).astype(np.int64),
        seen=index.image_ids,
    )
    return table, index


def our_scores(table: DetectionTable, index: DetectionIndex) -> Callable[[], dict[str, float]]:
    """COCO's numbers as training gets them."""
    from yolo_lite.evaluation.coco_scores import score_detections

    return lambda: score_detections(table, index).numbers


def our_analysis(table: DetectionTable, index: DetectionIndex) -> Callable[[], dict[str, float]]:
    """The same with everything that eval.py reports."""
    from yolo_lite.evaluation.analysis import analyse

    return lambda: analyse(table, index).coco.numbers


def torchmetrics_scores(table: DetectionTable, index: DetectionIndex) -> Callable[[], dict[str, float]]:
    """Torchmetrics with pycocotools, from the lists that it takes."""
    import torch
    from torchmetrics.detection import MeanAveragePrecision

    metric = MeanAveragePrecision(
        box_format="xywh",
        iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
        rec_thresholds=np.linspace(0.0, 1.0, 101).tolist(),
        backend="pycocotools",
    )
    metric.warn_on_many_detections = False
    boxes = table.boxes_xywh().astype(np.float32)
    cuts = np.searchsorted(table.image_ids, np.arange(len(index) + 1))
    found: list[dict[str, Any]] = []
    truth: list[dict[str, Any]] = []
    for i in range(len(index)):
        rows, objects = slice(cuts[i], cuts[i + 1]), index.rows(i)
        arrays = {"boxes": boxes[rows], "scores": table.scores[rows], "labels": table.labels[rows]}
        found.append({name: torch.from_numpy(array) for name, array in arrays.items()})
        arrays = {
            "boxes": index.boxes_xywh[objects],
            "labels": index.labels[objects].astype(np.int64),
            "iscrowd": index.is_crowd[objects].astype(np.int64),
            "area": index.areas[objects],
        }
        truth.append({name: torch.from_numpy(array) for name, array in arrays.items()})

    def run() -> dict[str, float]:
        metric.reset()
        metric.update(found, truth)
        return {name: float(value) for name, value in metric.compute().items() if value.numel() == 1}

    return run


SCORERS = {"ours": our_scores, "analysis": our_analysis, "torchmetrics": torchmetrics_scores}


def memory_kib(name: str) -> int:
    """A line of /proc/self/status: VmRSS is what is resident, VmHWM the peak of it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


def added_memory(name: str) -> float:
    """MiB that one scoring adds to the peak of a process of its own."""
    command = [sys.executable, *sys.argv, "--once", name]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return float(json.loads(result.stdout.decode().splitlines()[-1])["added_mib"])


def main() -> None:
    """Print a line per run and a last one with the medians, their ratio and the memory, all JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100, help="of an image")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--once", choices=sorted(SCORERS), help="the memory of one scoring, in this process")
    args = parser.parse_args()
    table, index = draw(args.images, args.detections, args.classes, args.seed)
    if args.once:
        run = SCORERS[args.once](table, index)
        Path("/proc/self/clear_refs").write_text("5")  # the peak of the drawing is forgotten
        before = memory_kib("VmRSS")
        run()
        print(json.dumps({"added_mib": round((memory_kib("VmHWM") - before) / 1024, 1)}))
        return
    memory = {name: added_memory(name) for name in SCORERS}
    runs = {name: make(table, index) for name, make in SCORERS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in SCORERS}
    numbers: dict[str, dict[str, float]] = {}
    for number in range(args.rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            numbers[name] = run()
            seconds[name].append(time.perf_counter() - started)
            print(json.dumps({"round": number, name: round(seconds[name][-1], 2)}), flush=True)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    difference = max(abs(v - numbers["torchmetrics"][NAMES.get(name, name)]) for name, v in numbers["ours"].items())
    summary = {
        "seconds": {name: round(value, 2) for name, value in medians.items()},
        "added_mib": memory,
        "ratio": round(medians["torchmetrics"] / medians["ours"], 1),
        "largest_difference": difference,
        "map_50_95": numbers["ours"]["map_50_95"],
    }
    print(json.dumps(summary))
    if difference > 1e-6:
        sys.exit("the numbers differ")


if __name__ == "__main__":
    main()
