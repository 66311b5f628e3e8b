"""What the processes of a run tell each other. Alone, every function returns what it was given."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Processes that work together; 1 outside of torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main_process() -> bool:
    """This is the process that writes, also before torch.distributed is set up."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum over all processes; stays on the device, nothing waits for it. Carries no gradient."""
    if world_size() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


@torch.no_grad()
def send_from_main(tensors: Iterable[Tensor]) -> None:
    """Give the floating-point tensors the values that rank 0 has, in one message. In place."""
    if world_size() == 1:
        return
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    if not floating:
        return
    flat = torch.cat([tensor.reshape(-1).float() for tensor in floating])
    dist.broadcast(flat, src=0)
    for tensor, values in zip(floating, flat.split([tensor.numel() for tensor in floating]), strict=True):
        tensor.copy_(values.view_as(tensor))


def gather_on_all(value: Any) -> list[Any]:
    """The values of all ranks, in their order, on every rank. Small things only: they are pickled."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def gather_on_main(value: Any) -> list[Any] | None:
    """The values of all ranks, in their order, on rank 0; None on the others."""
    if world_size() == 1:
        return [value]
    values: list[Any] | None = [None] * world_size() if dist.get_rank() == 0 else None
    dist.gather_object(value, values, dst=0)
    return values


def share_from_main(value: Any) -> Any:
    """Rank 0's value on every rank."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]
