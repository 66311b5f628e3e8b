"""Pictures in TensorBoard: training batches as the network sees them, predictions beside the ground truth."""

from __future__ import annotations

from typing import Any

import cv2
import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from yolo_lite.data.types import Batch
from yolo_lite.ops.postprocess import PREDICT_SCORE, Detections
from yolo_lite.utils.errors import UserError

MAX_IMAGES = 8
# Distinct on photographs, readable for the colour-blind (Okabe and Ito), in RGB.
PALETTE = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))


def draw_boxes(
    image: np.ndarray, boxes_xyxy: np.ndarray, labels: np.ndarray, names: list[str], scores: np.ndarray | None = None
) -> np.ndarray:
    """A copy of an (H, W, 3) uint8 RGB image with boxes (N, 4) in its pixels, class names and scores."""
    canvas = image.copy()
    for i, (box, label) in enumerate(zip(boxes_xyxy.round().astype(int).tolist(), labels.tolist(), strict=True)):
        colour = PALETTE[label % len(PALETTE)]
        cv2.rectangle(canvas, tuple(box[:2]), tuple(box[2:]), colour, 1, cv2.LINE_AA)
        text = names[label] if scores is None else f"{names[label]} {scores[i]:.2f}"
        origin = (box[0] + 1, max(9, box[1] - 3))
        cv2.putText(canvas, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.35, (0, 0, 0), 2, cv2.LINE_AA)
        cv2.putText(canvas, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.35, colour, 1, cv2.LINE_AA)
    return canvas


def batch_images(batch: Batch) -> list[np.ndarray]:
    """The first images of a batch as (H, W, 3) uint8 arrays."""
    return list(batch.images[:MAX_IMAGES].permute(0, 2, 3, 1).cpu().numpy())


def draw_truth(batch: Batch, names: list[str]) -> list[np.ndarray]:
    """The first images of a batch with their ground truth."""
    targets = batch.targets
    pictures = []
    for i, image in enumerate(batch_images(batch)):
        mask = targets.mask[i]
        boxes, labels = targets.boxes_xyxy[i][mask].cpu().numpy(), targets.labels[i][mask].cpu().numpy()
        pictures.append(draw_boxes(image, boxes, labels, names))
    return pictures


def draw_detections(batch: Batch, detections: list[Detections], names: list[str]) -> list[np.ndarray]:
    """The first images of a batch with what was found at the prediction threshold."""
    pictures = []
    for image, found, placed in zip(batch_images(batch), detections, batch.letterboxes.numpy(), strict=False):
        keep = (found.scores > PREDICT_SCORE).cpu().numpy()
        scale, offset = np.tile(placed[:2], 2), np.tile(placed[2:], 2)
        boxes = found.boxes_xyxy.cpu().numpy()[keep] * scale + offset
        labels, scores = found.labels.cpu().numpy()[keep], found.scores.cpu().numpy()[keep]
        pictures.append(draw_boxes(image, boxes, labels, names, scores))
    return pictures


def grid(pictures: list[np.ndarray], columns: int = 4) -> np.ndarray:
    """Pictures of one size in rows of `columns`."""
    columns = min(columns, len(pictures))
    missing = -len(pictures) % columns
    pictures = pictures + [np.zeros_like(pictures[0])] * missing
    rows = [np.hstack(pictures[i : i + columns]) for i in range(0, len(pictures), columns)]
    return np.vstack(rows)


class PictureLogger(L.Callback):
    """Pictures to TensorBoard: the first training batch of some epochs, validation predictions over time.

    Args:
        every_n_epochs: predictions every so many epochs, and in the last one.
    """

    def __init__(self, every_n_epochs: int = 10) -> None:
        if every_n_epochs < 1:
            raise UserError(f"pictures.every_n_epochs={every_n_epochs}: give at least 1")
        self.every_n_epochs = every_n_epochs

    def _is_due(self, trainer: L.Trainer) -> bool:
        epoch = trainer.current_epoch
        return trainer.is_global_zero and (epoch % self.every_n_epochs == 0 or epoch + 1 == trainer.max_epochs)

    def _add(self, trainer: L.Trainer, tag: str, pictures: list[np.ndarray]) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                image = torch.from_numpy(grid(pictures))
                logger.experiment.add_image(tag, image, trainer.current_epoch, dataformats="HWC")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        if batch_idx == 0 and self._is_due(trainer):
            self._add(trainer, "train/batch", draw_truth(batch, pl_module.class_names))  # type: ignore[arg-type]

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx == 0 and self._is_due(trainer) and not trainer.sanity_checking:
            names: list[str] = pl_module.class_names  # type: ignore[assignment]
            truth, found = draw_truth(batch, names), draw_detections(batch, outputs["detections"], names)
            pairs = [np.vstack(pair) for pair in zip(truth, found, strict=True)]
            self._add(trainer, "val/truth_above_prediction", pairs)
