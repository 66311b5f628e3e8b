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

# The baseline's authors average over 10,000 updates at the end, a hundredth of their 500 epochs of COCO, after a ramp
# of 2,000. A run of a few hundred updates would be over before such an average has begun.
LONGEST_WINDOW = 10_000
WINDOW_SHARE = 0.08
RAMP_SHARE = 0.2


def averaging_window(total_steps: float) -> float:
    """Updates that the average looks back on at the end of a run of so many optimiser steps."""
    return min(max(WINDOW_SHARE * total_steps, 1.0), LONGEST_WINDOW)


class WeightEMA(L.Callback):
    """Average after every optimiser step with the decay `decay x (1 - exp(-updates / ramp))`.

    A checkpoint's `state_dict` holds the average (what was scored), its `raw_state_dict` the weights to train on.

    Args:
        decay: final decay; None: what averages over 8 % of the run's optimiser steps, at most 0.9999.
        ramp: updates after which it has reached 63 %; None: a fifth of those that the final decay averages over.
    """

    def __init__(self, decay: float | None = None, ramp: float | None = None) -> None:
        if (decay is not None and not 0 <= decay < 1) or (ramp is not None and not ramp > 0):
            raise UserError(f"ema.decay={decay}, ema.ramp={ramp}: give a decay in [0, 1) and a ramp above 0")
        self.decay = decay
        self.ramp = ramp
        self.final_decay, self.ramp_updates = self.constants(math.inf)  # of a long run, until ours is known
        self.updates = 0
        self._step = 0
        self._average: dict[str, Tensor] = {}
        self._raw: dict[str, Tensor] | None = None

    def constants(self, total_steps: float) -> tuple[float, float]:
        """Final decay and ramp for a run of so many optimiser steps: what was given, else what goes with its length."""
        decay = 1 - 1 / averaging_window(total_steps) if self.decay is None else self.decay
        return decay, RAMP_SHARE / (1 - decay) if self.ramp is None else self.ramp

    def current_decay(self) -> float:
        """The decay of the latest update."""
        return self.final_decay * (1 - math.exp(-self.updates / self.ramp_updates))

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._average:  # restored from a checkpoint, before the model moved to its device
            self._average = {name: value.to(pl_module.device) for name, value in self._average.items()}
        else:
            self._average = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._step = trainer.global_step  # not earlier: a resumed run restores its counters after on_fit_start
        self.final_decay, self.ramp_updates = self.constants(trainer.estimated_stepping_batches)

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
