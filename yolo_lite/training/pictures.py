"""Pictures in the loggers: training batches as the network sees them, predictions below the ground truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import lightning as L
import numpy as np

from yolo_lite.data.types import Batch
from yolo_lite.ops.postprocess import PREDICT_SCORE, Detections
from yolo_lite.training.loggers import has_picture_loggers, last_step, log_picture
from yolo_lite.utils.distributed import gather_on_main
from yolo_lite.utils.drawing import draw_detections
from yolo_lite.utils.errors import UserError

# Longer side of a drawn image, pixels: smaller ones are enlarged, for names would cover them; larger ones would make
# event files of hundreds of megabytes.
SMALLEST, LARGEST = 320, 480
GAP = 4  # pixels between the pictures of a grid


def draw_boxes(
    image: np.ndarray, boxes_xyxy: np.ndarray, labels: np.ndarray, names: list[str], scores: np.ndarray | None = None
) -> np.ndarray:
    """An (H, W, 3) uint8 RGB image at a readable size with boxes (N, 4) in its pixels, class names and scores."""
    longest = max(image.shape[:2])
    scale = min(max(longest, SMALLEST), LARGEST) / longest
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    canvas = cv2.resize(image, size, interpolation=interpolation) if scale != 1 else image
    return draw_detections(canvas, boxes_xyxy * scale, labels, names, scores)


def image_of(batch: Batch, i: int) -> np.ndarray:
    """Image i of a batch as an (H, W, 3) uint8 array."""
    return np.ascontiguousarray(batch.images[i].permute(1, 2, 0).cpu().numpy())


def draw_truth(batch: Batch, i: int, names: list[str]) -> np.ndarray:
    """Image i of a batch with its ground truth."""
    targets = batch.targets
    mask = targets.mask[i]
    boxes, labels = targets.boxes_xyxy[i][mask].cpu().numpy(), targets.labels[i][mask].cpu().numpy()
    return draw_boxes(image_of(batch, i), boxes, labels, names)


def draw_found(batch: Batch, i: int, found: Detections, names: list[str]) -> np.ndarray:
    """Image i of a batch with what was found at the prediction threshold."""
    placed = batch.letterboxes[i].numpy()
    keep = (found.scores > PREDICT_SCORE).cpu().numpy()
    scale, offset = np.tile(placed[:2], 2), np.tile(placed[2:], 2)
    boxes = found.boxes_xyxy.cpu().numpy()[keep] * scale + offset
    labels, scores = found.labels.cpu().numpy()[keep], found.scores.cpu().numpy()[keep]
    return draw_boxes(image_of(batch, i), boxes, labels, names, scores)


def grid(pictures: list[np.ndarray], columns: int = 4) -> np.ndarray:
    """Pictures in rows of `columns`, each in a cell of the largest one's size, white between them."""
    columns = min(columns, len(pictures))
    height, width = (max(picture.shape[axis] for picture in pictures) + GAP for axis in (0, 1))
    rows = -(-len(pictures) // columns)
    canvas = np.full((rows * height - GAP, columns * width - GAP, 3), 255, dtype=np.uint8)
    for k, picture in enumerate(pictures):
        y, x = k // columns * height, k % columns * width
        canvas[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return canvas


@dataclass
class Shown:
    """A validation image that is shown.

    Attributes:
        rank: its place in the drawn order; unlike everything else the same in every run.
        batch: it alone, on the CPU.
        found: what was found on it, in pixels of the original image.
    """

    rank: int
    batch: Batch
    found: Detections

    def draw(self, names: list[str]) -> np.ndarray:
        """Ground truth above prediction."""
        pair = (draw_truth(self.batch, 0, names), draw_found(self.batch, 0, self.found, names))
        return np.vstack(pair)


def one_of(batch: Batch, i: int) -> Batch:
    """Image i of a batch as a batch of its own, on the CPU; a copy, for loaders use their memory again."""
    targets, part = batch.targets, slice(i, i + 1)
    alone = type(targets)(*(x[part].clone() for x in (targets.labels, targets.boxes_xyxy, targets.mask)))
    images, identity = batch.images[part].clone(), (batch.image_ids, batch.original_sizes, batch.letterboxes)
    return Batch(images, alone, *(x[part].clone() for x in identity)).to("cpu")


class PictureLogger(L.Callback):
    """Pictures to the loggers that take them: training batches, and the same validation images over time.

    Args:
        every_n_epochs: every so many epochs, and after the last one.
        num_images: how many of a batch and of the validation images.
        seed: draws the validation images; a setting of its own, so that runs of different seeds show the same ones.
    """

    def __init__(self, every_n_epochs: int = 10, num_images: int = 8, seed: int = 0) -> None:
        if every_n_epochs < 1:
            raise UserError(f"pictures.every_n_epochs={every_n_epochs}: give at least 1")
        if num_images < 1:
            raise UserError(f"pictures.num_images={num_images}: give at least 1")
        if seed < 0:
            raise UserError(f"pictures.seed={seed}: give at least 0")
        self.every_n_epochs = every_n_epochs
        self.num_images = num_images
        self.seed = seed
        self._ranks: dict[int, int] = {}
        self._shown: list[Shown] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._ranks, self._shown = {}, []

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        if batch_idx or not trainer.is_global_zero or not has_picture_loggers(trainer):
            return
        if is_due(trainer, self.every_n_epochs):
            names: list[str] = pl_module.class_names  # type: ignore[assignment]
            pictures = [draw_truth(batch, i, names) for i in range(min(self.num_images, len(batch)))]
            log_picture(trainer, "train/batch", grid(pictures), trainer.global_step)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._shown = []
        if not self._ranks:
            ids = trainer.datamodule.eval_index.image_ids  # type: ignore[attr-defined]
            order = np.random.default_rng(self.seed).permutation(len(ids))
            self._ranks = dict(zip(ids[order].tolist(), range(len(ids)), strict=True))

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the images that come first in the drawn order, of those that are looked at."""
        if trainer.sanity_checking or not has_picture_loggers(trainer):
            return
        for i, image_id in enumerate(batch.image_ids.tolist()):
            rank = self._ranks[image_id]
            if len(self._shown) == self.num_images:
                if rank > self._shown[-1].rank:
                    continue
                self._shown.pop()
            found = outputs["detections"][i]
            alone = Detections(found.boxes_xyxy.cpu(), found.scores.cpu(), found.labels.cpu())
            self._shown.append(Shown(rank, one_of(batch, i), alone))
            self._shown.sort(key=lambda shown: shown.rank)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking and is_due(trainer, self.every_n_epochs):
            self.show(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.show(trainer, pl_module)  # where training ended before its last epoch

    def show(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw what the last validation found, once."""
        if not has_picture_loggers(trainer):
            return
        everywhere, self._shown = gather_on_main(self._shown), []
        if everywhere is None:
            return
        # A rank that ran out of images may have looked at another one's once more.
        shown = {image.rank: image for images in everywhere for image in images}
        names: list[str] = pl_module.class_names  # type: ignore[assignment]
        pictures = [shown[rank].draw(names) for rank in sorted(shown)[: self.num_images]]
        if pictures:
            log_picture(trainer, "val/truth_above_prediction", grid(pictures), last_step(trainer))


def is_due(trainer: L.Trainer, every_n_epochs: int) -> bool:
    """This epoch is one of every so many, or the last one."""
    epoch = trainer.current_epoch
    return epoch % every_n_epochs == 0 or epoch + 1 == trainer.max_epochs
