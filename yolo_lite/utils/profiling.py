"""What a model costs: parameters, operations, memory, time.

The counts need no weights: on a model that was built under `torch.device("meta")` they take no memory and little time.
"""

from __future__ import annotations

import itertools
import statistics
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

WARM_UP = 3


def count_parameters(model: nn.Module) -> int:
    """All parameters, the head's fixed DFL bins included."""
    return sum(p.numel() for p in model.parameters())


@contextmanager
def scoring(model: nn.Module) -> Iterator[None]:
    """In eval mode and without gradients; afterwards in the mode from before."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def blank_image(model: nn.Module, image_size: int) -> Tensor:
    """(1, 3, S, S) zeros of the model's type, where the model is."""
    parameter = next(model.parameters())
    return torch.zeros(1, 3, image_size, image_size, device=parameter.device, dtype=parameter.dtype)


def count_gflops_by_module(model: nn.Module, image_size: int) -> dict[str, float]:
    """GFLOPs (2 x multiply-accumulate, convolutions only) of one forward pass, image side `image_size` pixels.

    Returns:
        By name of the submodule, "" for the whole model; those with convolutions that were called.
    """
    counter = FlopCounterMode(display=False)
    with scoring(model), counter:
        model(blank_image(model, image_size))
    counts = counter.get_flop_counts()
    prefix = f"{type(model).__name__}."
    gflops = {}
    for name, operations in counts.items():
        if name == "Global" or name.startswith(prefix):
            own = name.removeprefix(prefix) if name != "Global" else ""
            gflops[own] = sum(n for op, n in operations.items() if "convolution" in str(op)) / 1e9
    return gflops


def count_gflops(model: nn.Module, image_size: int) -> float:
    """GFLOPs of one forward pass, see `count_gflops_by_module`."""
    return count_gflops_by_module(model, image_size)[""]


class LiveMemory(TorchDispatchMode):
    """Adds up the memory of the tensors that operations made and that are still in use.

    Attributes:
        bytes: at this moment.
        peak: the most since it was last set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return result

    def add(self, tensor: Tensor) -> None:
        """Count a tensor until its memory is given back; views of what is counted cost nothing."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        self.bytes += storage.nbytes()
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._release, key, storage.nbytes())

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.bytes -= size


def peak_activations(model: nn.Module, image_size: int) -> dict[str, int]:
    """Bytes of the tensors that exist at once in a forward pass of one image without gradients, at most.

    Computed from the sizes of the tensors, the image included, the weights not; what a kernel needs beside its result
    is left out. The same on every device.

    Returns:
        "" for the whole pass, and by name of each direct submodule while it runs.
    """
    memory = LiveMemory()
    peaks: dict[str, int] = {}
    handles = []

    def enter(module: nn.Module, args: Any) -> None:
        memory.peak = memory.bytes

    for name, part in model.named_children():

        def leave(module: nn.Module, args: Any, output: Any, name: str = name) -> None:
            peaks[name] = memory.peak

        handles += [part.register_forward_pre_hook(enter), part.register_forward_hook(leave)]
    try:
        with scoring(model), memory:
            model(blank_image(model, image_size))
    finally:
        for handle in handles:
            handle.remove()
    return {"": max([memory.peak, *peaks.values()]), **peaks}


def median_seconds(model: nn.Module, image_size: int, repeats: int) -> dict[str, float]:
    """Seconds of a forward pass of one image on the CPU: the median of `repeats` after 3 to warm up.

    Returns:
        "" for the whole pass, and by name of each direct submodule, which are called one after the other.
    """
    image = blank_image(model, image_size)
    parts = dict(model.named_children())
    passes = []
    with scoring(model):
        for _ in range(WARM_UP + repeats):
            value: Any = image
            times = [time.perf_counter()]
            for part in parts.values():
                value = part(value)
                times.append(time.perf_counter())
            passes.append([later - earlier for earlier, later in itertools.pairwise(times)])
    measured = passes[WARM_UP:]
    medians = {name: statistics.median(column) for name, column in zip(parts, zip(*measured, strict=True), strict=True)}
    return {"": statistics.median(map(sum, measured)), **medians}
