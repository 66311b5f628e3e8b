"""Parameter groups, the choice of the optimiser, warm-up and decay per optimiser step."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

OptimizerName = Literal["auto", "sgd", "adamw"]
Schedule = Literal["linear", "cosine"]

# Runs with fewer optimiser steps than this take AdamW, whose step does not depend on the loss's scale.
SHORT_RUN_STEPS = 10_000
SGD_LR = 0.01
# The baseline's authors take 0.002 x 5 / (4 + classes), made for starting from trained weights. From scratch it is too
# little, and with 31 classes hardly anything is learnt; the measurements are in benchmarks/results/lab/recipe.
ADAMW_LR = 0.003
SGD_MOMENTUM = 0.937
ADAMW_BETA = 0.9
WARMUP_MOMENTUM = 0.8
SGD_WARMUP_BIAS_LR = 0.1


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Three groups, named: `weight` (decayed), `norm` and `bias` (not decayed). Fixed parameters are left out."""
    weights, norms, biases = [], [], []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if name == "bias":
                biases.append(parameter)
            elif isinstance(module, nn.modules.batchnorm._BatchNorm):
                norms.append(parameter)
            else:
                weights.append(parameter)
    return [
        {"name": "weight", "params": weights, "weight_decay": weight_decay},
        {"name": "norm", "params": norms, "weight_decay": 0.0},
        {"name": "bias", "params": biases, "weight_decay": 0.0},
    ]


def choose_optimizer(name: OptimizerName, total_steps: float) -> Literal["sgd", "adamw"]:
    """`auto` takes AdamW for short runs and SGD for long ones."""
    if name == "auto":
        return "adamw" if total_steps < SHORT_RUN_STEPS else "sgd"
    return name


def default_lr(name: Literal["sgd", "adamw"]) -> float:
    """The learning rate that the recipe takes when none is given."""
    return SGD_LR if name == "sgd" else ADAMW_LR


def default_momentum(name: Literal["sgd", "adamw"]) -> float:
    """The share of the last step's direction in the next one that the recipe takes when none is given."""
    return SGD_MOMENTUM if name == "sgd" else ADAMW_BETA


def build_optimizer(
    model: nn.Module, name: Literal["sgd", "adamw"], lr: float, momentum: float, weight_decay: float
) -> Optimizer:
    """SGD, in Nesterov's form where there is a momentum, or AdamW, whose first beta it is; its second is 0.999."""
    groups = parameter_groups(model, weight_decay)
    if name == "sgd":
        return SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0)
    # Not fused: Lightning refuses to clip the gradients of a fused optimiser under mixed precision.
    return AdamW(groups, lr=lr, betas=(momentum, 0.999))


class WarmupDecay(LRScheduler):
    """Linear warm-up, then linear or cosine decay, counted in optimiser steps.

    With SGD the biases warm up from above (0.1) and the momentum from 0.8, or from where it ends if that is less;
    everything else starts at 0.

    Args:
        optimizer: its groups carry a `name`.
        total_steps: optimiser steps of the whole run.
        warmup_steps: of those, for warming up.
        final_fraction: the last learning rate, as a share of the first.
        schedule: shape of the decay.
        steps_per_epoch: of this run; where a resumed run has others, its position is moved to the same epoch.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        warmup_steps: int,
        final_fraction: float = 0.01,
        schedule: Schedule = "linear",
        steps_per_epoch: int = 1,
    ) -> None:
        self.total_steps = max(1, total_steps)
        self.steps_per_epoch = steps_per_epoch
        self.warmup_steps = warmup_steps
        self.final_fraction = final_fraction
        self.schedule = schedule
        self.final_momentum = [group.get("momentum") for group in optimizer.param_groups]
        super().__init__(optimizer)
        self._settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]

    def state_dict(self) -> dict[str, int]:
        """The position alone: a resumed run's lengths and rates are those that its own command asks for."""
        counters = {"last_epoch": self.last_epoch, "_step_count": self._step_count}
        return {**counters, "steps_per_epoch": self.steps_per_epoch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go to the position, and undo what the optimiser's checkpoint brought along of the earlier run's settings."""
        self.last_epoch, self._step_count = state_dict["last_epoch"], state_dict["_step_count"]
        before = state_dict["steps_per_epoch"]
        if before != self.steps_per_epoch:  # another batch size or number of processes
            self.last_epoch = round(self.last_epoch * self.steps_per_epoch / before)
        for group, settings in zip(self.optimizer.param_groups, self._settings, strict=True):
            group.update(settings)
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = rate
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def decay(self, step: int) -> float:
        """Factor on the learning rate without the warm-up."""
        progress = min(step / self.total_steps, 1.0)
        remaining = 1 - progress if self.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
        return self.final_fraction + (1 - self.final_fraction) * remaining

    def get_lr(self) -> list[float | Tensor]:
        step = self.last_epoch
        share = min(step / self.warmup_steps, 1.0) if self.warmup_steps else 1.0
        rates: list[float | Tensor] = []
        for group, base, momentum in zip(self.optimizer.param_groups, self.base_lrs, self.final_momentum, strict=True):
            start = SGD_WARMUP_BIAS_LR if group["name"] == "bias" and momentum is not None else 0.0
            rates.append(start + share * (base * self.decay(step) - start))
            if momentum is not None:
                first = min(WARMUP_MOMENTUM, momentum)
                group["momentum"] = first + share * (momentum - first)
        return rates
