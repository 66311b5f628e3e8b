"""The progress bar: epoch, losses, images per second."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar

from yolo_lite.losses.detection import TERMS


class ProgressBar(RichProgressBar):
    """Lightning's bar with the short names of what matters."""

    def __init__(self) -> None:
        super().__init__(leave=False)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """The losses of the step and the speed."""
        values = trainer.progress_bar_metrics
        shown = {name: f"{values[key]:.3f}" for name in TERMS if (key := f"train/loss_{name}") in values}
        if "images_per_second" in values:
            shown["images/s"] = f"{values['images_per_second']:.1f}"
        return shown
