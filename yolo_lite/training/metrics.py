"""COCO's 12 numbers and per-class AP, by torchmetrics, exact under any number of processes.

Detections are kept as compact arrays, gathered once per epoch and scored once; ground truth comes from the index, as it
stands in the annotation file.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from yolo_lite.data.index import DetectionIndex
from yolo_lite.ops.postprocess import Detections
from yolo_lite.utils.distributed import gather_on_main, share_from_main, world_size
from yolo_lite.utils.errors import UserError

log = logging.getLogger(__name__)

# torchmetrics' name -> ours, in the order of COCO's table
COCO_NUMBERS = {
    "map": "map_50_95",
    "map_50": "map_50",
    "map_75": "map_75",
    "map_small": "map_small",
    "map_medium": "map_medium",
    "map_large": "map_large",
    "mar_1": "mar_1",
    "mar_10": "mar_10",
    "mar_100": "mar_100",
    "mar_small": "mar_small",
    "mar_medium": "mar_medium",
    "mar_large": "mar_large",
}


@dataclass
class DetectionTable:
    """Detections of many images: one row each.

    Attributes:
        image_ids: (D,) int64.
        boxes_xyxy: (D, 4) float32 in pixels of the original image.
        scores: (D,) float32.
        labels: (D,) int64 class indices.
        seen: int64 ids of all images that were looked at, those without detections included.
    """

    image_ids: np.ndarray
    boxes_xyxy: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    seen: np.ndarray

    def without(self, image_ids: np.ndarray) -> DetectionTable:
        """The rows and images that are not among `image_ids`."""
        rows, images = ~np.isin(self.image_ids, image_ids), ~np.isin(self.seen, image_ids)
        return DetectionTable(
            self.image_ids[rows], self.boxes_xyxy[rows], self.scores[rows], self.labels[rows], self.seen[images]
        )

    @staticmethod
    def concatenate(tables: list[DetectionTable]) -> DetectionTable:
        """Rows of all, in order."""
        names = DetectionTable.__dataclass_fields__
        return DetectionTable(**{name: np.concatenate([getattr(table, name) for table in tables]) for name in names})


@dataclass
class CocoScores:
    """What scoring found.

    Attributes:
        numbers: COCO's 12 numbers by name (`map_50_95`, `map_50`, ...); -1 where there is nothing to score.
        per_class: AP 0.50:0.95 by class name; -1 for classes without ground truth.
        num_images: images scored.
        num_detections: detections scored.
    """

    numbers: dict[str, float]
    per_class: dict[str, float] = field(default_factory=dict)
    num_images: int = 0
    num_detections: int = 0


def format_score(value: float) -> str:
    """Four digits, or a dash where there is no ground truth."""
    return f"{value:.4f}" if value >= 0 else "-"


class CocoMetric:
    """Collects the detections of an epoch on this process."""

    def __init__(self) -> None:
        self._tables: list[DetectionTable] = []

    def reset(self) -> None:
        """Forget everything."""
        self._tables = []

    def update(self, image_ids: Tensor, detections: list[Detections]) -> None:
        """Add the detections of some images, boxes in pixels of the original image."""
        ids = image_ids.cpu().numpy()
        self._tables.append(
            DetectionTable(
                image_ids=np.repeat(ids, [len(d) for d in detections]),
                boxes_xyxy=torch.cat([d.boxes_xyxy for d in detections]).float().cpu().numpy(),
                scores=torch.cat([d.scores for d in detections]).float().cpu().numpy(),
                labels=torch.cat([d.labels for d in detections]).cpu().numpy(),
                seen=ids,
            )
        )

    def table(self) -> DetectionTable:
        """Everything collected on this process."""
        empty = DetectionTable(
            np.zeros(0, np.int64), np.zeros((0, 4), np.float32), np.zeros(0, np.float32), *np.zeros((2, 0), np.int64)
        )
        return DetectionTable.concatenate([empty, *self._tables])

    def compute(self, index: DetectionIndex) -> CocoScores:
        """Score against the ground truth of the images that were looked at; the same result on every process.

        The detections go to rank 0 once, which scores them once and hands the numbers round: a copy of everything on
        every process is what makes torchmetrics slow and hungry there.

        Raises:
            UserError: scoring failed; on every process, for the others wait for its result.
        """
        tables = gather_on_main(self.table())
        outcome: CocoScores | str | None = None
        if tables is not None:
            table = tables[0]
            for other in tables[1:]:
                table = DetectionTable.concatenate([table, other.without(table.seen)])
            if world_size() == 1:
                return score_detections(table, index)
            try:
                outcome = score_detections(table, index)
            except Exception as error:
                log.exception("scoring failed")
                outcome = f"scoring failed on the main process: {error}"
        outcome = share_from_main(outcome)
        if not isinstance(outcome, CocoScores):
            raise UserError(str(outcome))
        return outcome


def score_detections(table: DetectionTable, index: DetectionIndex) -> CocoScores:
    """COCO's evaluation (IoU 0.50:0.95, 100 detections, crowds ignored, areas from the file)."""
    metric = MeanAveragePrecision(
        box_format="xywh",
        iou_type="bbox",
        # torchmetrics makes its defaults in float32, which moves scores by up to 3e-4 against pycocotools.
        iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
        rec_thresholds=np.linspace(0.0, 1.0, 101).tolist(),
        extended_summary=True,
        backend="faster_coco_eval",
        sync_on_compute=False,  # the table is gathered already: every process would add its copy of all images
    )
    metric.warn_on_many_detections = False  # 300 are kept for other uses; COCO scores the best 100
    # The order of rows with equal scores must not depend on the number of processes.
    table_order = np.lexsort((np.arange(len(table.image_ids)), table.image_ids))
    starts = np.searchsorted(table.image_ids[table_order], index.image_ids, side="left")
    ends = np.searchsorted(table.image_ids[table_order], index.image_ids, side="right")
    boxes_xywh = np.concatenate([table.boxes_xyxy[:, :2], table.boxes_xyxy[:, 2:] - table.boxes_xyxy[:, :2]], axis=1)[
        table_order
    ]
    scores, labels = table.scores[table_order], table.labels[table_order]
    seen = np.flatnonzero(np.isin(index.image_ids, table.seen))
    predictions, targets = [], []
    for i in seen:
        rows, truth = slice(starts[i], ends[i]), index.rows(int(i))
        predictions.append(
            {
                "boxes": torch.from_numpy(boxes_xywh[rows]),
                "scores": torch.from_numpy(scores[rows]),
                "labels": torch.from_numpy(labels[rows]),
            }
        )
        targets.append(
            {
                # Copies: torch warns of arrays that cannot be written to, as those of a saved index are.
                "boxes": torch.tensor(index.boxes_xywh[truth]),
                "labels": torch.tensor(index.labels[truth]).long(),
                "iscrowd": torch.tensor(index.is_crowd[truth]).long(),
                "area": torch.tensor(index.areas[truth]),
            }
        )
    if not len(seen):
        return CocoScores(dict.fromkeys(COCO_NUMBERS.values(), -1.0), dict.fromkeys(index.class_names, -1.0))
    metric.update(predictions, targets)
    result = metric.compute()
    per_class = dict.fromkeys(index.class_names, -1.0)
    if "precision" in result:
        # (IoU, recall, class, area, limit): per-class AP from the one evaluation instead of one evaluation per class.
        precision = result["precision"][:, :, :, 0, -1]
        for k, label in enumerate(result["classes"].view(-1).tolist()):
            values = precision[:, :, k]
            valid = values > -1
            per_class[index.class_names[label]] = float(values[valid].mean()) if valid.any() else -1.0
    numbers = {ours: float(result[theirs]) for theirs, ours in COCO_NUMBERS.items()}
    return CocoScores(numbers, per_class, len(seen), len(table.image_ids))
