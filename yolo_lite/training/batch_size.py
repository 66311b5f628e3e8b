"""`data.batch_size auto`: the most images per process and step that the memory holds.

Tried on copies of the model with noise for images, as crowded as MAX_OBJECTS, before training starts.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import gc
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch

from yolo_lite.data.types import Batch, Targets
from yolo_lite.training.module import DetectionModule, training_loss
from yolo_lite.utils import memory
from yolo_lite.utils.distributed import gather_on_all
from yolo_lite.utils.errors import UserError

log = logging.getLogger(__name__)

# Share of the memory that is not counted on: fragments, the average of the weights, crowded images, other programs.
MARGIN = 0.15
# Objects of each image of the trial; the assignment's tables grow with them.
MAX_OBJECTS = 64
# Images of the step that larger ones are judged by.
SMALL = 8
NO_MEASUREMENT = "data.batch_size=auto needs a GPU, or Linux to measure the memory of a CPU: give a number"


def candidates(nominal_batch: int, processes: int) -> list[int]:
    """Batch sizes per process that make up the nominal batch in whole steps, the largest first.

    More than the nominal batch would change the recipe, and less than a divisor of it leaves steps of uneven sizes.
    """
    share = max(1, nominal_batch // processes)
    return [size for size in range(share, 0, -1) if share % size == 0]


def largest_that_fits(sizes: list[int], fits: Callable[[int], bool]) -> int | None:
    """The first of the falling `sizes` that fits; None if none does."""
    return next((size for size in sizes if fits(size)), None)


class AutoBatchSize(L.Callback):
    """Resolves `auto`; any other batch size is left alone."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        if stage != "fit" or datamodule.batch_size != "auto":
            return
        assert isinstance(pl_module, DetectionModule)
        device = trainer.strategy.root_device
        sizes = candidates(pl_module.hparams["nominal_batch"], trainer.world_size)
        trial = Trial(pl_module, device, trainer.precision_plugin.forward_context)
        own = largest_that_fits(sizes, trial.fits)
        everywhere = gather_on_all(own)  # the device with the least memory decides
        if any(size is None for size in everywhere):
            raise UserError(
                f"not even one image of {pl_module.image_size} px fits into the memory of {device}: lower "
                "--data.image_size or take a smaller --model.variant"
            )
        datamodule.batch_size = min(everywhere)
        if trainer.is_global_zero:
            log.info(
                "batch size %d: %.1f GiB of the %.1f GiB free on %s",
                datamodule.batch_size,
                trial.need(datamodule.batch_size) / 2**30,
                trial.room / 2**30,
                device,
            )


class Trial:
    """Training steps on a copy of a module.

    Args:
        module: stays as it is.
        device: where to train.
        precision: makes the context of the forward pass.
    """

    def __init__(self, module: DetectionModule, device: torch.device, precision: Callable[[], Any]) -> None:
        self.module = module
        self.device = device
        self.precision = precision
        self.room = free_memory(device)
        self._points: dict[int, int] = {}

    def fits(self, size: int) -> bool:
        """A step with so many images leaves the margin. A small step predicts it; a GPU then also tries it."""
        limit = (1 - MARGIN) * self.room
        if self.need(size) > limit:
            return False
        if self.device.type != "cuda":
            return True  # no way back from trying: the system would end the process
        try:
            return self.measured(size) <= limit
        except torch.OutOfMemoryError:
            return False

    def need(self, size: int) -> float:
        """Bytes of a step, in proportion to what a small one took: a little too much, as weights count again."""
        return self.measured(size) if size <= SMALL else self.measured(SMALL) * size / SMALL

    def measured(self, size: int) -> int:
        """Bytes that a step took at its peak."""
        if size not in self._points:
            self._points[size] = self._measure(size)
        return self._points[size]

    def _measure(self, size: int) -> int:
        module = self.module
        model = copy.deepcopy(module.model).to(self.device).train()
        distillation = module.distillation.trial().to(self.device) if module.distillation is not None else None
        optimizer = torch.optim.AdamW(model.parameters())  # two numbers per weight; SGD keeps one
        batch = noise(size, module.image_size, len(module.class_names), self.device)
        try:
            with PeakMemory(self.device) as peak:
                for _ in range(2):  # the optimiser's state is there from the second step on
                    with self.precision():
                        images = batch.images.to(module.dtype) / 255
                        items = training_loss(model, module.loss, distillation, images, batch.targets)
                    items.total.backward()
                    optimizer.step()
                    optimizer.zero_grad()
        finally:
            del model, distillation, optimizer, batch
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        return peak.bytes


def noise(size: int, image_size: int, num_classes: int, device: torch.device) -> Batch:
    """A batch of noise in which every image has MAX_OBJECTS objects."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(size, MAX_OBJECTS, 2, generator=generator) * image_size * 0.8
    side = torch.rand(size, MAX_OBJECTS, 2, generator=generator) * image_size * 0.2
    targets = Targets(
        labels=torch.randint(num_classes, (size, MAX_OBJECTS), generator=generator),
        boxes_xyxy=torch.cat([corner, corner + side], dim=-1),
        mask=torch.ones(size, MAX_OBJECTS, dtype=torch.bool),
    )
    images = torch.randint(256, (size, 3, image_size, image_size), dtype=torch.uint8, generator=generator)
    ids, sizes, letterboxes = torch.arange(size), torch.full((size, 2), image_size), torch.zeros(size, 4)
    batch = Batch(images.contiguous(memory_format=torch.channels_last), targets, ids, sizes, letterboxes)
    return batch.to(device)


class PeakMemory:
    """The most memory that this process held inside the `with` beyond what it held before, in bytes.

    Raises:
        UserError: the system does not tell.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes = 0
        self._before = 0

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)  # the copy of the model counts
        else:
            reset_peak()
            self._before = process_memory("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_reserved(self.device)
        else:
            self.bytes = max(0, process_memory("VmHWM") - self._before)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return memory.free_memory()


def process_memory(name: str) -> int:
    """VmRSS (now) or VmHWM (peak) of this process in bytes."""
    return read_number(Path("/proc/self/status"), f"{name}:") * 1024


def reset_peak() -> None:
    """Let VmHWM start again from now, and give back to the system what is free: memory used again would not show."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        raise UserError(NO_MEASUREMENT) from None


def read_number(path: Path, name: str) -> int:
    """The number in the line of a /proc file that starts with `name`."""
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    raise UserError(NO_MEASUREMENT)
