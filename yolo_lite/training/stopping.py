"""Why a run ends before its time: a signal, a loss that is not a number, a machine that gave out."""

from __future__ import annotations

import logging
import math
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch

from yolo_lite.data.datamodule import DetectionDataModule
from yolo_lite.data.types import Batch
from yolo_lite.utils.distributed import world_size
from yolo_lite.utils.errors import NonFiniteLossError, UserError
from yolo_lite.utils.files import replacing
from yolo_lite.utils.runs import CHECKPOINTS, NON_FINITE_NAME
from yolo_lite.utils.signals import STOP_SIGNALS

log = logging.getLogger(__name__)


class StopSignals(L.Callback):
    """Turn a signal into a request that the next step carries to all processes; `LastCheckpoint` answers it.

    Lightning's own handler talks to the other processes from inside the handler, whatever they are doing at that
    moment, and ends the run without a checkpoint.

    Attributes:
        received: the signal; None while there was none here.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}
        self._module: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._module = pl_module
        try:
            for number in STOP_SIGNALS:
                self._before[number] = signal.signal(number, self._request)
        except ValueError:  # not in the main thread, where Python delivers signals: whoever runs it there handles them
            self._before.clear()

    def _request(self, number: int, frame: Any) -> None:
        name = signal.Signals(number).name
        if self.received == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        self._module.stop_requested = True
        log.info("%s: saving after this step (during validation: after it)", name)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._restore()


class NonFiniteGuard(L.Callback):
    """Stop when the loss of any process is NaN or infinite, before it reaches the weights; when a gradient is, before
    anything of it is saved.

    The loss is looked at after the backward pass was started: it has left the device by then, and while this waits for
    it the device has the backward pass to work on. The gradient's norm is looked at a step late, and before saving:
    waiting for it in its own step would leave the device without work. A loss scaler skips such steps by itself.
    """

    def __init__(self) -> None:
        self._folder = Path()
        self._batch: Batch | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._folder = Path(trainer.log_dir or ".") / CHECKPOINTS  # Lightning broadcasts it: not where only one asks

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self._batch = batch

    def _check_gradient(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Raises:
        NonFiniteLossError: the latest optimiser step had a gradient that is not finite.
        """
        if trainer.precision == "16-mixed" or pl_module.gradient_norm is None:
            return
        (norm,), pl_module.gradient_norm = pl_module.gradient_norm.values(), None
        if not math.isfinite(norm):
            raise NonFiniteLossError(
                f"the norm of the gradient was {norm} in step {trainer.global_step}, though the loss was finite; lower "
                "--model.lr or use --trainer.precision 32-true, and go on with --ckpt_path last, which is from before"
            )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._check_gradient(trainer, pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._check_gradient(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if pl_module.report.stop:  # it will be saved
            self._check_gradient(trainer, pl_module)

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._check_gradient(trainer, pl_module)
        report: Any = pl_module.report
        if report.is_finite:
            return
        checkpoint, saved = self._folder / NON_FINITE_NAME, ""
        trainer.save_checkpoint(checkpoint)
        images = "images of another process"
        if not report.own_is_finite:
            assert self._batch is not None
            suffix = f"_rank{trainer.global_rank}" if trainer.world_size > 1 else ""
            path = self._folder / f"non_finite_batch{suffix}.pt"
            save_batch(self._batch, path)
            images = f"images {self._batch.image_ids.tolist()}"
            saved = f", {path} the batch"
        raise NonFiniteLossError(
            f"the loss ({', '.join(report.names)}) is {report.losses()} at step {trainer.global_step}, {images}; lower "
            "--model.lr, use --trainer.precision 32-true, or look at these images' boxes, and go on with "
            f"--ckpt_path last; {checkpoint} has the weights before that step{saved}"
        )


def save_batch(batch: Batch, path: Path) -> None:
    """A batch as a dictionary of tensors, readable with `torch.load(path, weights_only=True)`."""
    targets = batch.targets
    with replacing(path) as file:
        torch.save(
            {
                "images": batch.images.cpu().contiguous(),
                "image_ids": batch.image_ids,
                "labels": targets.labels.cpu(),
                "boxes_xyxy": targets.boxes_xyxy.cpu(),
                "mask": targets.mask.cpu(),
            },
            file,
        )


DEAD_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)(?: is killed by signal: ([\w ]+))?")
# What gloo, NCCL and the rendezvous say on the processes that are left.
LOST_PROCESS = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "NCCL communicator was aborted",
    "remote process exited",
    "Timed out waiting",
)


@contextmanager
def explaining(data: DetectionDataModule, module: L.LightningModule) -> Iterator[None]:
    """Around a run of the trainer: a failure that is the machine's becomes one line.

    Raises:
        UserError: what `explain` makes of it.
    """
    try:
        yield
    except Exception as error:
        reason = explain(error, data.batch_size, data.image_size, module.device)
        if reason is None:
            raise
        raise reason from error


def explain(error: BaseException, batch_size: int | str, image_size: int, device: torch.device) -> UserError | None:
    """A run's failure that is the machine's and not the code's, in one line; None if it is no such failure.

    Args:
        error: what was raised.
        batch_size, image_size: images per process and step, pixels.
        device: where the model is.
    """
    text = str(error)
    out_of_memory = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in text
    if out_of_memory and "DataLoader worker" not in text:
        return UserError(
            f"out of memory on {device} with {batch_size} images of {image_size} px at once: lower --data.batch_size "
            "(the nominal batch keeps the recipe) or --data.image_size, or let --data.batch_size auto find what fits"
        )
    if dead := DEAD_WORKER.search(text):
        cause = f"was killed by signal {dead[2].strip()}" if dead[2] else "ended unexpectedly"
        if "shared memory" in text or "Bus error" in text:
            advice = "shared memory is full: lower --data.num_workers or use --data.cache none"
        else:
            advice = "mostly the memory ran out: lower --data.num_workers, or use --data.cache none"
        return UserError(f"the loader process {dead[1]} {cause}; {advice}; then go on with --ckpt_path last")
    if world_size() > 1 and isinstance(error, RuntimeError) and any(sign in text for sign in LOST_PROCESS):
        return UserError("another process of this run ended, its own message says why; go on with --ckpt_path last")
    return None
