"""What happens around the steps: accumulation, the guard against NaN, speed, the line per epoch."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from yolo_lite.data.types import Batch
from yolo_lite.training.metrics import COCO_NUMBERS
from yolo_lite.utils.errors import NonFiniteLossError, UserError

log = logging.getLogger(__name__)

CHECKPOINT_SETTINGS: dict[str, Any] = {
    "save_top_k": 1,
    "auto_insert_metric_name": False,
    "enable_version_counter": False,
    # After validation, when the epoch is complete: resuming starts the next one.
    "save_on_train_epoch_end": True,
}


class NominalBatch(L.Callback):
    """Accumulate gradients until about `nominal_batch` images contributed to an optimiser step.

    An explicit `trainer.accumulate_grad_batches` wins.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        given = getattr(trainer, "accumulation_is_given", trainer.accumulate_grad_batches != 1)  # or Lightning's own
        if stage != "fit" or given:
            return
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        images = datamodule.batch_size * trainer.world_size
        trainer.accumulate_grad_batches = max(1, round(pl_module.hparams["nominal_batch"] / images))


class NonFiniteGuard(L.Callback):
    """Stop with a checkpoint when the loss of any process is NaN or infinite, naming the images.

    The loss is looked at one step late: by then it has left the device, and no step waits for it.
    """

    def __init__(self) -> None:
        self._last: tuple[HostCopy, HostCopy, list[int]] | None = None
        self._folder = Path()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._folder = Path(trainer.log_dir or ".") / "checkpoints"  # Lightning broadcasts it: not where only one asks

    def _check(self, trainer: L.Trainer) -> None:
        if self._last is None:
            return
        (everywhere, here, image_ids), self._last = self._last, None
        if not math.isfinite(everywhere.value()):
            path = self._folder / "non_finite.ckpt"
            trainer.save_checkpoint(path)
            images = f"images {image_ids}" if not math.isfinite(here.value()) else "images of another process"
            raise NonFiniteLossError(
                f"the loss is {everywhere.value()} at step {trainer.global_step}, {images}; lower --model.lr, use "
                "--trainer.precision 32-true, or look at these images' boxes, and go on from the last epoch "
                f"({self._folder / 'last.ckpt'}); {path} has the weights at the time, for a look only"
            )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._check(trainer)
        loss = outputs["loss"].detach().float()
        total = loss.clone()
        if trainer.world_size > 1:  # the sum is not finite on any process where one loss is not: all stop together
            dist.all_reduce(total)
        self._last = (HostCopy(total), HostCopy(loss), batch.image_ids.tolist())

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._check(trainer)


class HostCopy:
    """A scalar on its way from the device; only reading it waits, and only for this copy."""

    def __init__(self, scalar: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._host = scalar
        if scalar.is_cuda:
            self._host = torch.empty_like(scalar, device="cpu", pin_memory=True)
            self._host.copy_(scalar, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def value(self) -> float:
        """The number."""
        if self._event is not None:
            self._event.synchronize()
        return self._host.item()


class Speed(L.Callback):
    """Log images per second of the training steps, and the share of the time that they waited for data."""

    def __init__(self) -> None:
        self._images = 0
        self._waited = 0.0
        self._started = 0.0
        self._step_ended = 0.0
        self.images_per_second = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._images, self._waited = 0, 0.0
        self._started = self._step_ended = time.perf_counter()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self._waited += time.perf_counter() - self._step_ended

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._images += len(batch) * trainer.world_size
        self._step_ended = time.perf_counter()
        elapsed = self._step_ended - self._started
        self.images_per_second = self._images / elapsed
        pl_module.log("images_per_second", self.images_per_second, prog_bar=True, logger=False, batch_size=len(batch))
        if batch_idx == trainer.num_training_batches - 1:
            values = {"time/images_per_second": self.images_per_second, "time/data_wait": self._waited / elapsed}
            pl_module.log_dict(values, on_step=False, on_epoch=True, batch_size=len(batch))


class EpochLine(L.Callback):
    """One line per epoch in the log: losses, mAP, speed, remaining time."""

    def __init__(self) -> None:
        self._fit_started = 0.0
        self._first_epoch = 0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._fit_started = time.monotonic()
        self._first_epoch = trainer.current_epoch

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        values = trainer.callback_metrics
        losses = " ".join(f"{n} {float(values[f'train/loss_{n}']):.3f}" for n in ("box", "class", "dfl"))
        total = trainer.max_epochs or 0
        done = trainer.current_epoch + 1
        spent = time.monotonic() - self._fit_started
        left = spent / (done - self._first_epoch) * max(0, total - done)
        score = ""
        if "val/map_50_95" in values:
            score = f"  mAP50-95 {float(values['val/map_50_95']):.4f} mAP50 {float(values['val/map_50']):.4f}"
        speed = next((c.images_per_second for c in trainer.callbacks if isinstance(c, Speed)), 0.0)  # type: ignore[attr-defined]
        log.info("epoch %d/%d  %s%s  %.1f images/s  %s left", done, total, losses, score, speed, clock(left))


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


class BestCheckpoint(ModelCheckpoint):
    """`best.ckpt` by a validation number, in the run's `checkpoints` folder.

    Args:
        monitor: the number, the higher the better.
    """

    def __init__(self, monitor: str = "val/map_50_95") -> None:
        known = [f"val/{name}" for name in COCO_NUMBERS.values()]
        if monitor not in known and not monitor.startswith("val/ap/"):
            raise UserError(f"checkpoint.monitor={monitor}: choose val/ap/CLASS or one of {', '.join(known)}")
        super().__init__(monitor=monitor, mode="max", filename="best", **CHECKPOINT_SETTINGS)


class LastCheckpoint(ModelCheckpoint):
    """`last.ckpt` after every epoch. ModelCheckpoint's `save_last` would renew it only along with the best one."""

    def __init__(self) -> None:
        super().__init__(filename="last", **CHECKPOINT_SETTINGS)


def check_classes(model_names: list[str], data_names: list[str]) -> None:
    """The classes of a model and of data must be the same, in the same order.

    Raises:
        UserError: they are not; the message says how they differ.
    """
    if model_names == data_names:
        return
    if sorted(model_names) == sorted(data_names):
        detail = f"the same classes in another order: model {model_names[:8]}, data {data_names[:8]}"
    else:
        missing = [n for n in data_names if n not in model_names]
        unused = [n for n in model_names if n not in data_names]
        detail = f"only the data has {missing[:5] or 'none'}, only the model has {unused[:5] or 'none'}"
    raise UserError(f"the model has {len(model_names)} classes and the data {len(data_names)}: {detail}")
