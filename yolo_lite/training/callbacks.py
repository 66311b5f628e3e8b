"""What happens around the steps: accumulation, means, speed, the line per epoch."""

from __future__ import annotations

import logging
import math
import sys
import time
from typing import Any

import lightning as L
import torch
from torch import Tensor

from yolo_lite.data.datamodule import planned_epochs
from yolo_lite.data.types import Batch
from yolo_lite.losses.detection import TERMS
from yolo_lite.utils.console import clock
from yolo_lite.utils.distributed import gather_on_all
from yolo_lite.utils.errors import UserError

log = logging.getLogger(__name__)

# Share of the training time; the first epoch, which fills the cache, is not judged.
MUCH_WAITING = 0.3
GIB = 2**30


class NominalBatch(L.Callback):
    """Accumulate gradients until about `nominal_batch` images contributed to an optimiser step.

    An explicit `trainer.accumulate_grad_batches` wins.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        given = getattr(trainer, "accumulation_is_given", trainer.accumulate_grad_batches != 1)  # or Lightning's own
        if stage != "fit" or given:
            return
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        images = datamodule.images_per_batch * trainer.world_size
        trainer.accumulate_grad_batches = max(1, round(pl_module.hparams["nominal_batch"] / images))


class LogInterval(L.Callback):
    """Log the losses of one step in an epoch at least, where an epoch has fewer steps than the trainer's interval."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        steps = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        # Lightning's own name for the interval; it compares it with the steps done so far.
        trainer.log_every_n_steps = max(1, min(trainer.log_every_n_steps, steps))  # type: ignore[attr-defined]


class SameEverywhere(L.Callback):
    """Refuse to start where the processes of a run were given different things, before they wait for each other.

    Args:
        facts: what must agree, by the name that the message calls it.
    """

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        everywhere = gather_on_all(self.facts)
        for name, value in self.facts.items():
            values = [facts.get(name) for facts in everywhere]
            if any(other != values[0] for other in values):
                rank = next(i for i, other in enumerate(values) if other != values[0])
                raise UserError(
                    f"the processes of this run disagree about the {name}: {values[0]} on rank 0, {values[rank]} on "
                    f"rank {rank} (this is rank {trainer.global_rank}, with {value}); data and run folder must be on a "
                    "disk that all nodes see"
                )


class EpochMeans(L.Callback):
    """The epoch's mean losses, over the images of all processes; of an epoch in two pieces too."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None
        self._restored: list[float] | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._restored is not None:
            self._sums, self._restored = torch.tensor(self._restored, device=pl_module.device), None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        report: Any = pl_module.report
        values = torch.cat([report.means * report.images, report.images.reshape(1)])
        self._sums = values if self._sums is None else self._sums + values

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._sums is None:
            return
        names = TERMS[: len(self._sums) - 2]  # behind them positives and images; a teacher's term is the last or none
        means = self._sums[: len(names)] / self._sums[-1]
        self._sums = None
        pl_module.log_dict({f"train/loss_{name}_epoch": mean for name, mean in zip(names, means, strict=True)})

    def state_dict(self) -> dict[str, Any]:
        return {"sums": None if self._sums is None else self._sums.tolist()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict["sums"]


class PositivesWatch(L.Callback):
    """One warning where there are objects to learn from and a whole epoch assigned not one anchor to any of them."""

    def __init__(self) -> None:
        self._positives: Tensor | None = None
        self._has_warned = False

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        report: Any = pl_module.report
        positives = report.positives
        self._positives = positives if self._positives is None else self._positives + positives

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        positives, self._positives = self._positives, None
        if positives is None or self._has_warned or not trainer.is_global_zero or float(positives) > 0:
            return
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        objects = int(datamodule.index("train").is_trainable.sum())  # augmentation drops what it makes too small
        if objects:
            self._has_warned = True
            log.warning(
                "epoch %d: no anchor matched any of the %d objects, so that nothing is learnt about boxes: see what is "
                "wrong with them by python -m yolo_lite.data.doctor with the same --data arguments",
                trainer.current_epoch + 1,
                objects,
            )


class Speed(L.Callback):
    """Log images per second of the training steps, and the share of the time that they waited for data."""

    def __init__(self) -> None:
        self._images = 0
        self._waited = 0.0
        self._started = 0.0
        self._step_ended = 0.0
        self._has_advised = False
        self.images_per_second = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start()  # an epoch that goes on after a stop does not start again

    def _start(self) -> None:
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
            waited = self._waited / elapsed
            values = {"time/images_per_second": self.images_per_second, "time/data_wait": waited}
            if waited > MUCH_WAITING and trainer.current_epoch > 0 and not self._has_advised:
                self._has_advised = True
                log.warning(
                    "%.0f %% of the time goes into waiting for data: --data.cache ram or disk, more "
                    "--data.num_workers, or images that are stored smaller",
                    100 * waited,
                )
            pl_module.log_dict(values, on_step=False, on_epoch=True, batch_size=len(batch))


class Memory(L.Callback):
    """Log the most memory that was in use at once: of this process, and of its device while training."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)  # of the search for a batch size

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        values = {}
        if (process := peak_of_process()) is not None:
            values["memory/process_gib"] = process / GIB
        if pl_module.device.type == "cuda":
            values["memory/device_gib"] = torch.cuda.max_memory_allocated(pl_module.device) / GIB
        pl_module.log_dict(values)


def peak_of_process() -> int | None:
    """Bytes of this process, at most; None on Windows, which tells no such number."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class EpochLine(L.Callback):
    """One line per epoch in the log: losses, mAP, speed, remaining time."""

    def __init__(self) -> None:
        self._started = 0.0
        self._first_epoch = 0
        self._scored_epoch = -1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._started = time.monotonic()
        self._first_epoch = trainer.current_epoch  # not known earlier where a run goes on

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._scored_epoch = trainer.current_epoch

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        values = trainer.callback_metrics
        losses = " ".join(f"{n} {float(values[key]):.3f}" for n in TERMS if (key := f"train/loss_{n}_epoch") in values)
        done = trainer.current_epoch + 1
        total = max(done, planned_epochs(trainer, max(1, trainer.global_step // done)))
        spent = time.monotonic() - self._started
        left = spent / (done - self._first_epoch) * max(0, total - done)
        score = ""
        if "val/map_50_95" in values and self._scored_epoch == trainer.current_epoch:  # Lightning keeps the last ones
            score = f"  mAP50-95 {float(values['val/map_50_95']):.4f} mAP50 {float(values['val/map_50']):.4f}"
        speed = next((c.images_per_second for c in trainer.callbacks if isinstance(c, Speed)), 0.0)  # type: ignore[attr-defined]
        log.info("epoch %d/%d  %s%s  %.1f images/s  %s left", done, total, losses, score, speed, clock(left))
