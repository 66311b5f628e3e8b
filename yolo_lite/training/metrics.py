"""COCO's numbers of an epoch, exact under any number of processes.

Detections are kept as compact arrays, gathered once per epoch and scored once; ground truth comes from the index, as it
stands in the annotation file.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor

from yolo_lite.data.index import DetectionIndex
from yolo_lite.evaluation.coco_scores import CocoScores, score_detections
from yolo_lite.evaluation.detections import DetectionTable
from yolo_lite.ops.postprocess import Detections
from yolo_lite.utils.distributed import gather_on_main, share_from_main, world_size
from yolo_lite.utils.errors import UserError

log = logging.getLogger(__name__)


class CocoMetric:
    """Collects the detections of an epoch on this process.

    Attributes:
        gathered: on rank 0 after `compute`, what was scored: the detections of all processes.
    """

    def __init__(self) -> None:
        self._tables: list[DetectionTable] = []
        self.gathered: DetectionTable | None = None

    def reset(self) -> None:
        """Forget everything."""
        self._tables, self.gathered = [], None

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

        The detections go to rank 0 once, which scores them once and hands the numbers round: no process but that one
        holds more than its own.

        Raises:
            UserError: scoring failed; on every process, for the others wait for its result.
        """
        tables = gather_on_main(self.table())
        outcome: CocoScores | str | None = None
        if tables is not None:
            table = tables[0]
            for other in tables[1:]:
                table = DetectionTable.concatenate([table, other.without(table.seen)])
            self.gathered = table
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
