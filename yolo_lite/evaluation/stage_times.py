"""Where the time of scoring goes: waiting for images, the network, suppression."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch

from yolo_lite.data.types import Batch
from yolo_lite.training.module import unmeasured

# The first batches start workers, find algorithms and fill caches.
WARM_UP_BATCHES = 1


class StageTimes(L.Callback):
    """Times the stages of every batch of a validation after the first; where there is one only, that one.

    Stages: `load` (waiting for the loader), `forward` (the network), `nms` (decoding, suppression, back to the original
    image). A device that works by itself is waited for at the end of each, so this is for scoring alone.
    """

    def __init__(self) -> None:
        self._batches: list[dict[str, float]] = []
        self._images: list[int] = []
        self._waiting_since = 0.0

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pl_module.measure_stage = self.measure  # type: ignore[assignment]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pl_module.measure_stage = unmeasured  # type: ignore[assignment]

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._waiting_since = time.perf_counter()

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._batches.append(defaultdict(float, load=time.perf_counter() - self._waiting_since))
        self._images.append(len(batch))

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        self._waiting_since = time.perf_counter()

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time of a block to a stage of the batch under way."""
        started = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._batches[-1][stage] += time.perf_counter() - started

    def milliseconds(self) -> dict[str, float]:
        """Per image, by stage; empty before anything was scored."""
        skip = WARM_UP_BATCHES if len(self._batches) > WARM_UP_BATCHES else 0
        batches, images = self._batches[skip:], sum(self._images[skip:])
        stages = dict.fromkeys(stage for batch in batches for stage in batch)
        return {stage: 1000 * sum(batch[stage] for batch in batches) / images for stage in stages}
