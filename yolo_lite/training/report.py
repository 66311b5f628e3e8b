"""What every training step says about itself, summed over the processes, on its way to the host."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from yolo_lite.losses.detection import LossItems
from yolo_lite.utils.distributed import sum_over_processes


class HostCopy:
    """A vector on its way from the device; only reading it waits, and only for this copy."""

    def __init__(self, vector: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._host = vector
        if vector.is_cuda:
            self._host = torch.empty_like(vector, device="cpu", pin_memory=True)
            self._host.copy_(vector, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def values(self) -> list[float]:
        """The numbers."""
        if self._event is not None:
            self._event.synchronize()
        return self._host.tolist()


@dataclass
class StepReport:
    """One training step, the same on every process but for `own_is_finite`.

    Attributes:
        names: of the loss's T terms.
        means: (T + 1,) those terms and positives per image, averaged over the images of all processes.
        images: how many those are.
    """

    names: tuple[str, ...]
    means: Tensor
    images: Tensor
    _host: HostCopy

    @staticmethod
    def make(items: LossItems, stop: bool) -> StepReport:
        """Sum what each process has; one message.

        Args:
            items: this process's share of the loss.
            stop: this process was asked to stop.
        """
        terms = items.terms
        own = torch.stack([*terms.values(), items.positives]).detach()
        total = sum_over_processes(torch.cat([own, own.new_full((1,), float(stop))]))
        return StepReport(tuple(terms), total[:-1], items.images, HostCopy(torch.cat([total, own[:-1]])))

    @property
    def positives(self) -> Tensor:
        """Per image."""
        return self.means[-1]

    def losses(self) -> list[float]:
        """The terms. Waits for the forward pass, as do the others."""
        return self._host.values()[: len(self.names)]

    @property
    def is_finite(self) -> bool:
        """No process has a loss that is NaN or infinite."""
        return all(map(math.isfinite, self.losses()))

    @property
    def own_is_finite(self) -> bool:
        """This process has none."""
        return all(map(math.isfinite, self._host.values()[len(self.names) + 2 :]))

    @property
    def stop(self) -> bool:
        """Some process was asked to stop."""
        return self._host.values()[len(self.names) + 1] > 0
