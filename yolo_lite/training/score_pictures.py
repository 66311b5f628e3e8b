"""What a validation found, in the loggers: curves of precision and recall, and the confusion matrix.

Notation: C classes, S score thresholds.
"""

from __future__ import annotations

from typing import Any

import cv2
import lightning as L
import numpy as np

from yolo_lite.evaluation.analysis import analyse
from yolo_lite.evaluation.curves import Curves
from yolo_lite.evaluation.figures import confusion, precision_recall
from yolo_lite.training.loggers import has_picture_loggers, last_step, log_picture, tensorboards
from yolo_lite.training.pictures import is_due
from yolo_lite.utils.errors import UserError

# Of the 1001 thresholds of the curves every so many: TensorBoard takes them as evenly spaced from 0 to 1.
THRESHOLD_STEP = 10


class ScorePictures(L.Callback):
    """Precision-recall curves, in TensorBoard's PR CURVES and as a figure, and the confusion matrix.

    Args:
        every_n_epochs: every so many epochs, and after the last one: all detections are matched once more.
        max_classes: so many classes, those with the most objects, get a curve of their own in PR CURVES.
    """

    def __init__(self, every_n_epochs: int = 10, max_classes: int = 12) -> None:
        if every_n_epochs < 1:
            raise UserError(f"curves.every_n_epochs={every_n_epochs}: give at least 1")
        if max_classes < 0:
            raise UserError(f"curves.max_classes={max_classes}: give at least 0")
        self.every_n_epochs = every_n_epochs
        self.max_classes = max_classes
        self._is_new = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._is_new = not trainer.sanity_checking
        if self._is_new and is_due(trainer, self.every_n_epochs):
            self.show(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._is_new:  # training ended before its last epoch
            self.show(trainer, pl_module)

    def show(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Analyse what the last validation found; on the main process, which has it all."""
        self._is_new = False
        module: Any = pl_module
        if not trainer.is_global_zero or not has_picture_loggers(trainer) or module.detections is None:
            return
        analysis = analyse(module.detections, module.ground_truth(), module.scores)
        names = [scores.name for scores in analysis.classes]
        for logger in tensorboards(trainer):
            for row, tag in curve_rows(analysis.curves, names, self.max_classes):
                add_curve(logger.experiment, tag, analysis.curves, row, last_step(trainer))
        log_picture(trainer, "val/precision_recall", decode(precision_recall(analysis)), last_step(trainer))
        log_picture(trainer, "val/confusion", decode(confusion(analysis)), last_step(trainer))


def curve_rows(curves: Curves, names: list[str], max_classes: int) -> list[tuple[int, str]]:
    """Row and tag of each curve: all classes together, then those with the most objects; the same in every epoch."""
    order = np.argsort(-curves.num_objects[1:], kind="stable")[:max_classes]
    chosen = sorted(c for c in order.tolist() if curves.num_objects[1 + c])
    return [(0, "pr/all_classes"), *((1 + c, f"pr/class/{names[c]}") for c in chosen)]


def add_curve(writer: Any, tag: str, curves: Curves, row: int, step: int) -> None:
    """One curve to a TensorBoard writer. Nothing counts as a true negative: detection has none."""
    hits, found = curves.hits[row, ::THRESHOLD_STEP], curves.found[row, ::THRESHOLD_STEP]
    missed = curves.num_objects[row] - hits
    precision = np.where(found > 0, hits / np.maximum(found, 1), 1.0)  # where nothing is found the curve ends at 1
    recall = hits / max(int(curves.num_objects[row]), 1)
    writer.add_pr_curve_raw(
        tag, hits, found - hits, np.zeros_like(hits), missed, precision, recall, step, num_thresholds=len(hits)
    )


def decode(png: bytes) -> np.ndarray:
    """A PNG file as (H, W, 3) uint8 RGB."""
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return np.ascontiguousarray(picture[..., ::-1])
