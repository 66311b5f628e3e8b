"""What a model costs: parameters and operations."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """All parameters, the head's fixed DFL bins included."""
    return sum(p.numel() for p in model.parameters())


def count_gflops(model: nn.Module, image_size: int) -> float:
    """GFLOPs (2 x multiply-accumulate, convolutions only) of one forward pass, image side `image_size` pixels."""
    parameter = next(model.parameters())
    image = torch.zeros(1, 3, image_size, image_size, device=parameter.device, dtype=parameter.dtype)
    was_training = model.training
    model.eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(image)
    model.train(was_training)
    operations = counter.get_flop_counts()["Global"]
    return sum(n for op, n in operations.items() if "convolution" in str(op)) / 1e9
