"""Exponential moving average of the weights, with a ramp; scored, saved and shipped instead of the raw ones."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
from torch import Tensor

from yolo_lite.utils.distributed import send_from_main
from yolo_lite.utils.errors import UserError

RAW_WEIGHTS = "raw_state_dict"


class WeightEMA(L.Callback):
    """Average after every optimiser step with the decay `decay x (1 - exp(-updates / ramp))`.

    A checkpoint's `state_dict` holds the average (what was scored), its `raw_state_dict` the weights to train on.

    Args:
        decay: final decay.
        ramp: updates after which it has reached 63 %.
    """

    def __init__(self, decay: float = 0.9999, ramp: float = 2000.0) -> None:
        if not 0 <= decay < 1 or not ramp > 0:
            raise UserError(f"ema.decay={decay}, ema.ramp={ramp}: give a decay in [0, 1) and a ramp above 0")
        self.decay = decay
        self.ramp = ramp
        self.updates = 0
        self._step = 0
        self._average: dict[str, Tensor] = {}
        self._raw: dict[str, Tensor] | None = None

    def current_decay(self) -> float:
        """The decay of the latest update."""
        return self.decay * (1 - math.exp(-self.updates / self.ramp))

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._average:  # restored from a checkpoint, before the model moved to its device
            self._average = {name: value.to(pl_module.device) for name, value in self._average.items()}
        else:
            self._average = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._step = trainer.global_step  # not earlier: a resumed run restores its counters after on_fit_start

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:
            return  # still accumulating
        self._step = trainer.global_step
        self.updates += 1
        # BatchNorm statistics come of each process's own images: averaged as they are, every rank would score and save
        # another model.
        send_from_main(pl_module.buffers())
        self.update(pl_module.state_dict())

    @torch.no_grad()
    def update(self, state: dict[str, Tensor]) -> None:
        """Move the average towards `state`."""
        floating = [name for name, value in self._average.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [self._average[name] for name in floating], [state[name] for name in floating], 1 - self.current_decay()
        )
        for name, value in self._average.items():
            if not value.is_floating_point():
                value.copy_(state[name])

    @torch.no_grad()
    def _load(self, pl_module: L.LightningModule, weights: dict[str, Tensor]) -> None:
        for name, value in pl_module.state_dict().items():
            value.copy_(weights[name])

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.updates:  # an average that was never updated is the raw weights
            self._raw = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}
            self._load(pl_module, self._average)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._raw is not None:
            self._load(pl_module, self._raw)
            self._raw = None

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.updates:
            self._load(pl_module, self._average)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if self.updates:
            checkpoint[RAW_WEIGHTS] = self._raw if self._raw is not None else checkpoint["state_dict"]
            checkpoint["state_dict"] = self._average

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        if RAW_WEIGHTS in checkpoint:  # the module holds the average by now
            self._average = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}
            self._load(pl_module, checkpoint[RAW_WEIGHTS])

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.updates = state_dict["updates"]
