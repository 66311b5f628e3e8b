"""How fast BatchNorm's running statistics follow the weights: they are what validation and every user compute with."""

from __future__ import annotations

from torch import nn

from yolo_lite.models.blocks import NORM_MOMENTUM
from yolo_lite.training.optim import SHORT_RUN_STEPS

# In a run of a few hundred steps the weights change faster than an average over 33 batches follows: on raccoon, after
# 20 epochs of 120, the statistics of the present weights make mAP50-95 0.170 of 0.040 (docs/laboratory.md). In long
# runs the authors' value gives the steadier average.
SHORT_RUN_MOMENTUM = 0.1


def default_norm_momentum(total_steps: float) -> float:
    """The share of a batch in the running statistics that goes with a run of so many optimiser steps."""
    return SHORT_RUN_MOMENTUM if total_steps < SHORT_RUN_STEPS else NORM_MOMENTUM


def set_norm_momentum(model: nn.Module, momentum: float) -> None:
    """Give every BatchNorm of a model this share of a batch in its running statistics."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum
